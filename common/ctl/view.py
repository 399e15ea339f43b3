"""What `bramblectl run` shows: queries to the hub, and the table made of their answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.ctl.client import Client, Point
from common.ctl.table import number, printable, render
from common.errors import RemoteError

QUERIES = {
    "series": 'count by (instance) ({job="node"})',
    "rate": "sum by (instance) (rate(bramble_edge_samples_appended_total[30s]))",
    # Idle against all time, not against the window: right from the second sample on.
    "cpu": '100 * (1 - sum by (instance) (rate(node_cpu_seconds_total{mode="idle"}[30s]))'
    " / sum by (instance) (rate(node_cpu_seconds_total[30s])))",
    "memory": "100 * (1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes)",
    "temperature": "max by (instance) (node_thermal_zone_temp) or max by (instance) (node_hwmon_temp_celsius)",
}


@dataclass(frozen=True, slots=True)
class AgentRow:
    """One agent's figures; None is "not there (yet)"."""

    instance: str
    health: str
    error: str
    series: float | None
    rate: float | None
    cpu: float | None
    memory: float | None
    temperature: float | None


@dataclass(frozen=True, slots=True)
class AlertRow:
    """One pending or firing alert."""

    name: str
    state: str
    where: str
    value: str


@dataclass(frozen=True, slots=True)
class LampRow:
    """One indicator."""

    name: str
    pin: str
    pattern: str
    on: bool


@dataclass(frozen=True, slots=True)
class View:
    """All that the table shows at one moment."""

    agents: tuple[AgentRow, ...]
    alerts: tuple[AlertRow, ...]
    lamps: tuple[LampRow, ...]

    @property
    def complete(self) -> bool:
        """Whether every agent has every figure that takes more than one sample."""
        return bool(self.agents) and all(
            a.health == "up" and None not in (a.series, a.cpu, a.memory) for a in self.agents
        )


def by_instance(points: Sequence[Point]) -> dict[str, float]:
    """Values by the label `instance`."""
    return {p.labels.get("instance", ""): p.value for p in points}


def fetch(client: Client) -> View:
    """Ask the hub for everything; RemoteError if it can't answer."""
    figures = {name: by_instance(client.instant(query)) for name, query in QUERIES.items()}
    targets = client.api("/api/v1/targets", {"state": "active"})
    alerts = client.api("/api/v1/alerts")
    lamps = client.api("/api/v1/bramble/panel")
    try:
        agents = [
            _agent(target["labels"]["instance"], target, figures)
            for target in targets["activeTargets"]
            if target["labels"].get("job") == "node"
        ]
        return View(
            tuple(sorted(agents, key=lambda row: row.instance)),
            tuple(
                AlertRow(a["labels"]["alertname"], a["state"], a["labels"].get("instance", ""), str(a["value"]))
                for a in alerts["alerts"]
            ),
            tuple(
                LampRow(lamp["name"], _pin(lamp["pin"]), lamp["pattern"], bool(lamp["on"])) for lamp in lamps["lamps"]
            ),
        )
    except (KeyError, TypeError) as err:
        raise RemoteError(f"{client.base}: unexpected shape of an answer: {err!r}") from None


def _pin(pin: object) -> str:
    """Numbers are the Broadcom numbers that gpiozero uses."""
    return f"GPIO{pin}" if isinstance(pin, int) else str(pin)


def _agent(instance: str, target: Mapping[str, object], figures: Mapping[str, Mapping[str, float]]) -> AgentRow:
    def figure(name: str) -> float | None:
        return figures[name].get(instance)

    return AgentRow(
        instance,
        str(target.get("health", "unknown")),
        str(target.get("lastError", "")),
        figure("series"),
        figure("rate"),
        figure("cpu"),
        figure("memory"),
        figure("temperature"),
    )


def text(view: View) -> str:
    """The tables, for a terminal."""
    firing = {a.instance: sum(r.state == "firing" and r.where == a.instance for r in view.alerts) for a in view.agents}
    agents = render(
        ("AGENT", "STATE", "SERIES", "SAMPLES/S", "CPU", "MEMORY", "TEMPERATURE", "ALERTS"),
        [
            (
                a.instance,
                a.health if not a.error else f"{a.health}: {a.error}",
                number(a.series),
                number(a.rate, 1),
                number(a.cpu, 1, " %"),
                number(a.memory, 1, " %"),
                number(a.temperature, 1, " °C"),
                f"{firing[a.instance]} firing" if firing[a.instance] else "none",
            )
            for a in view.agents
        ],
        right=frozenset({2, 3, 4, 5, 6}),
    )
    alerts = render(("ALERT", "STATE", "WHERE", "VALUE"), [(a.name, a.state, a.where, a.value) for a in view.alerts])
    lamps = render(
        ("LAMP", "PIN", "PATTERN", "NOW"),
        [(lamp.name, lamp.pin, lamp.pattern, "● on" if lamp.on else "○ off") for lamp in view.lamps],
    )
    return "\n\n".join([agents, alerts if view.alerts else "No alert is pending or firing.", lamps])


def changes(before: View, after: View) -> list[str]:
    """A line for each alert, lamp or agent that changed its state."""
    lines = []
    was = {(a.name, a.where): a.state for a in before.alerts}
    now = {(a.name, a.where): a.state for a in after.alerts}
    for name, where in sorted(was.keys() | now.keys()):
        old, new = was.get((name, where), "inactive"), now.get((name, where), "inactive")
        if old != new:
            lines.append(f"alert {printable(name)} {printable(where)}: {old} -> {new}".replace(" :", ":"))
    lamps = {lamp.name: lamp.pattern for lamp in before.lamps}
    lines += [
        f"lamp {printable(lamp.name)} ({printable(lamp.pin)}): {lamp.pattern}"
        for lamp in after.lamps
        if lamps.get(lamp.name) != lamp.pattern
    ]
    health = {a.instance: a.health for a in before.agents}
    lines += [
        f"agent {printable(a.instance)}: {a.health} {printable(a.error)}".rstrip()
        for a in after.agents
        if health.get(a.instance) != a.health
    ]
    return lines
