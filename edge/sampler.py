"""When to read the collectors, and with what time stamp: aligned ticks, one slot of the log each."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from common.clock import Clock
from common.errors import LimitError, StorageError
from common.logs import EventLog
from common.sample import Millis
from common.supervisor import Heartbeats
from edge.collectors.runner import CollectorResult
from edge.lanes import SlowLane
from edge.log import Log
from edge.metrics import EdgeMetrics
from edge.rows import RowTable, Slot
from edge.timekeeper import Stamp

LANE = 0
"""The lane of everything that is read at the sampling interval."""

_log = EventLog("sampler")


@dataclass(frozen=True, slots=True)
class Latest:
    """The last slot that was stored."""

    timestamp: Millis
    slot: Slot
    lanes: tuple["Latest", ...] = ()
    """The last slots of the lanes of slow sensors."""


def next_tick(now: Millis, interval: int) -> Millis:
    """The first multiple of `interval` (ms) after `now`: all agents with synchronised clocks read together."""
    return Millis((now // interval + 1) * interval)


def stamp(due: Millis, now: Millis, interval: int) -> Millis:
    """`due` if `now` is at most 1 % of the interval (100 ms) later, else `now`: equal steps compress best."""
    return due if 0 <= now - due <= min(interval // 100 + 5, 100) else now


class Sampler:
    """A service that appends one slot to the log at every tick."""

    name = "sampler"

    def __init__(
        self,
        collect: Callable[[], Sequence[CollectorResult]],
        log: Log,
        clock: Clock,
        metrics: EdgeMetrics,
        executor: Executor,
        interval: int,
        heartbeats: Heartbeats,
        lanes: Sequence[SlowLane] = (),
    ) -> None:
        """`collect` blocks and runs in `executor`; `interval` in ms; collectors that have a lane are stored there."""
        self._collect = collect
        self._target = log
        self._clock = clock
        self._metrics = metrics
        self._executor = executor
        self._interval = interval
        self._heartbeats = heartbeats
        self._table = RowTable()
        self._lanes = {lane.name: lane for lane in lanes}
        self._slow: dict[str, Latest] = {}
        self._generation = log.generation
        self._refusal = ""
        self.latest: Latest | None = None
        metrics.gauge("series", "Series with a value at the last instant.", lambda: self.series)
        metrics.gauge("clock_synced", "Whether the kernel calls the wall clock synchronised.", self._synced)
        metrics.counter(
            "readings_left_out", "Readings left out as duplicates or beyond the limit.", lambda: self._table.left_out
        )

    @property
    def series(self) -> int:
        """How many series had a value at the last instant."""
        return self.latest.slot.presence.count(1) if self.latest else 0

    def _synced(self) -> float:
        return float(self._clock.synced())

    async def run(self) -> None:
        """Sample now, and at every tick from then on."""
        loop = asyncio.get_running_loop()
        due = self._clock.now()
        began = self._clock.monotonic()
        while True:
            self._heartbeats.beat(self.name, max(60.0, self._interval * 4 / 1000))
            await loop.run_in_executor(self._executor, self.sample, due)
            due = await self._until_next()
            last, began = began, self._clock.monotonic()
            self._metrics.missed.inc(max(0, round((began - last) * 1000 / self._interval - 1.25)))

    async def _until_next(self) -> Millis:
        """Sleep to the next tick and return it, in naps short enough to notice that the clock was set."""
        while True:
            now = self._clock.now()
            due = next_tick(now, self._interval)
            nap = min(due - now, 10_000)
            await self._clock.sleep(nap / 1000)
            if self._clock.now() >= due:
                return due
            self._heartbeats.beat(self.name, max(60.0, self._interval * 4 / 1000))

    def sample(self, due: Millis) -> None:
        """Read everything and append it to the log (blocks); a log that refuses is counted, logged on change."""
        began = self._clock.monotonic()
        taken = self._target.stamp()
        timestamp = stamp(due, taken.timestamp, self._interval)
        if self._generation != self._target.generation:
            self._generation = self._target.generation
            self._table.compact()
            for lane in self._lanes.values():
                lane.table.compact()
        slot = self._table.update([result for result in self._collect() if result.name not in self._lanes])
        if self.latest is None or self.latest.slot.schema is not slot.schema:
            self._metrics.schemas.inc()
        refusal = ""
        try:
            self._target.append(LANE, slot.schema, timestamp, slot.values, slot.presence, taken.flags)
            self._sample_lanes(taken)
        except (LimitError, StorageError) as err:
            refusal = str(err)
            self._metrics.refused.inc()
        else:
            self.latest = Latest(timestamp, slot, tuple(self._slow.values()))
            self._metrics.slots.inc()
            self._metrics.samples.inc(len(slot.presence) - slot.presence.count(0))
        if refusal != self._refusal:
            if refusal:
                _log.error("samples are being lost", error=refusal)
            else:
                _log.info("samples are stored again")
            self._refusal = refusal
        self._metrics.sampling.observe(self._clock.monotonic() - began)

    def _sample_lanes(self, taken: Stamp) -> None:
        """Append the rounds that background collectors have finished since the last tick, each at its own time."""
        for lane in self._lanes.values():
            found = lane.take(taken.timestamp)
            if found is None:
                continue
            timestamp, slot = found
            self._target.append(lane.number, slot.schema, timestamp, slot.values, slot.presence, taken.flags)
            self._slow[lane.name] = Latest(timestamp, slot)
            self._metrics.samples.inc(len(slot.presence) - slot.presence.count(0))
