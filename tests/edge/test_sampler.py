"""edge/sampler.py: ticks, stamps and what reaches the log."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from common.exposition.model import Desc, Reading
from common.frames.codec import decode
from common.frames.model import Flags
from common.sample import MetricType, Millis
from common.supervisor import Heartbeats
from common.testing import FakeClock, settle, until
from edge.collectors.runner import CollectorResult
from edge.log import Log, LogOptions, Overflow
from edge.metrics import EdgeMetrics
from edge.sampler import Sampler, next_tick, stamp

LOAD = Desc("load", MetricType.GAUGE, "Load.")
INTERVAL = 15_000


@pytest.mark.parametrize(("now", "due"), [(0, 15_000), (1, 15_000), (14_999, 15_000), (15_000, 30_000)])
def test_ticks_are_multiples_of_the_interval_after_now(now: int, due: int) -> None:
    assert next_tick(Millis(now), INTERVAL) == due


@pytest.mark.parametrize(
    ("late", "expected"), [(0, 0), (3, 0), (100, 0), (101, 101), (-1, -1), (9_000, 9_000), (-9_000, -9_000)]
)
def test_a_slot_a_little_late_gets_the_ticks_stamp_and_others_their_own(late: int, expected: int) -> None:
    assert stamp(Millis(30_000), Millis(30_000 + late), INTERVAL) == 30_000 + expected


class Inline(ThreadPoolExecutor):
    """Runs at once, so that the fake clock alone says what happens when."""

    def submit(self, fn, /, *args, **kwargs):
        future = super().submit(fn, *args, **kwargs)
        future.exception()
        return future


@pytest.fixture
def executor() -> Iterator[Inline]:
    with Inline(1) as pool:
        yield pool


def opened(path: Path, clock: FakeClock, **options: object) -> Log:
    return Log.open(path / "log", LogOptions(**options), clock)  # type: ignore[arg-type]


@asynccontextmanager
async def sampling(sampler: Sampler) -> AsyncIterator[None]:
    task = asyncio.create_task(sampler.run())
    await settle(100)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def build(
    log: Log, clock: FakeClock, executor: ThreadPoolExecutor, collect: Callable[[], list[CollectorResult]] | None = None
) -> tuple[Sampler, EdgeMetrics]:
    metrics = EdgeMetrics("test")
    return (
        Sampler(
            collect or (lambda: [CollectorResult("loadavg", True, 0.0, [(LOAD, (), 0.5)])]),
            log,
            clock,
            metrics,
            executor,
            INTERVAL,
            Heartbeats(clock),
        ),
        metrics,
    )


def stored(log: Log) -> list[int]:
    """Time stamps of all slots in the log."""
    frames = [decode(frame) for frame in log.read({}, "oldest", 1 << 30).frames]
    return [int(t) for frame in frames for t in frame.timestamps]


async def advance(clock: FakeClock, seconds: float) -> None:
    for _ in range(round(seconds)):
        await clock.advance(1)
        await settle(50)


async def test_the_first_slot_is_taken_at_once_and_the_others_on_the_tick(tmp_path: Path, executor: Inline) -> None:
    clock = FakeClock(now=1_700_000_004_000)
    log = opened(tmp_path, clock)
    sampler, _ = build(log, clock, executor)
    async with sampling(sampler):
        await advance(clock, 33)
    assert stored(log) == [1_700_000_004_000, 1_700_000_010_000, 1_700_000_025_000]
    assert sampler.latest is not None
    assert (sampler.latest.timestamp, sampler.series) == (1_700_000_025_000, 1)
    log.close()


async def test_a_slow_collector_costs_ticks_that_are_counted(tmp_path: Path) -> None:
    clock = FakeClock(now=1_700_000_010_000)
    log = opened(tmp_path, clock)
    answered = threading.Event()

    def collect() -> list[CollectorResult]:
        answered.wait(60)
        return [CollectorResult("loadavg", True, 0.0, [(LOAD, (), 0.5)])]

    with ThreadPoolExecutor(1) as pool:
        sampler, metrics = build(log, clock, pool, collect)
        async with sampling(sampler):
            await clock.advance(31)
            answered.set()
            await until(lambda: sampler.latest)
            await settle(100)
            await clock.advance(14)
            await until(lambda: sampler.latest and sampler.latest.timestamp > 1_700_000_050_000)
            await settle(100)
    assert stored(log) == [1_700_000_010_000, 1_700_000_055_000]
    assert metrics.registry.get_sample_value("bramble_edge_ticks_missed_total") == 2
    log.close()


async def test_a_clock_set_back_opens_a_new_epoch_and_sampling_goes_on(tmp_path: Path, executor: Inline) -> None:
    clock = FakeClock(now=1_700_000_010_000)
    log = opened(tmp_path, clock)
    epoch = log.epoch
    sampler, _ = build(log, clock, executor)
    async with sampling(sampler):
        await advance(clock, 20)
        clock.step(-3_600_000)
        await advance(clock, 30)
    times = stored(log)
    assert times[:2] == [1_700_000_010_000, 1_700_000_025_000]
    assert times[2:] == [1_699_996_440_000, 1_699_996_455_000]
    assert log.epoch != epoch
    log.close()


async def test_slots_before_time_synchronisation_are_marked_provisional(tmp_path: Path, executor: Inline) -> None:
    clock = FakeClock(synced=False)
    log = opened(tmp_path, clock)
    sampler, _ = build(log, clock, executor)
    async with sampling(sampler):
        log.seal()
        clock.set_synced(True)
        await advance(clock, 20)
    flags = [decode(frame).header.flags for frame in log.read({}, "oldest", 1 << 30).frames]
    assert flags[0] == Flags.PROVISIONAL
    assert flags[-1] == Flags.SYNCED
    log.close()


async def test_a_log_that_refuses_is_counted_and_sampling_goes_on(tmp_path: Path, executor: Inline) -> None:
    clock = FakeClock(now=1_700_000_010_000)
    log = opened(tmp_path, clock, max_memory_bytes=90, overflow=Overflow.REFUSE)
    sampler, metrics = build(log, clock, executor)
    async with sampling(sampler):
        await advance(clock, 20)
        assert metrics.registry.get_sample_value("bramble_edge_appends_refused_total") == 1
        log.commit()
        await advance(clock, 15)
    assert metrics.registry.get_sample_value("bramble_edge_slots_total") == 2
    log.close()


async def test_the_end_of_a_segment_drops_rows_that_vanished(tmp_path: Path, executor: Inline) -> None:
    clock = FakeClock(now=1_700_000_010_000)
    log = opened(tmp_path, clock, segment_bytes=1, retention_bytes=1 << 20)
    extra = Desc("extra", MetricType.GAUGE, "Extra.")
    given: list[list[Reading]] = [[(LOAD, (), 1.0), (extra, (), 1.0)]]

    def collect() -> list[CollectorResult]:
        return [CollectorResult("c", True, 0.0, given[-1])]

    sampler, _ = build(log, clock, executor, collect)
    async with sampling(sampler):
        given.append([(LOAD, (), 1.0)])
        await advance(clock, 30)
        assert sampler.latest is not None
        assert sampler.latest.slot.schema.rows == 2
        for _ in range(200):
            if log.generation:
                break
            log.seal()
            log.commit()
            await advance(clock, 15)
        assert log.generation
        await advance(clock, 15)
        assert sampler.latest.slot.schema.rows == 1
    log.close()
