"""Evaluates rule groups on the wall clock and writes what they give; the state machines are in `common/rules`."""

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Summary

from common.clock import Clock
from common.errors import BrambleError, LimitError, QueryError
from common.frames.model import SourceId
from common.histogram import FloatHistogram
from common.labels import EMPTY, NAME, Labels, Matcher, MatchType
from common.logs import EventLog
from common.promql.ast import ValueType
from common.promql.engine import Engine, Result
from common.rules import alerting
from common.rules.alerting import AlertNaming, Change, Event, RuleState, Surroundings
from common.rules.model import (
    ALERT_NAME,
    ALERTS_FOR_STATE,
    Alert,
    AlertingRule,
    AlertState,
    Group,
    GroupStatus,
    RecordingRule,
    Rule,
    RuleStatus,
)
from common.rules.naming import Naming
from common.rules.recording import record, recorded
from common.sample import Millis
from common.tsdb.querier import Querier
from common.tsdb.store import Store
from common.tsdb.writer import SourceWriter
from hub.query_log import NOTHING, Logged, QueryLog

_log = EventLog("rules")

T = TypeVar("T")
SLICE_SECONDS = 0.02
"""Rules of a group are evaluated for so long before those of other groups may have the thread."""
Vector = list[tuple[Labels, float | FloatHistogram]]
Histograms = Sequence[tuple[Labels, FloatHistogram, int]]


class RowWriter(Protocol):
    """Where one rule's series go; rows that vanish between two writes end with a staleness marker."""

    def write(self, timestamp: Millis, rows: Sequence[tuple[Labels, float]], *, histograms: Histograms = ()) -> object:
        """Store one sample of each series; `histograms` with start timestamps, 0 for none."""
        ...

    def stale_all(self, timestamp: Millis) -> object:
        """End all series written before."""
        ...


class Evaluate(Protocol):
    """Answers the instant vector of a rule's expression; a scalar is one sample without labels. Runs on a thread."""

    def __call__(self, rule: Rule, group: Group, time: Millis) -> Vector:
        """Raises QueryError, also for a result that is neither vector nor scalar."""
        ...


@dataclass(frozen=True, slots=True)
class RuleOptions:
    """`--rules.alert.for-outage-tolerance`, `--rules.alert.for-grace-period` in ms; what templates see besides."""

    outage_tolerance: int = 3_600_000
    grace: int = 600_000
    external_labels: Labels = EMPTY
    external_url: str = ""


class RuleMetrics:
    """Prometheus's metrics of rule evaluation, under its names."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register all."""
        group = ["rule_group"]

        def counter(name: str, text: str) -> Counter:
            return Counter(name, text, group, registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, group, registry=registry)

        self.evaluations = counter("prometheus_rule_evaluations", "Rule evaluations.")
        self.failures = counter("prometheus_rule_evaluation_failures", "Rule evaluations that failed.")
        self.iterations = counter("prometheus_rule_group_iterations", "Scheduled evaluations of the group.")
        self.missed = counter("prometheus_rule_group_iterations_missed", "Evaluations missed, as by a slow one.")
        self.interval = gauge("prometheus_rule_group_interval_seconds", "The group's interval.")
        self.last = gauge("prometheus_rule_group_last_evaluation_timestamp_seconds", "When it was last evaluated.")
        self.duration = gauge("prometheus_rule_group_last_duration_seconds", "How long its last evaluation took.")
        self.rules = gauge("prometheus_rule_group_rules", "Rules in the group.")
        self.rule_seconds = Summary(
            "prometheus_rule_evaluation_duration_seconds", "How long evaluations of a rule took.", registry=registry
        )
        self.group_seconds = Summary(
            "prometheus_rule_group_duration_seconds", "How long evaluations of a group took.", registry=registry
        )
        self._all = (
            self.evaluations,
            self.failures,
            self.iterations,
            self.missed,
            self.interval,
            self.last,
            self.duration,
            self.rules,
        )

    def forget(self, key: str) -> None:
        """Drop the series of a group that is gone."""
        for metric in self._all:
            try:
                metric.remove(key)
            except KeyError:
                continue


