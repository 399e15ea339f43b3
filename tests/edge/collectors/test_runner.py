import gc
import threading
from collections.abc import Iterator

import pytest

from common.clock import SystemClock
from common.errors import ConfigError
from common.sample import MetricType
from common.testing import FakeClock
from edge.collectors.background import BackgroundCollector
from edge.collectors.base import Collector, Desc, NoDataError, NoOptions, Paths, Reading, Skip
from edge.collectors.runner import DURATION, SKIPPED, SUCCESS, CollectorResult, Outcome, Runner

ONE = Desc("one", MetricType.GAUGE, "One.")


class Good(Collector):
    name = "good"

    def collect(self, skip: Skip) -> list[Reading]:
        return [(ONE, (), 1.0)]


class Empty(Collector):
    name = "empty"

    def collect(self, skip: Skip) -> list[Reading]:
        raise NoDataError("no such hardware")


class Broken(Collector):
    name = "broken"

    def collect(self, skip: Skip) -> list[Reading]:
        raise ZeroDivisionError("a bug")


class Partial(Collector):
    name = "partial"

    def collect(self, skip: Skip) -> list[Reading]:
        skip("/sys/x", OSError("bad sensor"))
        return [(ONE, (), 1.0)]


class Hanging(Collector):
    name = "hanging"

    def __init__(self, release: threading.Event) -> None:
        super().__init__(Paths(), NoOptions(), SystemClock())
        self.release = release
        self.runs = 0

    def collect(self, skip: Skip) -> list[Reading]:
        self.runs += 1
        self.release.wait()
        return [(ONE, (), 1.0)]


def make(*kinds: type[Collector]) -> list[Collector]:
    return [kind(Paths(), NoOptions(), FakeClock()) for kind in kinds]


@pytest.fixture
def runner() -> Iterator[Runner]:
    runner = Runner(make(Good, Empty, Broken, Partial), FakeClock())
    yield runner
    runner.close()


def test_one_collector_that_fails_costs_the_others_nothing(runner: Runner) -> None:
    results = runner.collect()
    assert [(r.name, r.success) for r in results[:-1]] == [
        ("good", True),
        ("empty", False),
        ("broken", False),
        ("partial", True),
    ]


def test_no_data_is_not_a_failure(runner: Runner) -> None:
    runner.collect()
    assert runner.outcomes() == {
        "good": Outcome.OK,
        "empty": Outcome.NO_DATA,
        "broken": Outcome.FAILED,
        "partial": Outcome.OK,
    }


def test_the_last_result_tells_success_duration_and_skipped_readings(runner: Runner) -> None:
    runner.collect()
    last = runner.collect()[-1]
    assert [v for d, v, x in last.samples if d is SUCCESS and x == 1.0] == [("good",), ("partial",)]
    assert [v for d, v, _ in last.samples if d is DURATION] == [("good",), ("empty",), ("broken",), ("partial",)]
    assert [(v, x) for d, v, x in last.samples if d is SKIPPED and x] == [(("partial",), 2.0)]


def test_a_failure_is_logged_when_it_begins_and_when_it_ends_only(caplog: pytest.LogCaptureFixture) -> None:
    runner = Runner(make(Partial, Broken), FakeClock())
    for _ in range(3):
        runner.collect()
    runner.close()
    assert sorted(record.getMessage() for record in caplog.records if record.levelname != "DEBUG") == [
        "collector failed",
        "reading skipped",
    ]


def test_a_hung_collector_is_cut_off_and_not_started_again_until_it_returns() -> None:
    release = threading.Event()
    hanging = Hanging(release)
    runner = Runner([hanging, *make(Good)], SystemClock(), deadline=1.0)
    first = runner.collect()
    assert [(r.name, r.outcome) for r in first[:-1]] == [("hanging", Outcome.HUNG), ("good", Outcome.OK)]
    second = runner.collect()
    assert [(r.name, r.outcome) for r in second[:-1]] == [("hanging", Outcome.HUNG), ("good", Outcome.OK)]
    assert hanging.runs == 1
    release.set()
    for _ in range(12_000):
        if runner.collect()[0].success:
            break
        threading.Event().wait(0.005)
    assert runner.outcomes()["hanging"] is Outcome.OK
    runner.close()


def test_only_the_named_collectors_run(runner: Runner) -> None:
    assert [r.name for r in runner.collect(runner.select(["good"], []))] == ["good", "scrape"]


def test_exclude_leaves_the_others(runner: Runner) -> None:
    assert runner.select([], ["good", "broken"]) == ["empty", "partial"]


@pytest.mark.parametrize(("collect", "exclude"), [(["nope"], []), ([], ["nope"]), (["good"], ["empty"])])
def test_a_selection_that_makes_no_sense_is_refused(runner: Runner, collect: list[str], exclude: list[str]) -> None:
    with pytest.raises(ConfigError):
        runner.select(collect, exclude)


def test_a_closed_runner_answers_nothing() -> None:
    runner = Runner(make(Good), FakeClock())
    runner.close()
    assert runner.collect() == []


class Gone(BackgroundCollector):
    name = "gone"
    interval = 3600.0

    def start(self) -> None:
        self.round()

    def read(self, skip: Skip) -> list[Reading]:
        raise NoDataError("no such hardware")


def test_scrapes_leave_nothing_behind() -> None:
    runner = Runner(make(Good, Empty, Broken, Partial, Gone), FakeClock())
    for _ in range(20):
        runner.collect()
    gc.collect()
    kept = sum(isinstance(thing, CollectorResult) for thing in gc.get_objects())
    runner.close()
    assert kept <= 2 * (5 + 1)
