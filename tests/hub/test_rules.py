"""Rule groups on the wall clock."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from common.errors import BrambleError, LimitError, StorageError
from common.frames.model import SourceId
from common.histogram import FloatHistogram, side
from common.labels import Labels, Matcher, MatchType
from common.promql.engine import Engine, EngineOptions
from common.rules.alerting import Change, Event
from common.rules.loader import load_rules
from common.rules.model import AlertState, Group, Rule
from common.sample import STALE_NAN, Millis
from common.testing import FakeClock
from common.tsdb.memory import MemoryQuerier, read_all
from common.tsdb.options import StoreOptions
from common.tsdb.store import Store
from common.tsdb.writer import SourceWriter
from hub.rules import (
    Histograms,
    RuleManager,
    RuleOptions,
    Vector,
    _GroupSlot,
    evaluator,
    last_due,
    store_writers,
    tick_offset,
)

UP = Labels.of(__name__="up", instance="a")


class MemoryWriter:
    """One rule's series into the dictionary model, with staleness markers."""

    refusal: BrambleError | None = None

    def __init__(self, store: MemoryQuerier) -> None:
        self.store = store
        self.live: set[Labels] = set()

    def write(self, timestamp: Millis, rows: Sequence[tuple[Labels, float]], *, histograms: Histograms = ()) -> None:
        if self.refusal is not None:
            raise self.refusal
        now = {labels for labels, _ in rows}
        for labels, value in rows:
            self.store.add(labels, timestamp, value)
        for labels in self.live - now:
            self.store.add(labels, timestamp, STALE_NAN)
        self.live = now

    def stale_all(self, timestamp: Millis) -> None:
        self.write(timestamp, [])


class InlineExecutor(Executor):
    """Runs jobs where they are submitted, so that a fake clock sees them end at once."""

    def submit(self, fn, /, *args, **kwargs):
        future: Future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as err:  # noqa: BLE001 - it goes to the future, as in a real executor
            future.set_exception(err)
        return future


class World:
    """A store, a clock and a manager over them."""

    def __init__(self, clock: FakeClock, text: str, store: MemoryQuerier | None = None) -> None:
        self.clock = clock
        self.store = store or MemoryQuerier()
        self.registry = CollectorRegistry()
        self.events: list[Event] = []
        engine = Engine(EngineOptions(), clock)
        self.manager = RuleManager(
            evaluator(engine, self.store),
            self.store,
            lambda key: MemoryWriter(self.store),
            clock,
            InlineExecutor(),
            self.registry,
            RuleOptions(external_labels=Labels.of(site="garden")),
            self.events.extend,
        )
        self.groups = load_rules(text, "r.yml")
        self.manager.apply(self.groups)

    @property
    def key(self) -> str:
        return self.groups[0].key

    async def evaluate(self, now: int) -> None:
        await self.manager.evaluate(self.key, Millis(now))

    def metric(self, name: str) -> float | None:
        return self.registry.get_sample_value(name, {"rule_group": self.key})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.manager.run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def stored(self, name: str) -> dict[str, list[tuple[int, float | None]]]:
        from common.labels import Matcher, MatchType

        found = read_all(self.store.select([Matcher(MatchType.EQ, "__name__", name)], Millis(-(2**60)), Millis(2**60)))
        return {str(labels): samples for labels, samples in found.items()}


RECORD = """
groups:
- name: g
  interval: 10s
  rules:
  - record: doubled
    expr: up * 2
  - record: quadrupled
    expr: doubled * 2
"""

DOWN = """
groups:
- name: g
  interval: 10s
  rules:
  - alert: Down
    expr: up == 0
    for: 20s
    labels: {severity: critical, site: "{{ $externalLabels.site }}"}
"""


async def test_a_rule_sees_what_the_rule_before_it_wrote(clock: FakeClock) -> None:
    world = World(clock, RECORD)
    world.store.add(UP, 1_000, 3.0)
    await world.evaluate(2_000)
    assert world.stored("quadrupled") == {'quadrupled{instance="a"}': [(2_000, 12.0)]}