@dataclass(slots=True)
class _RuleSlot:
    rule: Rule
    writer: RowWriter
    status: RuleStatus
    naming: Naming | AlertNaming
    state: RuleState = field(default_factory=RuleState)
    wrote: bool = False


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What came of a rule's evaluation; `spent` in seconds."""

    state: RuleState
    wrote: bool
    error: str
    spent: float
    events: Sequence[Event]


@dataclass(slots=True)
class _GroupSlot:
    group: Group
    rules: list[_RuleSlot]
    last_tick: Millis | None = None
    last_evaluation: Millis | None = None
    duration: float = 0.0
    missed: int = 0
    evaluations: int = 0


def tick_offset(key: str, interval: int) -> int:
    """Where in its interval a group is evaluated (ms): spread, so that groups don't all run at once, but stable."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % interval


def last_due(key: str, interval: int, now: int) -> Millis:
    """The latest tick at or before `now`."""
    offset = tick_offset(key, interval)
    return Millis((now - offset) // interval * interval + offset)


class RuleManager:
    """The service that evaluates rule groups; `groups` and `firing` answer from memory at any time.

    `writer_of(key)` gives the writer of one rule, named `file;group;index;rule`; writers and queries run in
    `executor`, one rule at a time in a group, each rule's series written before the next one is evaluated.
    """

    name = "rules"

    def __init__(
        self,
        evaluate: Evaluate,
        querier: Querier,
        writer_of: Callable[[str], RowWriter],
        clock: Clock,
        executor: Executor,
        registry: CollectorRegistry,
        options: RuleOptions | None = None,
        on_events: Callable[[Sequence[Event]], None] | None = None,
    ) -> None:
        self._evaluate = evaluate
        self._querier = querier
        self._writer_of = writer_of
        self._clock = clock
        self._executor = executor
        self._options = options or RuleOptions()
        self._around = Surroundings(self._options.external_labels, self._options.external_url)
        self._metrics = RuleMetrics(registry)
        self._slots: dict[str, _GroupSlot] = {}
        self._retired: dict[str, list[RowWriter]] = {}
        """Writers of rules that are gone, by their group's key, whose series have yet to end."""
        self._changed = asyncio.Event()
        self._on_events = on_events or (lambda events: None)

    def apply(self, groups: Iterable[Group]) -> None:
        """Replace all groups. A group of the same key keeps its timing, a rule of equal name and labels its alerts."""
        slots: dict[str, _GroupSlot] = {}
        for group in groups:
            old = self._slots.get(group.key)
            slots[group.key] = self._slot(group, old)
        for key, old in self._slots.items():
            kept = {id(each.writer) for each in slots[key].rules} if key in slots else set()
            retired = [each.writer for each in old.rules if id(each.writer) not in kept]
            if retired:
                self._retired.setdefault(key, []).extend(retired)
            if key not in slots:
                self._metrics.forget(key)
        self._slots = slots
        for key, slot in slots.items():
            self._metrics.interval.labels(key).set(slot.group.interval / 1000)
            self._metrics.rules.labels(key).set(len(slot.rules))
        self._changed.set()

    def _slot(self, group: Group, old: _GroupSlot | None) -> _GroupSlot:
        if old is not None and old.group == group:
            return old
        left: dict[tuple[object, ...], list[_RuleSlot]] = {}
        for each in old.rules if old is not None else []:
            left.setdefault(_identity(each.rule), []).append(each)
        rules: list[_RuleSlot] = []
        for index, rule in enumerate(group.rules):
            same = left.get(_identity(rule))
            if same:
                previous = same.pop(0)
                status = replace(previous.status, rule=rule)
                rules.append(_RuleSlot(rule, previous.writer, status, _naming(rule), previous.state, previous.wrote))
                continue
            waits = isinstance(rule, AlertingRule) and rule.hold >= self._options.grace and old is None
            state = RuleState(restored=not waits)
            key = f"{group.key};{index};{rule.name}"
            rules.append(_RuleSlot(rule, self._writer_of(key), RuleStatus(rule), _naming(rule), state))
        slot = _GroupSlot(group, rules)
        if old is not None:
            slot.evaluations, slot.missed = old.evaluations, old.missed
            slot.last_evaluation, slot.duration = old.last_evaluation, old.duration
        return slot

    def groups(self) -> list[GroupStatus]:
        """See hub.api.state.RulesView."""
        return [
            GroupStatus(
                slot.group,
                tuple(rule.status for rule in slot.rules),
                slot.last_evaluation,
                slot.duration,
                slot.missed,
            )
            for _, slot in sorted(self._slots.items())
        ]

    def alerts(self) -> list[Alert]:
        """All alerts that are pending or firing."""
        return [
            alert
            for slot in self._slots.values()
            for rule in slot.rules
            for alert in rule.status.alerts
            if alert.state is not AlertState.INACTIVE
        ]

    def firing(self) -> list[Labels]:
        """Labels of all firing alerts."""
        return [alert.labels for alert in self.alerts() if alert.state is AlertState.FIRING]

    async def run(self) -> None:
        """Evaluate until cancelled; follows `apply` at once, in groups that changed once their evaluation has ended."""
        running: dict[str, tuple[_GroupSlot | None, asyncio.Task[None]]] = {}
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._changed.clear()
                running = {key: each for key, each in running.items() if not each[1].done()}
                for key in dict.fromkeys((*running, *self._retired, *self._slots)):
                    slot = self._slots.get(key)
                    old, before = running.get(key, (None, None))
                    if before is not None:
                        if old is slot:
                            continue
                        before.cancel()
                    running[key] = slot, tasks.create_task(self._follow(key, slot, before), name=f"rules {key}")
                await self._changed.wait()

    async def _follow(self, key: str, slot: _GroupSlot | None, before: asyncio.Task[None] | None) -> None:
        """Take over from what kept the group so far: end the series of rules that are gone, and keep the others."""
        if before is not None:
            try:
                await asyncio.wait([before])
            except asyncio.CancelledError:
                # Whoever comes next must not begin before it has ended either.
                await asyncio.wait([before])
                raise
        while retired := self._retired.get(key):
            try:
                await self._off_loop(retired.pop().stale_all, self._clock.now())
            except BrambleError as err:
                _log.warn("series of a rule that is gone could not be ended", group=key, error=err)
        self._retired.pop(key, None)
        if slot is not None:
            await self._keep(slot)

    async def _keep(self, slot: _GroupSlot) -> None:
        """One group's loop: aligned ticks of the wall clock, also after it was stepped."""
        interval, key = slot.group.interval, slot.group.key
        if slot.last_tick is None:
            slot.last_tick = last_due(key, interval, self._clock.now())
        while True:
            due = slot.last_tick + interval
            await self._clock.sleep((due - self._clock.now()) / 1000)
            now = self._clock.now()
            tick = last_due(key, interval, now)
            if tick < due:
                # The wall clock was set back, or the sleep ended early: wait for the next tick from here.
                slot.last_tick = min(slot.last_tick, tick)
                continue
            missed = (tick - due) // interval
            if missed:
                slot.missed += missed
                self._metrics.missed.labels(key).inc(missed)
            self._metrics.iterations.labels(key).inc(missed + 1)
            slot.last_tick = tick
            evaluation = asyncio.ensure_future(self._evaluate_group(slot, tick))
            try:
                await asyncio.shield(evaluation)
            except asyncio.CancelledError:
                # A query on a thread can't be stopped half-way: let the round end, then stop.
                await evaluation
                raise

    async def evaluate(self, key: str, now: Millis) -> None:
        """Evaluate one group as of `now`, out of turn."""
        await self._evaluate_group(self._slots[key], now)

    async def _evaluate_group(self, slot: _GroupSlot, now: Millis) -> None:
        key = slot.group.key
        began = self._clock.monotonic()
        done = 0
        while done < len(slot.rules):
            outcomes = await self._off_loop(self._some, slot, done, now)
            for each, outcome in zip(slot.rules[done:], outcomes, strict=False):
                self._settle(key, each, now, outcome)
            done += len(outcomes)
        slot.evaluations += 1
        if slot.evaluations >= 2:
            # As in Prometheus, after the second round: by then data and recorded series have arrived.
            await self._restore(slot, now)
        slot.duration = self._clock.monotonic() - began
        slot.last_evaluation = now
        self._metrics.last.labels(key).set(now / 1000)
        self._metrics.duration.labels(key).set(slot.duration)
        self._metrics.group_seconds.observe(slot.duration)

    def _some(self, slot: _GroupSlot, begin: int, now: Millis) -> list[_Outcome]:
        """Evaluate rules from `begin` on, as many as a slice of time is for. On a thread."""
        end = self._clock.monotonic() + SLICE_SECONDS
        outcomes: list[_Outcome] = []
        for each in slot.rules[begin:]:
            outcomes.append(self._rule(slot.group, each, now))
            if self._clock.monotonic() >= end:
                break
        return outcomes

    def _rule(self, group: Group, each: _RuleSlot, now: Millis) -> _Outcome:
        """Evaluate a rule and write its series. On a thread."""
        began = self._clock.monotonic()
        at = Millis(now - group.query_offset)
        state, wrote, error = each.state, each.wrote, ""
        events: list[Event] = []
        try:
            vector = self._evaluate(each.rule, group, at)
            if isinstance(each.rule, RecordingRule):
                assert isinstance(each.naming, Naming)
                rows, native = _by_kind(record(each.rule, vector, group.limit, each.naming))
            else:
                assert isinstance(each.naming, AlertNaming)
                # As in Prometheus, a histogram makes an alert whose value is 0.
                values = [(labels, value if isinstance(value, float) else 0.0) for labels, value in vector]
                try:
                    state, events = alerting.step(each.rule, state, now, values, group.limit, self._around, each.naming)
                except LimitError:
                    state = replace(state, alerts={})
                    raise
                rows, native = alerting.series(state, each.naming), ()
            if state.restored and (rows or native or wrote):
                each.writer.write(at, rows, histograms=native)
                wrote = bool(rows or native)
        except BrambleError as err:
            error = str(err)
        except Exception as err:  # noqa: BLE001 - the boundary of a rule: one rule's fault stays its own
            error = f"{type(err).__name__}: {err}"
            _log.error("rule evaluation broke", err, group=group.key, rule=each.rule.name)
        for event in events:
            if event.change in (Change.FIRING, Change.RESOLVED):
                _log.info(f"alert {event.change}", alert=event.alert.labels, value=event.alert.value)
        return _Outcome(state, wrote, error, self._clock.monotonic() - began, events)

    def _settle(self, key: str, each: _RuleSlot, now: Millis, outcome: _Outcome) -> None:
        """Take over and tell what came of an evaluation."""
        each.state, each.wrote = outcome.state, outcome.wrote
        self._metrics.evaluations.labels(key).inc()
        if outcome.error:
            self._metrics.failures.labels(key).inc()
            if outcome.error != each.status.last_error:
                _log.warn("rule evaluation failed", group=key, rule=each.rule.name, error=outcome.error)
        self._metrics.rule_seconds.observe(outcome.spent)
        each.status = RuleStatus(
            each.rule,
            health="err" if outcome.error else "ok",
            last_error=outcome.error,
            last_evaluation=now,
            duration=outcome.spent,
            alerts=tuple(each.state.alerts.values()),
            restored=each.state.restored,
        )
        if outcome.events:
            self._on_events(outcome.events)

    async def _restore(self, slot: _GroupSlot, now: Millis) -> None:
        for each in slot.rules:
            if each.state.restored or not isinstance(each.rule, AlertingRule):
                continue
            try:
                stored = await self._off_loop(self._stored, each.rule, now)
            except BrambleError as err:
                _log.warn("could not restore alerts", rule=each.rule.name, error=err)
                stored = {}
            each.state = alerting.restore(each.rule, each.state, now, stored, self._options.grace)
            each.status = replace(each.status, alerts=tuple(each.state.alerts.values()), restored=True)

    def _stored(self, rule: AlertingRule, now: Millis) -> Mapping[Labels, tuple[Millis, float]]:
        """The last ALERTS_FOR_STATE sample of each of the rule's alerts within the outage tolerance."""
        matchers = [Matcher(MatchType.EQ, NAME, ALERTS_FOR_STATE), Matcher(MatchType.EQ, ALERT_NAME, rule.alert)]
        found: dict[Labels, tuple[Millis, float]] = {}
        for batch in self._querier.select(matchers, Millis(now - self._options.outage_tolerance), now):
            for row, labels in enumerate(batch.labels):
                line = batch.timelines[batch.timeline_of[row]]
                for slot in range(len(line.timestamps) - 1, -1, -1):
                    if line.stale is None or not line.stale[slot]:
                        found[labels] = (Millis(int(line.timestamps[slot])), float(batch.values[row, slot]))
                        break
        return found

    async def _off_loop(self, function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *args)


