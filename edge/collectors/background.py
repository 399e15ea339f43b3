"""Collectors of slow sources: read on a thread of their own at their own pace; a scrape takes what is there."""

import threading
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from common.clock import Clock
from common.errors import BrambleError
from common.sample import Millis
from edge.collectors.base import Collector, NoDataError, NoOptions, Paths, Reading, Skip

FIRST_WAIT_SECONDS = 0.3
"""How long the very first scrape waits for the very first reading."""

MAX_SKIPS = 1024


@dataclass(frozen=True, slots=True)
class Round:
    """What one round of reading gave, and when it ended (wall milliseconds, monotonic seconds)."""

    number: int
    timestamp: Millis
    monotonic: float
    readings: list[Reading]
    skipped: list[tuple[str, Exception]]
    error: Exception | None


class BackgroundCollector(Collector):
    """A collector whose `read` may take long: it runs every `interval` seconds on its own daemon thread.

    Its rounds are a lane of their own: `latest` gives each with the time it was read at. A round that hangs ends
    the lane's news, not the scrape; after `stale_after` seconds without a round there is no reading any more.
    """

    own_lane: ClassVar[bool] = True
    """Whether its rounds are stored as a lane of their own; else they are sampled like all others."""

    interval: float = 60.0
    stale_rounds: float = 3.0

    def __init__(self, paths: Paths, options: Any, clock: Clock) -> None:
        self._latest: Round | None = None
        self._told = 0
        self._lock = threading.Lock()
        self._first = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._asked = False
        super().__init__(paths, options, clock)

    @abstractmethod
    def read(self, skip: Skip) -> list[Reading]:
        """All readings of now; may take long. Raises as `Collector.collect` does."""

    @property
    def stale_after(self) -> float:
        """Seconds after which the last round is too old to show."""
        return max(self.interval * self.stale_rounds, 10.0)

    def start(self) -> None:
        """Start reading; does nothing if it runs already."""
        with self._lock:
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(target=self._run, name=f"collector {self.name}", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Stop reading; waits a moment for a round in progress, then leaves it behind."""
        self._stop.set()
        thread = self._thread
        if thread is not None:
            thread.join(2.0)

    def latest(self) -> Round | None:
        """The last round, or None before the first one or after `stale_after`."""
        with self._lock:
            if self._latest is None or self.clock.monotonic() - self._latest.monotonic > self.stale_after:
                return None
            return self._latest

    def collect(self, skip: Skip) -> list[Reading]:
        self.start()
        if not self._asked:
            self._asked = True
            self._first.wait(FIRST_WAIT_SECONDS)
        latest = self.latest()
        if latest is None:
            raise NoDataError("no round of readings yet" if self._latest is None else "the last round is too old")
        if latest.number != self._told:
            self._told = latest.number
            for what, error in latest.skipped:
                skip(what, error)
        if latest.error is not None:
            # Raised again and again, the same exception would grow a traceback that keeps every scrape alive.
            raise latest.error.with_traceback(None)
        return latest.readings

    def round(self) -> Round:
        """Read once, now, on the calling thread, and remember the outcome."""
        skipped: list[tuple[str, Exception]] = []

        def skip(what: str, error: Exception) -> None:
            if len(skipped) < MAX_SKIPS:
                skipped.append((what, error))

        readings: list[Reading] = []
        error: Exception | None = None
        try:
            readings = self.read(skip)
        except (BrambleError, OSError) as err:
            error = err
        except Exception as err:  # noqa: BLE001 - the runner reports it as this collector's failure
            error = err
        with self._lock:
            number = 1 if self._latest is None else self._latest.number + 1
            self._latest = Round(number, self.clock.now(), self.clock.monotonic(), readings, skipped, error)
            self._first.set()
            return self._latest

    def _run(self) -> None:
        while not self._stop.is_set():
            self.round()
            self._stop.wait(self.interval)


class SlowPart(BackgroundCollector):
    """A part of another collector that turned out to be slow; `read_part` does the reading."""

    name = "part"

    def __init__(self, name: str, read_part: Callable[[Skip], list[Reading]], interval: float, clock: Clock) -> None:
        super().__init__(Paths(), NoOptions(), clock)
        self.name = name  # type: ignore[misc]  # one class serves all parts
        self.interval = interval
        self._read_part = read_part

    def read(self, skip: Skip) -> list[Reading]:
        return self._read_part(skip)