async def test_a_series_that_vanishes_is_ended_with_a_stale_marker(clock: FakeClock) -> None:
    world = World(clock, RECORD)
    world.store.add(UP, 1_000, 3.0)
    await world.evaluate(2_000)
    world.store.add(UP, 11_000, STALE_NAN)
    await world.evaluate(12_000)
    assert world.stored("doubled") == {'doubled{instance="a"}': [(2_000, 6.0), (12_000, None)]}


async def test_a_scalar_is_recorded_as_one_series_without_labels(clock: FakeClock) -> None:
    world = World(clock, "groups: [{name: g, rules: [{record: one, expr: '1 + 1'}]}]")
    await world.evaluate(5_000)
    assert world.stored("one") == {"one": [(5_000, 2.0)]}


async def test_query_offset_evaluates_and_writes_in_the_past(clock: FakeClock) -> None:
    world = World(clock, "groups: [{name: g, query_offset: 1m, rules: [{record: then, expr: up}]}]")
    world.store.add(UP, 0, 1.0)
    world.store.add(UP, 100_000, 2.0)
    await world.evaluate(120_000)
    assert world.stored("then") == {'then{instance="a"}': [(60_000, 1.0)]}


async def test_a_failing_rule_shows_its_error_and_the_next_one_runs(clock: FakeClock) -> None:
    text = """
groups:
- name: g
  rules:
  - record: broken
    expr: label_replace(up, "instance", "same", "", "")
  - record: fine
    expr: count(up)
"""
    world = World(clock, text)
    world.store.add(UP, 0, 1.0)
    world.store.add(UP.merge({"instance": "b"}), 0, 1.0)
    await world.evaluate(1_000)
    broken, fine = world.manager.groups()[0].rules
    assert broken.health == "err"
    assert "same labelset" in broken.last_error
    assert fine.health == "ok"
    assert world.stored("fine") == {"fine": [(1_000, 2.0)]}
    assert world.metric("prometheus_rule_evaluation_failures_total") == 1


@pytest.mark.parametrize("refusal", [LimitError("memory is full"), StorageError("disk is full")])
async def test_a_store_that_takes_nothing_ends_no_alert(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch, refusal: BrambleError
) -> None:
    world = World(clock, "groups: [{name: g, rules: [{alert: Down, expr: up == 0, for: 10s}]}]")
    world.store.add(UP, 0, 0.0)
    await world.evaluate(1_000)
    await world.evaluate(11_000)
    monkeypatch.setattr(MemoryWriter, "refusal", refusal)
    for now in (21_000, 31_000):
        await world.evaluate(now)
        (status,) = world.manager.groups()[0].rules
        assert (status.health, status.last_error) == ("err", str(refusal))
        assert [(alert.state, alert.active_at) for alert in status.alerts] == [(AlertState.FIRING, 1_000)]
    assert len(world.manager.firing()) == 1
    assert [event.change for event in world.events] == [Change.PENDING, Change.FIRING]


async def test_an_alerting_rule_over_the_limit_of_its_group_has_no_alerts(clock: FakeClock) -> None:
    world = World(clock, "groups: [{name: g, limit: 1, rules: [{alert: Down, expr: up == 0}]}]")
    world.store.add(UP, 0, 0.0)
    await world.evaluate(1_000)
    assert len(world.manager.firing()) == 1
    world.store.add(UP.merge({"instance": "b"}), 2_000, 0.0)
    await world.evaluate(11_000)
    assert world.manager.firing() == []
    assert world.manager.groups()[0].rules[0].last_error == "exceeded limit of 1 with 2 alerts"


async def test_the_limit_of_a_group_holds_for_each_rule(clock: FakeClock) -> None:
    world = World(clock, "groups: [{name: g, limit: 1, rules: [{record: r, expr: up}]}]")
    world.store.add(UP, 0, 1.0)
    world.store.add(UP.merge({"instance": "b"}), 0, 1.0)
    await world.evaluate(1_000)
    assert world.manager.groups()[0].rules[0].last_error == "exceeded limit of 1 with 2 series"
    assert world.stored("r") == {}


