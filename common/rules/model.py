"""Words of rule evaluation: groups and rules as loaded, alerts and their states, what the API shows of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from common.labels import EMPTY, Labels
from common.promql.ast import Expr
from common.rules.template import Template
from common.sample import Millis

ALERTS = "ALERTS"
ALERTS_FOR_STATE = "ALERTS_FOR_STATE"
ALERT_NAME = "alertname"
ALERT_STATE = "alertstate"

RESOLVED_RETENTION_MS = 15 * 60_000
"""How long a resolved alert is kept, so that receivers hear of it (Prometheus, rules/alerting.go)."""


@dataclass(frozen=True, slots=True)
class RecordingRule:
    """Writes the result of `expr` as series named `record`; `labels` override, an empty value removes."""

    record: str
    expr: Expr
    query: str
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The series it writes."""
        return self.record


@dataclass(frozen=True, slots=True)
class AlertingRule:
    """Every series of `expr` is an alert; pending for `hold` ms, kept firing for `keep_firing` ms after its end."""

    alert: str
    expr: Expr
    query: str
    hold: int = 0
    keep_firing: int = 0
    labels: Mapping[str, Template] = field(default_factory=dict)
    annotations: Mapping[str, Template] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The alert's name."""
        return self.alert


Rule = RecordingRule | AlertingRule


@dataclass(frozen=True, slots=True)
class Group:
    """Rules evaluated one after another at the same instants; durations ms, `limit` 0 for none."""

    file: str
    name: str
    interval: int
    rules: tuple[Rule, ...]
    query_offset: int = 0
    limit: int = 0

    @property
    def key(self) -> str:
        """Identity across reloads, `file;name` as in Prometheus's metrics."""
        return f"{self.file};{self.name}"


class AlertState(StrEnum):
    """States of an alert, and of an alerting rule (its worst alert's)."""

    UNKNOWN = "unknown"
    INACTIVE = "inactive"
    PENDING = "pending"
    FIRING = "firing"


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert: `labels` include `alertname`; times ms or None. INACTIVE is resolved and kept for a while."""

    labels: Labels
    annotations: Labels
    state: AlertState
    value: float
    active_at: Millis
    fired_at: Millis | None = None
    resolved_at: Millis | None = None
    keep_firing_since: Millis | None = None


@dataclass(frozen=True, slots=True)
class RuleStatus:
    """A rule and its last evaluation: `health` is unknown, ok or err; duration in seconds."""

    rule: Rule
    health: str = "unknown"
    last_error: str = ""
    last_evaluation: Millis | None = None
    duration: float = 0.0
    alerts: tuple[Alert, ...] = ()
    restored: bool = True

    @property
    def state(self) -> AlertState:
        """The worst state of the rule's alerts; unknown before its first evaluation."""
        if self.last_evaluation is None:
            return AlertState.UNKNOWN
        states = {alert.state for alert in self.alerts}
        for state in (AlertState.FIRING, AlertState.PENDING):
            if state in states:
                return state
        return AlertState.INACTIVE


@dataclass(frozen=True, slots=True)
class GroupStatus:
    """A group, its rules' states and its last iteration (duration in seconds)."""

    group: Group
    rules: tuple[RuleStatus, ...]
    last_evaluation: Millis | None = None
    duration: float = 0.0
    missed: int = 0


def static_labels(rule: AlertingRule) -> Labels:
    """The rule's labels as written, `alertname` not among them."""
    return EMPTY.merge({name: template.source for name, template in rule.labels.items()})
