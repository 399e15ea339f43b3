"""Lanes of slow sensors: a slot for each round of a background collector, stamped with when it was read."""

from common.clock import Clock
from common.sample import Millis
from edge.collectors.background import BackgroundCollector
from edge.collectors.runner import CollectorResult
from edge.rows import RowTable, Slot


class SlowLane:
    """One background collector's lane of the log; used by the sampler's thread only."""

    def __init__(self, number: int, collector: BackgroundCollector, clock: Clock) -> None:
        """`number` is the lane's in the log, from 1."""
        self.number = number
        self.name = collector.name
        self.table = RowTable()
        self._collector = collector
        self._clock = clock
        self._taken = 0
        self._last: Millis | None = None
        self._empty = True

    def take(self, now: Millis) -> tuple[Millis, Slot] | None:
        """Time and slot of a round that was not taken yet; when readings end, one slot that marks them stale.

        `now` is the log's time of this moment; a round's own is as much earlier as it is old.
        """
        latest = self._collector.latest()
        if latest is None or latest.error is not None:
            if self._empty:
                return None
            self._empty = True
            return self._stamp(now, now), self.table.update([CollectorResult(self.name, True, 0.0, [])])
        if latest.number == self._taken:
            return None
        self._taken = latest.number
        self._empty = not latest.readings
        age = max(0.0, self._clock.monotonic() - latest.monotonic)
        slot = self.table.update([CollectorResult(self.name, True, 0.0, latest.readings)])
        return self._stamp(Millis(now - round(age * 1000)), now), slot

    def _stamp(self, timestamp: Millis, now: Millis) -> Millis:
        """`timestamp`, but after the last one unless the clock itself was set back."""
        if self._last is not None and timestamp <= self._last < now:
            timestamp = Millis(self._last + 1)
        self._last = timestamp
        return timestamp