async def test_an_alert_goes_from_pending_to_firing_to_resolved(clock: FakeClock) -> None:
    world = World(clock, DOWN)
    for second in range(0, 30, 10):
        world.store.add(UP, second * 1000, 0.0)
        await world.evaluate(second * 1000)
    assert [event.change for event in world.events] == [Change.PENDING, Change.FIRING]
    (labels,) = world.manager.firing()
    assert labels == Labels.of(alertname="Down", instance="a", severity="critical", site="garden")
    world.store.add(UP, 30_000, 1.0)
    await world.evaluate(30_000)
    assert world.events[-1].change is Change.RESOLVED
    assert world.manager.firing() == []
    fired = world.stored("ALERTS")
    assert fired[
        'ALERTS{alertname="Down", alertstate="pending", instance="a", severity="critical", site="garden"}'
    ] == [
        (0, 1.0),
        (10_000, 1.0),
        (20_000, None),
    ]
    assert fired['ALERTS{alertname="Down", alertstate="firing", instance="a", severity="critical", site="garden"}'] == [
        (20_000, 1.0),
        (30_000, None),
    ]


SLOW = DOWN.replace("for: 20s", "for: 1h")


async def test_a_restart_does_not_start_a_long_wait_anew(clock: FakeClock) -> None:
    minute = 60_000
    world = World(clock, SLOW)
    for at in range(0, 50 * minute, minute):
        world.store.add(UP, at, 0.0)
        await world.evaluate(at)
    restarted = World(clock, SLOW, world.store)
    for at in range(55 * minute, 75 * minute, minute):
        world.store.add(UP, at, 0.0)
        await restarted.evaluate(at)
        if restarted.manager.firing():
            break
    # Down for 6 minutes: 60 of pending plus the outage.
    assert 65 * minute <= at <= 67 * minute


async def test_a_reload_keeps_the_alerts_of_unchanged_rules(clock: FakeClock) -> None:
    world = World(clock, DOWN.replace("for: 20s", "for: 0s"))
    world.store.add(UP, 0, 0.0)
    await world.evaluate(0)
    world.manager.apply(load_rules(DOWN.replace("for: 20s", "for: 5s"), "r.yml"))
    assert [alert.state for alert in world.manager.alerts()] == [AlertState.FIRING]


async def test_the_series_of_a_removed_group_end(clock: FakeClock) -> None:
    world = World(clock, RECORD)
    world.store.add(UP, clock.now(), 3.0)
    async with world.running():
        await clock.advance(25)
        world.manager.apply([])
        await clock.advance(1)
    assert world.stored("doubled")['doubled{instance="a"}'][-1][1] is None
    assert world.manager.groups() == []


class SlowExecutor(InlineExecutor):
    """Has the rules of the group `slow` take until it is told."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def submit(self, fn, /, *args, **kwargs):
        if not (args and isinstance(args[0], _GroupSlot) and args[0].group.name == "slow"):
            return super().submit(fn, *args, **kwargs)
        future: Future = Future()
        self.waiting.append(lambda: super(SlowExecutor, self).submit(fn, *args).add_done_callback(_pass_to(future)))
        return future


def _pass_to(future: Future) -> Callable[[Future], None]:
    return lambda done: future.set_result(done.result())


TWO = """
groups:
- name: slow
  interval: 10s
  rules: [{record: slow, expr: up}]
- name: quick
  interval: 10s
  rules: [{record: quick, expr: EXPR}]
