"""How much more samples may take in memory, without counting all of them at each append."""

from collections.abc import Callable

from common.clock import Clock

_PATIENCE = 1.0
"""Seconds between two counts while there is no room."""


class Room:
    """What is left of `limit` bytes (0: no limit) that `measure()`, which is slow, says are taken. The caller locks."""

    def __init__(self, limit: int, clock: Clock, measure: Callable[[], int]) -> None:
        self._limit = limit
        self._clock = clock
        self._measure = measure
        self._left = 0
        self._next = 0.0

    def take(self, size: int) -> bool:
        """Whether that many bytes more fit, by an estimate that errs towards no until it is near the limit."""
        if not self._limit:
            return True
        self._left -= size
        if self._left < 0 and self._clock.monotonic() >= self._next:
            self._left = self._limit - self._measure() - size
            self._next = self._clock.monotonic() + _PATIENCE
        return self._left >= 0

    def changed(self) -> None:
        """Memory was freed: the next `take` that doesn't fit counts anew."""
        self._next = 0.0
