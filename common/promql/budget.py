"""What a query may use: samples in memory, time, and whether anybody still waits for it."""

from collections.abc import Callable

from common.clock import Clock
from common.errors import QueryCanceledError, QueryLimitError, QueryTimeoutError


class QueryBudget:
    """Counts samples and cells a query holds, and checks deadline and cancellation; implements tsdb's Budget."""

    def __init__(
        self,
        max_samples: int,
        clock: Clock | None = None,
        timeout: float | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> None:
        """`timeout` in seconds needs a `clock`; `cancel` answers whether the query was given up."""
        self._max = max_samples
        self._clock = clock
        self._timeout = timeout
        self._deadline = None if clock is None or timeout is None else clock.monotonic() + timeout
        self._cancel = cancel
        self._held = 0
        self._reading = 0
        self.peak = 0
        self.read = 0

    def charge(self, samples: int) -> None:
        """Count samples that storage read into the batch in hand; see `release_batch`."""
        self.read += samples
        self._reading += samples
        self._check()

    def release_batch(self) -> None:
        """The samples charged so far were used up and are in memory no longer."""
        self._reading = 0
        self.check()

    def hold(self, cells: int) -> None:
        """Count cells of results that stay in memory."""
        self._held += cells
        self._check()

    @property
    def held(self) -> int:
        """Cells of results in memory now."""
        return self._held

    def settle(self, before: int, cells: int) -> None:
        """An expression is evaluated: of what was held since `before` only its result of so many cells remains."""
        self._held = before
        self.hold(cells)

    def check(self) -> None:
        """Raise QueryTimeoutError after the deadline, QueryCanceledError if nobody waits any more."""
        if self._cancel is not None and self._cancel():
            raise QueryCanceledError("query was canceled in expression evaluation")
        if self._deadline is not None and self._clock is not None and self._clock.monotonic() > self._deadline:
            raise QueryTimeoutError("query timed out in expression evaluation")

    def _check(self) -> None:
        used = self._held + self._reading
        self.peak = max(self.peak, used)
        if used > self._max:
            raise QueryLimitError(
                "query processing would load too many samples into memory in query execution"
                f" (--query.max-samples={self._max})"
            )
        self.check()