"""


async def test_a_reload_waits_for_no_group_that_is_being_evaluated(clock: FakeClock) -> None:
    world = World(clock, TWO.replace("EXPR", "up"))
    executor = world.manager._executor = SlowExecutor()
    world.store.add(UP, clock.now(), 3.0)
    async with world.running():
        await clock.advance(10)
        assert len(executor.waiting) == 1
        # One group changes, one is gone; what it evaluates meanwhile goes on.
        world.manager.apply(load_rules(TWO.replace("EXPR", "up * 2"), "r.yml")[1:])
        await clock.advance(20)
        assert [value for _, value in world.stored("quick")['quick{instance="a"}']][-2:] == [6.0, 6.0]
        executor.waiting[0]()
        await clock.advance(1)
        # Its series end only now that nothing can write them any more.
        assert [value for _, value in world.stored("slow")['slow{instance="a"}']] == [3.0, None]


async def test_a_changed_group_is_evaluated_again_once_its_last_evaluation_has_ended(clock: FakeClock) -> None:
    world = World(clock, TWO.replace("EXPR", "up"))
    executor = world.manager._executor = SlowExecutor()
    world.store.add(UP, clock.now(), 3.0)
    async with world.running():
        await clock.advance(10)
        for expr in ("up * 2", "up * 3"):
            world.manager.apply(load_rules(TWO.replace("expr: up}", f"expr: {expr}}}", 1), "r.yml"))
            await clock.advance(10)
        assert len(executor.waiting) == 1
        executor.waiting.pop()()
        await clock.advance(10)
        executor.waiting.pop()()
        await clock.advance(1)
        assert [value for _, value in world.stored("slow")['slow{instance="a"}']] == [3.0, 9.0]


@pytest.mark.parametrize(("milliseconds", "jobs"), [(1, 1), (15, 2), (25, 3)])
async def test_rules_of_a_group_share_a_job_for_a_slice_of_time(clock: FakeClock, milliseconds: int, jobs: int) -> None:
    world = World(clock, RECORD)
    three = "groups: [{name: g, rules: [{record: a, expr: up}, {record: b, expr: a}, {record: c, expr: b}]}]"
    world.manager.apply(groups := load_rules(three, "r.yml"))
    world.store.add(UP, clock.now(), 3.0)
    evaluate, submitted = world.manager._evaluate, []

    def slow(rule: Rule, group: Group, time: Millis) -> Vector:
        clock._mono += milliseconds / 1000
        return evaluate(rule, group, time)

    class Counting(InlineExecutor):
        def submit(self, fn, /, *args, **kwargs):
            submitted.append(fn)
            return super().submit(fn, *args, **kwargs)

    world.manager._evaluate, world.manager._executor = slow, Counting()
    await world.manager.evaluate(groups[0].key, clock.now())
    assert [value for _, value in world.stored("c")['c{instance="a"}']] == [3.0]
    assert len(submitted) == jobs
    assert world.manager.groups()[0].rules[2].duration == pytest.approx(milliseconds / 1000)


async def test_alerts_are_logged_where_rules_are_evaluated(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    world = World(clock, "groups: [{name: g, rules: [{alert: Up, expr: up}]}]")
    world.store.add(UP, clock.now(), 3.0)
    logged: list[str] = []

    class Listening(InlineExecutor):
        def submit(self, fn, /, *args, **kwargs):
            done = super().submit(fn, *args, **kwargs)
            logged.extend(caplog.messages)
            return done

    world.manager._executor = Listening()
    with caplog.at_level("INFO"):
        await world.evaluate(clock.now())
    # Thousands may fire at once: the event loop has other things to do.
    assert [line for line in logged if "alert firing" in line]
    assert [event.change for event in world.events] == [Change.FIRING]


async def test_a_group_is_evaluated_at_aligned_ticks(clock: FakeClock) -> None:
    world = World(clock, RECORD)
    world.store.add(UP, clock.now(), 3.0)
    async with world.running():
        await clock.advance(35)
    times = [at for at, _ in world.stored("doubled")['doubled{instance="a"}']]
    assert len(times) == 3 or len(times) == 4
    assert {at % 10_000 for at in times} == {tick_offset(world.key, 10_000)}


async def test_missed_iterations_are_counted_after_a_jump_of_the_clock(clock: FakeClock) -> None:
    world = World(clock, RECORD)
    async with world.running():
        await clock.advance(20)
        clock.step(60_000)
        await clock.advance(20)
    assert world.metric("prometheus_rule_group_iterations_missed_total") == 6
    assert world.manager.groups()[0].missed == 6


async def test_a_clock_set_back_does_not_stop_the_evaluation(clock: FakeClock) -> None:
    world = World(clock, RECORD)
    async with world.running():
        await clock.advance(20)
        clock.step(-3_600_000)
        before = world.metric("prometheus_rule_evaluations_total") or 0
        await clock.advance(30)
    assert (world.metric("prometheus_rule_evaluations_total") or 0) >= before + 4


@pytest.mark.parametrize("now", [0, 1, 59_999, 60_000, 1_700_000_000_123, -5])
def test_the_last_tick_due_is_at_most_an_interval_ago(now: int) -> None:
    tick = last_due("file;group", 60_000, now)
    assert tick <= now < tick + 60_000
    assert tick % 60_000 == tick_offset("file;group", 60_000)


async def test_rule_series_live_in_the_real_store_and_survive_a_restart(clock: FakeClock, tmp_path: Path) -> None:
    store = Store.open(tmp_path, StoreOptions(), clock)
    up = SourceWriter(store, SourceId(b"u" * 16), Labels.of(job="node"))

    def manager(store: Store) -> RuleManager:
        engine = Engine(EngineOptions(), clock)
        made = RuleManager(
            evaluator(engine, store), store, store_writers(store), clock, InlineExecutor(), CollectorRegistry()
        )
        made.apply(load_rules(SLOW, "r.yml"))
        return made

    async def play(rules: RuleManager, minutes: range) -> None:
        for minute in minutes:
            now = Millis(start + minute * 60_000)
            up.write(now, [(UP, 0.0)])
            await rules.evaluate("r.yml;g", now)

    start = clock.now()
    await play(manager(store), range(50))
    store.commit()
    store.close()
    store = Store.open(tmp_path, StoreOptions(), clock)
    up = SourceWriter(store, SourceId(b"u" * 16), Labels.of(job="node"))
    restarted = manager(store)
    await play(restarted, range(55, 66))
    assert restarted.firing() == []
    await play(restarted, range(66, 68))
    assert [labels.get("job") for labels in restarted.firing()] == ["node"]
    result = Engine(EngineOptions(), clock).instant(store, "count by (alertstate) (ALERTS)", start + 67 * 60_000)
    assert result.matrix is not None
    assert [labels.get("alertstate") for labels in result.matrix.labels] == ["firing"]
    store.close()


async def test_a_recorded_histogram_is_stored_and_ends(clock: FakeClock, tmp_path: Path) -> None:
    store = Store.open(tmp_path, StoreOptions(), clock)
    rules = RuleManager(
        evaluator(Engine(EngineOptions(), clock), store),
        store,
        store_writers(store),
        clock,
        InlineExecutor(),
        CollectorRegistry(),
    )
    text = "groups: [{name: g, rules: [{record: total, expr: sum(h)}, {alert: A, expr: h}]}]"
    rules.apply(load_rules(text, "r.yml"))
    now = clock.now()
    histogram = FloatHistogram(0, 2, 3.0, positive=side(0, [2.0]))
    store.append_histograms([(Labels.of(__name__="h", i=i), now, histogram, 0) for i in "12"])
    await rules.evaluate("r.yml;g", now)
    await rules.evaluate("r.yml;g", Millis(now + 600_000))
    (batch,) = store.select([Matcher(MatchType.EQ, "__name__", "total")], Millis(0), Millis(2**60))
    assert batch.histograms is not None
    first, second = batch.histograms.cells[0].tolist()
    assert (first.count, first.sum, second) == (4.0, 6.0, None)
    assert [alert.value for alert in rules.alerts()] == []
    store.close()
