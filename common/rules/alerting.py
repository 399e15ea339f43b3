"""The state machine of an alerting rule, after Prometheus (rules/alerting.go): pure steps on values and `now`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial

from common.errors import LimitError, QueryError
from common.labels import EMPTY, NAME, Labels
from common.rules.model import (
    ALERT_NAME,
    ALERT_STATE,
    ALERTS,
    ALERTS_FOR_STATE,
    RESOLVED_RETENTION_MS,
    Alert,
    AlertingRule,
    AlertState,
)
from common.rules.naming import Naming
from common.rules.template import Context, Template, TemplateError
from common.sample import Millis

Vector = Sequence[tuple[Labels, float]]


class Change(StrEnum):
    """What happened to an alert in a step."""

    PENDING = "pending"
    FIRING = "firing"
    RESOLVED = "resolved"
    DROPPED = "dropped"  # pending, and gone before it fired


@dataclass(frozen=True, slots=True)
class Event:
    """A change of one alert, with the alert as it is after it."""

    change: Change
    alert: Alert


@dataclass(frozen=True, slots=True)
class RuleState:
    """Alerts of one rule by their labels. Until `restored`, no series are written (they would hide the old ones)."""

    alerts: Mapping[Labels, Alert] = field(default_factory=dict)
    restored: bool = True


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What templates see besides the alert."""

    external_labels: Labels = EMPTY
    external_url: str = ""


class AlertNaming:
    """Label sets that a rule makes, remembered from one evaluation to the next: of alerts, and of their series."""

    def __init__(self, rule: AlertingRule) -> None:
        own = {**{name: template.source for name, template in rule.labels.items()}, ALERT_NAME: rule.alert}
        constant = all(template.constant for template in rule.labels.values())
        self.alerts = Naming(lambda labels: labels.without_name().merge(own)) if constant else None
        """Of alerts by those of samples; None if they may depend on values."""
        self.states = {
            state: Naming(partial(_state_labels, state)) for state in (AlertState.PENDING, AlertState.FIRING)
        }
        self.for_state = Naming(for_state_labels)


def step(
    rule: AlertingRule,
    state: RuleState,
    now: Millis,
    vector: Vector,
    limit: int = 0,
    around: Surroundings | None = None,
    naming: AlertNaming | None = None,
) -> tuple[RuleState, list[Event]]:
    """The rule's state after its expression gave `vector` at `now`, and what changed.

    Raises QueryError for two alerts with equal labels and LimitError for more than `limit` (if not 0) alerts; the
    caller keeps the old state after the former and drops all alerts after the latter, as Prometheus does. `naming` is
    the rule's, if it is evaluated again and again.
    """
    found = _found(rule, now, vector, around or Surroundings(), naming or AlertNaming(rule))
    alerts: dict[Labels, Alert] = {}
    events: list[Event] = []
    for labels, fresh in found.items():
        old = state.alerts.get(labels)
        if old is None or old.state is AlertState.INACTIVE:
            alerts[labels] = fresh
        else:
            alerts[labels] = replace(old, value=fresh.value, annotations=fresh.annotations, keep_firing_since=None)
    for labels, old in state.alerts.items():
        if labels not in found:
            after, event = _missing(rule, old, now)
            if after is not None:
                alerts[labels] = after
            if event is not None:
                events.append(event)
    active = 0
    for labels, alert in alerts.items():
        if alert.state is AlertState.INACTIVE:
            continue
        active += 1
        if alert.state is AlertState.PENDING:
            previous = state.alerts.get(labels)
            if now - alert.active_at >= rule.hold:
                alert = replace(alert, state=AlertState.FIRING, fired_at=now)
                alerts[labels] = alert
                events.append(Event(Change.FIRING, alert))
            elif previous is None or previous.state is AlertState.INACTIVE:
                events.append(Event(Change.PENDING, alert))
    if limit and active > limit:
        raise LimitError(f"exceeded limit of {limit} with {active} alerts")
    return RuleState(alerts, state.restored), events


