from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.frames.model import ABSENT, PRESENT, STALE, read_header
from common.sample import MetricType, Millis
from common.supervisor import Heartbeats
from common.testing import FakeClock
from edge.collectors.background import BackgroundCollector
from edge.collectors.base import Desc, NoDataError, NoOptions, Paths, Reading, Skip
from edge.collectors.runner import CollectorResult
from edge.lanes import SlowLane
from edge.log import Log, LogOptions
from edge.metrics import EdgeMetrics
from edge.sampler import Sampler

TEMPERATURE = Desc("rpi_w1_temperature_celsius", MetricType.GAUGE, "", ("sensor",))
LOAD = Desc("node_load1", MetricType.GAUGE, "")


class Sensors(BackgroundCollector):
    name = "sensors"
    interval = 60.0

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(Paths(), NoOptions(), clock)
        self.values: dict[str, float] = {"a": 20.0}

    def read(self, skip: Skip) -> list[Reading]:
        if not self.values:
            raise NoDataError("no sensor")
        return [(TEMPERATURE, (sensor,), value) for sensor, value in self.values.items()]


@pytest.fixture
def sensors(clock: FakeClock) -> Sensors:
    return Sensors(clock)


@pytest.fixture
def log(tmp_path: Path, clock: FakeClock) -> Iterator[Log]:
    log = Log.open(tmp_path / "log", LogOptions(), clock)
    yield log
    log.close()


def test_a_round_is_taken_once_with_the_time_it_was_read_at(clock: FakeClock, sensors: Sensors) -> None:
    lane = SlowLane(1, sensors, clock)
    assert lane.take(clock.now()) is None
    sensors.round()
    clock._move(clock.monotonic() + 4)
    taken = lane.take(clock.now())
    assert taken is not None
    assert taken[0] == clock.now() - 4000
    assert list(taken[1].values) == [20.0]
    assert lane.take(clock.now()) is None


def test_readings_that_end_are_marked_stale_once(clock: FakeClock, sensors: Sensors) -> None:
    lane = SlowLane(1, sensors, clock)
    sensors.round()
    lane.take(clock.now())
    clock._move(clock.monotonic() + 181)
    taken = lane.take(clock.now())
    assert taken is not None
    assert taken[1].presence == bytes([STALE])
    assert lane.take(clock.now()) is None


def test_a_failed_round_ends_the_readings_and_the_next_begins_them_again(clock: FakeClock, sensors: Sensors) -> None:
    lane = SlowLane(1, sensors, clock)
    sensors.round()
    lane.take(clock.now())
    sensors.values = {}
    sensors.round()
    clock._move(clock.monotonic() + 60)
    assert lane.take(clock.now())[1].presence == bytes([STALE])  # type: ignore[index]
    sensors.values = {"a": 21.0, "b": 5.0}
    sensors.round()
    clock._move(clock.monotonic() + 60)
    taken = lane.take(clock.now())
    assert taken is not None
    assert taken[1].presence in (bytes([PRESENT, PRESENT]), bytes([PRESENT, ABSENT, PRESENT]))


def test_two_rounds_of_one_moment_keep_their_order(clock: FakeClock, sensors: Sensors) -> None:
    lane = SlowLane(1, sensors, clock)
    sensors.round()
    first = lane.take(clock.now())
    sensors.round()
    second = lane.take(Millis(clock.now() + 1))
    assert first is not None
    assert second is not None
    assert second[0] > first[0]


def test_the_sampler_stores_slow_sensors_apart_from_the_rest(clock: FakeClock, sensors: Sensors, log: Log) -> None:
    sensors.round()
    with ThreadPoolExecutor(1) as pool:
        sampler = Sampler(
            lambda: [
                CollectorResult("loadavg", True, 0.0, [(LOAD, (), 0.5)]),
                CollectorResult("sensors", True, 0.0, [(TEMPERATURE, ("a",), 20.0)]),
            ],
            log,
            clock,
            EdgeMetrics("test"),
            pool,
            15_000,
            Heartbeats(clock),
            [SlowLane(1, sensors, clock)],
        )
        for _ in range(3):
            sampler.sample(clock.now())
            clock._move(clock.monotonic() + 15)
    latest = sampler.latest
    assert latest is not None
    assert [labels.name for labels in latest.slot.schema.labels()] == ["node_load1"]
    assert [labels.name for lane in latest.lanes for labels in lane.slot.schema.labels()] == [
        "rpi_w1_temperature_celsius"
    ]
    headers = [read_header(frame, 0) for frame in log.read({}, "oldest", 1 << 20).frames]
    assert sorted((header.lane, header.slots) for header in headers) == [(0, 3), (1, 1)]
