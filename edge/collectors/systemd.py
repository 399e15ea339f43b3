"""systemd's units (org.freedesktop.systemd1(5)), over the system bus or, as root, systemd's own socket."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from common.errors import ConfigError
from edge.collectors.base import COUNTER, GAUGE, Collector, Desc, NoDataError, Reading, Skip, flag
from edge.collectors.dbus import Connection, DBusError

_NAME = ("name",)
UNIT = Desc("node_systemd_unit_state", GAUGE, "Systemd unit", ("name", "state", "type"))
START = Desc(
    "node_systemd_unit_start_time_seconds", GAUGE, "Start time of the unit since unix epoch in seconds.", _NAME
)
TASKS = Desc("node_systemd_unit_tasks_current", GAUGE, "Current number of tasks per Systemd unit", _NAME)
TASKS_MAX = Desc("node_systemd_unit_tasks_max", GAUGE, "Maximum number of tasks per Systemd unit", _NAME)
RUNNING = Desc(
    "node_systemd_system_running", GAUGE, "Whether the system is operational (see 'systemctl is-system-running')"
)
UNITS = Desc("node_systemd_units", GAUGE, "Summary of systemd unit states", ("state",))
RESTARTS = Desc("node_systemd_service_restart_total", COUNTER, "Service unit count of Restart triggers", _NAME)
TRIGGER = Desc("node_systemd_timer_last_trigger_seconds", GAUGE, "Seconds since epoch of last trigger.", _NAME)
ACCEPTED = Desc(
    "node_systemd_socket_accepted_connections_total", COUNTER, "Total number of accepted socket connections", _NAME
)
CONNECTIONS = Desc("node_systemd_socket_current_connections", GAUGE, "Current number of socket connections", _NAME)
REFUSED = Desc(
    "node_systemd_socket_refused_connections_total", GAUGE, "Total number of refused socket connections", _NAME
)
VERSION = Desc("node_systemd_version", GAUGE, "Detected systemd version", ("version",))
VIRTUALIZATION = Desc(
    "node_systemd_virtualization_info", GAUGE, "Detected virtualization technology", ("virtualization_type",)
)

STATES = ("active", "activating", "deactivating", "inactive", "failed")
SERVICE = "org.freedesktop.systemd1"
MANAGER = f"{SERVICE}.Manager"
OBJECT = "/org/freedesktop/systemd1"
BUS, PRIVATE = "run/dbus/system_bus_socket", "run/systemd/private"
MAX_UNITS = 4096
NEVER = (1 << 64) - 1

_VERSION = re.compile(r"[0-9]{3,}(\.[0-9]+)?")


@dataclass(frozen=True, slots=True)
class SystemdOptions:
    """Flags of the systemd collector."""

    include: str = flag(
        "collector.systemd.unit-include",
        ".+",
        "Regexp of systemd units to include. Units must both match include and not match exclude to be included.",
    )
    exclude: str = flag(
        "collector.systemd.unit-exclude",
        r".+\.(automount|device|mount|scope|slice)",
        "Regexp of systemd units to exclude. Units must both match include and not match exclude to be included.",
    )
    private: bool = flag(
        "collector.systemd.private", False, "Connect to systemd without the bus, which takes root's rights."
    )
    tasks: bool = flag(
        "collector.systemd.enable-task-metrics",
        False,
        "Enables service unit tasks metrics unit_tasks_current and unit_tasks_max",
    )
    restarts: bool = flag(
        "collector.systemd.enable-restarts-metrics", False, "Enables service unit metric service_restart_total"
    )
    starts: bool = flag(
        "collector.systemd.enable-start-time-metrics", False, "Enables service unit metric unit_start_time_seconds"
    )


class Unit(NamedTuple):
    """A unit of ListUnits, as far as it is used."""

    name: str
    loaded: bool
    state: str
    path: str

    @property
    def kind(self) -> str:
        """`service`, `timer`, ..."""
        return self.name.rpartition(".")[2]


def parse_units(values: object) -> list[Unit]:
    """Units of the array of structs that ListUnits returns; DBusError if it is something else."""
    if not isinstance(values, list):
        raise DBusError("ListUnits: expected a list")
    units: list[Unit] = []
    for entry in values[:MAX_UNITS]:
        if not isinstance(entry, tuple) or len(entry) < 7:
            raise DBusError("ListUnits: expected structs of ten fields")
        units.append(Unit(str(entry[0]), entry[2] == "loaded", str(entry[3]), str(entry[6])))
    return units


class SystemdCollector(Collector):
    """node_systemd_*"""

    name = "systemd"
    default_enabled = False
    options_type = SystemdOptions
    descs = (
        *(UNIT, START, TASKS, TASKS_MAX, RUNNING, UNITS, RESTARTS, TRIGGER, ACCEPTED, CONNECTIONS, REFUSED, VERSION),
        VIRTUALIZATION,
    )
    options: SystemdOptions

    def _prepare(self) -> None:
        self._patterns: list[re.Pattern[str]] = []
        for name, text in (("unit-include", self.options.include), ("unit-exclude", self.options.exclude)):
            try:
                self._patterns.append(re.compile(text))
            except re.error as err:
                raise ConfigError(f"--collector.systemd.{name}: not a regular expression: {err}: {text!r}") from None
        self._types: dict[str, str] = {}

    def collect(self, skip: Skip) -> list[Reading]:
        private = self.options.private
        address = self.paths.root(PRIVATE if private else BUS)
        try:
            connection = Connection(address, is_bus=not private)
        except FileNotFoundError:
            raise NoDataError(f"{address} does not exist: is this a machine with systemd?") from None
        try:
            return self._read(connection, skip)
        finally:
            connection.close()

    def _read(self, bus: Connection, skip: Skip) -> list[Reading]:
        readings: list[Reading] = []
        version = str(bus.property(SERVICE, OBJECT, MANAGER, "Version"))
        match = _VERSION.search(version)
        readings.append((VERSION, (version,), float(match[0]) if match else 0.0))
        kind = str(bus.property(SERVICE, OBJECT, MANAGER, "Virtualization")) or "none"
        readings.append((VIRTUALIZATION, (kind,), 1.0))
        units = parse_units(bus.call(SERVICE, OBJECT, MANAGER, "ListUnits")[0])
        states = Counter(unit.state for unit in units)
        readings += [(UNITS, (state,), float(states[state])) for state in STATES]
        include, exclude = self._patterns
        known, self._types = self._types, {}
        for unit in units:
            if unit.loaded and include.fullmatch(unit.name) and not exclude.fullmatch(unit.name):
                try:
                    readings += self._unit(bus, unit, known)
                except DBusError as err:
                    skip(unit.name, err)
        state = bus.property(SERVICE, OBJECT, MANAGER, "SystemState")
        readings.append((RUNNING, (), 1.0 if state == "running" else 0.0))
        return readings

    def _unit(self, bus: Connection, unit: Unit, known: dict[str, str]) -> list[Reading]:
        def number(interface: str, name: str) -> float | None:
            value = bus.property(SERVICE, unit.path, f"{SERVICE}.{interface}", name)
            return None if not isinstance(value, int) or value == NEVER else float(value)

        name = (unit.name,)
        wanted: list[tuple[Desc, float | None]] = []
        shown = ""
        if unit.kind in ("service", "mount"):
            shown = known.get(unit.name, "")
            if not shown:
                shown = str(bus.property(SERVICE, unit.path, f"{SERVICE}.{unit.kind.capitalize()}", "Type"))
            self._types[unit.name] = shown
        readings: list[Reading] = [
            (UNIT, (unit.name, state, shown), 1.0 if state == unit.state else 0.0) for state in STATES
        ]
        if unit.kind == "service":
            if self.options.restarts:
                wanted.append((RESTARTS, number("Service", "NRestarts")))
            if self.options.tasks:
                wanted += [(TASKS, number("Service", "TasksCurrent")), (TASKS_MAX, number("Service", "TasksMax"))]
        elif unit.kind == "timer":
            usec = number("Timer", "LastTriggerUSec")
            wanted.append((TRIGGER, None if usec is None else usec / 1e6))
        elif unit.kind == "socket":
            wanted += [(ACCEPTED, number("Socket", "NAccepted")), (CONNECTIONS, number("Socket", "NConnections"))]
            wanted.append((REFUSED, number("Socket", "NRefused")))
        if self.options.starts:
            usec = number("Unit", "ActiveEnterTimestamp") if unit.state == "active" else 0.0
            wanted.append((START, None if usec is None else usec / 1e6))
        return readings + [(desc, name, value) for desc, value in wanted if value is not None]