def _naming(rule: Rule) -> Naming | AlertNaming:
    return AlertNaming(rule) if isinstance(rule, AlertingRule) else recorded(rule)


def _identity(rule: Rule) -> tuple[object, ...]:
    if isinstance(rule, AlertingRule):
        return ("alert", rule.alert, tuple(sorted((n, t.source) for n, t in rule.labels.items())))
    return ("record", rule.record, tuple(sorted(rule.labels.items())))


def evaluator(engine: Engine, querier: Querier, log: QueryLog | None = None, clock: Clock | None = None) -> Evaluate:
    """Evaluates rules with `engine` over `querier`; their queries are logged if there is a `log` (and a `clock`)."""

    def ask(rule: Rule, group: Group, time: Millis) -> Result:
        if log is None or clock is None or not log.enabled:
            return engine.instant(querier, rule.expr, time)
        began = clock.monotonic()
        result, error = None, ""
        try:
            result = engine.instant(querier, rule.expr, time)
        except BrambleError as err:
            error = str(err)
            raise
        finally:
            read, peak, took = (result.samples, result.peak_samples, result.took) if result else (0, 0, NOTHING)
            origin = {"ruleGroup": {"file": group.file, "name": group.name}}
            spent = clock.monotonic() - began
            log.write(Logged(rule.query, time, time, 0, 0.0, spent, read, peak, origin, error, took))
        return result

    def evaluate(rule: Rule, group: Group, time: Millis) -> Vector:
        result = ask(rule, group, time)
        if result.type is ValueType.SCALAR:
            return [(EMPTY, result.scalar)]
        if result.type is not ValueType.VECTOR or result.matrix is None:
            raise QueryError("rule result is not a vector or scalar")
        values: list[float | FloatHistogram] = result.matrix.values[:, 0].tolist()
        if result.matrix.histograms is not None:
            cells = result.matrix.histograms[:, 0].tolist()
            values = [value if cell is None else cell for value, cell in zip(values, cells, strict=True)]
        return list(zip(result.matrix.labels, values, strict=True))

    return evaluate


def _by_kind(vector: Vector) -> tuple[list[tuple[Labels, float]], Histograms]:
    native = [(labels, value, 0) for labels, value in vector if not isinstance(value, float)]
    return [(labels, value) for labels, value in vector if isinstance(value, float)], native


def store_writers(store: Store) -> Callable[[str], RowWriter]:
    """Writers into `store`, one source a rule, whose id follows from the rule's key."""

    def writer_of(key: str) -> RowWriter:
        return SourceWriter(store, SourceId(hashlib.sha256(b"rule;" + key.encode()).digest()[:16]), EMPTY)

    return writer_of