def _found(
    rule: AlertingRule, now: Millis, vector: Vector, around: Surroundings, naming: AlertNaming
) -> dict[Labels, Alert]:
    found: dict[Labels, Alert] = {}
    known = None if naming.alerts is None else naming.alerts.all_of([labels for labels, _ in vector])
    for at, (sample_labels, value) in enumerate(vector):
        context = Context(sample_labels.without_name(), value, around.external_labels, around.external_url)
        if known is None:
            labels = context.labels.merge({**_expand(rule.labels, context), ALERT_NAME: rule.alert})
        else:
            labels = known[at]
        if labels in found:
            raise QueryError("vector contains metrics with the same labelset after applying alert labels")
        # As in Prometheus an annotation may be empty, where its template comes to nothing.
        annotations = Labels.from_sorted(tuple(sorted(_expand(rule.annotations, context).items())))
        found[labels] = Alert(labels, annotations, AlertState.PENDING, value, now)
    return found


def _expand(templates: Mapping[str, Template], context: Context) -> dict[str, str]:
    out: dict[str, str] = {}
    for name, template in templates.items():
        try:
            out[name] = template.expand(context)
        except TemplateError as err:
            # One label's text must not cost the alert.
            out[name] = f"<error expanding template: {err}>"
    return out


def _missing(rule: AlertingRule, alert: Alert, now: Millis) -> tuple[Alert | None, Event | None]:
    if alert.state is AlertState.PENDING:
        gone = replace(alert, state=AlertState.INACTIVE)
        return None, Event(Change.DROPPED, gone)
    if alert.state is AlertState.INACTIVE:
        assert alert.resolved_at is not None
        return (None, None) if now - alert.resolved_at > RESOLVED_RETENTION_MS else (alert, None)
    if rule.keep_firing > 0:
        since = alert.keep_firing_since if alert.keep_firing_since is not None else now
        if now - since < rule.keep_firing:
            return replace(alert, keep_firing_since=since), None
    resolved = replace(alert, state=AlertState.INACTIVE, resolved_at=now)
    return resolved, Event(Change.RESOLVED, resolved)


def series(state: RuleState, naming: AlertNaming) -> list[tuple[Labels, float]]:
    """ALERTS (value 1) and ALERTS_FOR_STATE (active since, Unix seconds) of pending and firing alerts.

    `naming` is the rule's.
    """
    if not state.restored:
        return []
    rows: list[tuple[Labels, float]] = []
    alerts = [alert for alert in state.alerts.values() if alert.state is not AlertState.INACTIVE]
    for each, names in naming.states.items():
        rows += [(labels, 1.0) for labels in names.all_of([alert.labels for alert in alerts if alert.state is each])]
    since = naming.for_state.all_of([alert.labels for alert in alerts])
    rows += [(labels, float(alert.active_at // 1000)) for labels, alert in zip(since, alerts, strict=True)]
    return rows


def _state_labels(state: AlertState, labels: Labels) -> Labels:
    return labels.merge({NAME: ALERTS, ALERT_STATE: state.value})


def for_state_labels(labels: Labels) -> Labels:
    """Labels of the ALERTS_FOR_STATE series of an alert."""
    return labels.merge({NAME: ALERTS_FOR_STATE})


def restore(
    rule: AlertingRule,
    state: RuleState,
    now: Millis,
    stored: Mapping[Labels, tuple[Millis, float]],
    grace: int,
) -> RuleState:
    """Give alerts back the time they had been pending before a restart.

    `stored` holds, by labels of ALERTS_FOR_STATE, the last sample (ms, Unix seconds) within the outage tolerance. An
    alert that had `grace` ms or more to wait goes on as if the outage had not been; one that had less waits `grace`
    again; one that fired fires in the next step.
    """
    if rule.hold < grace:
        return replace(state, restored=True)
    alerts = dict(state.alerts)
    for labels, alert in alerts.items():
        last = stored.get(for_state_labels(labels))
        if last is None or last[1] != last[1] or alert.state is AlertState.INACTIVE:
            continue
        down_at, since = last[0], int(last[1] * 1000)
        remaining = rule.hold - (down_at - since)
        if remaining <= 0:
            active_at = since
        elif remaining < grace:
            active_at = now + grace - rule.hold
        else:
            active_at = since + (now - down_at)
        alerts[labels] = replace(alert, active_at=Millis(active_at))
    return RuleState(alerts, restored=True)
