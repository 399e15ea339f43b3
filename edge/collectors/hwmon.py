"""Hardware monitoring chips (kernel: Documentation/hwmon/sysfs-interface.rst), under node_exporter's names."""

import os
import re
from dataclasses import dataclass

from edge.collectors.background import SlowPart
from edge.collectors.base import (
    COUNTER,
    GAUGE,
    Collector,
    Desc,
    DescTable,
    DeviceFilter,
    NoDataError,
    Reading,
    Skip,
    flag,
)
from edge.collectors.files import list_dir, read_attr

REPLAN_SECONDS = 60.0
"""A chip's list of files is read again after this time, or when chips come and go."""

SLOW_CHIPS = frozenset({"w1_slave_temp"})
"""Chips that take most of a second a reading: 1-wire thermometers (drivers/w1/slaves/w1_therm.c)."""

SLOW_SECONDS = 0.1
"""A chip that took this long is read in the background from then on."""

SLOW_INTERVAL_SECONDS = 60.0
MAX_SLOW = 64

SENSOR_TYPES = frozenset(
    {
        *("vrm", "beep_enable", "update_interval", "in", "cpu", "fan", "pwm", "temp", "curr", "power", "energy"),
        *("humidity", "intrusion", "freq"),
    }
)
CHIP = Desc("node_hwmon_chip_names", GAUGE, "Annotation metric for human-readable chip names", ("chip", "chip_name"))
READ = Desc(
    "rpi_hwmon_read_timestamp_seconds",
    GAUGE,
    "When a slow hwmon chip was read, which is done in the background.",
    ("chip",),
)
LABEL = Desc("node_hwmon_sensor_label", GAUGE, "Label for given chip and sensor", ("chip", "sensor", "label"))

_FILE = re.compile(r"(?P<type>[^0-9]+)(?P<id>[0-9]*)?(_(?P<property>.+))?\Z", re.ASCII)
_UNCLEAN = re.compile(r"[^a-z0-9:_]", re.ASCII)
_FAN_RPM = frozenset({"input", "min", "max", "target"})
_AVERAGE_INTERVALS = frozenset({"average_interval", "average_interval_min", "average_interval_max"})


def clean(name: str) -> str:
    """`name` as part of a metric name or chip label: lower case, other characters as `_`, none at the ends."""
    return _UNCLEAN.sub("_", name.lower()).strip("_")


def split_file_name(name: str) -> tuple[str, str, str] | None:
    """(sensor type, sensor with number, element) of `temp1_input`; None if it is no sensor's file."""
    match = _FILE.match(name)
    if match is None or match["type"] not in SENSOR_TYPES:
        return None
    number = int(match["id"] or "0")
    return match["type"], f"{match['type']}{number}", match["property"] or ""


@dataclass(frozen=True, slots=True)
class Element:
    """How the file of one element of a sensor becomes a reading: value times `factor` divided by `divisor`."""

    desc: Desc
    path: str
    labels: tuple[str, str]
    factor: float = 1.0
    divisor: float = 1.0
    truth: bool = False


@dataclass(frozen=True, slots=True)
class Chip:
    """What to read of one chip: constant readings and elements."""

    chip: str
    constant: tuple[Reading, ...]
    elements: tuple[Element, ...]
    slow: bool = False


def describe(key: str) -> Desc:
    """Description for a key `name|kind|help` as `element_of` makes it."""
    name, kind, text = key.split("|", 2)
    return Desc(name, COUNTER if kind == "c" else GAUGE, text, ("chip", "sensor"))


def element_of(kind: str, element: str, has_value: bool, label: str | None) -> tuple[str, float, float] | None:
    """(key for `describe`, factor, divisor) of a sensor's element; None if node_exporter leaves it out.

    `has_value`: the sensor also has a file without element, which then takes the plain name.
    """
    if kind == "beep_enable":
        return "node_hwmon_beep_enabled|g|Hardware beep enabled", 1.0, 1.0
    if kind == "vrm":
        return "node_hwmon_voltage_regulator_version|g|Hardware voltage regulator", 1.0, 1.0
    if kind == "update_interval":
        return "node_hwmon_update_interval_seconds|g|Hardware monitor update interval", 0.001, 1.0
    name = f"node_hwmon_{kind}"
    if element == "input":
        if has_value:
            name += "_input"
    elif element:
        name += "_" + clean(element)
    if element in ("fault", "alarm"):
        return f"{name}|g|Hardware sensor {element} status ({kind})", 1.0, 1.0
    if element == "beep":
        return f"{name}_enabled|g|Hardware monitor sensor has beeping enabled", 1.0, 1.0
    if kind in ("in", "cpu"):
        return f"{name}_volts|g|Hardware monitor for voltage ({element})", 0.001, 1.0
    if kind == "temp" and element != "type":
        return f"{name}_celsius|g|Hardware monitor for temperature ({element or 'input'})", 0.001, 1.0
    if kind == "curr":
        return f"{name}_amps|g|Hardware monitor for current ({element})", 0.001, 1.0
    if kind == "energy":
        return f"{name}_joule_total|c|Hardware monitor for joules used so far ({element})", 1.0, 1e6
    if kind == "power":
        if element == "accuracy":
            return f"{name}|g|Hardware monitor power meter accuracy, as a ratio", 1.0, 1e6
        if element in _AVERAGE_INTERVALS:
            return f"{name}_seconds|g|Hardware monitor power usage update interval ({element})", 0.001, 1.0
        return f"{name}_watt|g|Hardware monitor for power usage in watts ({element})", 1.0, 1e6
    if kind == "humidity":
        text = "Hardware monitor for humidity, as a ratio (multiply with 100.0 to get the humidity as a percentage)"
        return f"{name}|g|{text} ({element})", 1.0, 1e6
    if kind == "fan" and element in _FAN_RPM:
        return f"{name}_rpm|g|Hardware monitor for fan revolutions per minute ({element})", 1.0, 1.0
    if kind == "freq" and element == "input":
        if label is None:
            return None
        return f"{name}_freq_mhz|g|Hardware monitor for GPU frequency in MHz", 1.0, 1e6
    return f"{name}|g|Hardware monitor {kind} element {element}", 1.0, 1.0


@dataclass(frozen=True, slots=True)
class HwmonOptions:
    """Flags of the hwmon collector."""

    chip_exclude: str = flag(
        "collector.hwmon.chip-exclude", "", "Regexp of hwmon chip to exclude (mutually exclusive to device-include)."
    )
    chip_include: str = flag(
        "collector.hwmon.chip-include", "", "Regexp of hwmon chip to include (mutually exclusive to device-exclude)."
    )
    sensor_exclude: str = flag(
        "collector.hwmon.sensor-exclude",
        "",
        "Regexp of hwmon sensor to exclude (mutually exclusive to sensor-include).",
    )
    sensor_include: str = flag(
        "collector.hwmon.sensor-include",
        "",
        "Regexp of hwmon sensor to include (mutually exclusive to sensor-exclude).",
    )


class HwmonCollector(Collector):
    """node_hwmon_*"""

    name = "hwmon"
    options_type = HwmonOptions
    descs = (CHIP, LABEL, READ)
    options: HwmonOptions

    def _prepare(self) -> None:
        given = self.options
        self._chips = DeviceFilter(given.chip_exclude, given.chip_include, "collector.hwmon.chip")
        self._sensors = DeviceFilter(given.sensor_exclude, given.sensor_include, "collector.hwmon.sensor")
        self._descs = DescTable(describe)
        self._dirs: list[str] = []
        self._plan: list[Chip] = []
        self._planned = float("-inf")
        self._slow: dict[str, SlowPart] = {}

    def collect(self, skip: Skip) -> list[Reading]:
        base = self.paths.sys("class/hwmon")
        try:
            dirs = list_dir(base)
        except FileNotFoundError:
            raise NoDataError(f"{base} does not exist") from None
        now = self.clock.monotonic()
        if dirs != self._dirs or now - self._planned >= REPLAN_SECONDS:
            self._plan = self.plan(base, dirs, skip)
            self._dirs, self._planned = dirs, now
            self._forget({chip.chip for chip in self._plan})
        readings: list[Reading] = []
        for chip in self._plan:
            readings += chip.constant
            if chip.chip in self._slow:
                readings += self._slow_readings(chip, skip)
            elif chip.slow:
                self._defer(chip)
            else:
                began = self.clock.monotonic()
                readings += read_elements(chip.elements, skip)
                if self.clock.monotonic() - began > SLOW_SECONDS:
                    self._defer(chip)
        return readings

    def close(self) -> None:
        self._forget(set())

    def _defer(self, chip: Chip) -> None:
        """Read this chip in the background from now on."""
        if len(self._slow) < MAX_SLOW:
            part = SlowPart(
                f"hwmon {chip.chip}", lambda skip: self._read_slow(chip, skip), SLOW_INTERVAL_SECONDS, self.clock
            )
            self._slow[chip.chip] = part
            part.start()

    def _read_slow(self, chip: Chip, skip: Skip) -> list[Reading]:
        readings = read_elements(chip.elements, skip)
        return [*readings, (READ, (chip.chip,), self.clock.now() / 1000.0)] if readings else []

    def _slow_readings(self, chip: Chip, skip: Skip) -> list[Reading]:
        try:
            return self._slow[chip.chip].collect(skip)
        except NoDataError:
            return []  # the first round is not over yet

    def _forget(self, chips: set[str]) -> None:
        """Stop reading slow chips that are gone."""
        for name in self._slow.keys() - chips:
            self._slow.pop(name).close()

    def plan(self, base: str, dirs: list[str], skip: Skip) -> list[Chip]:
        """What to read of every chip that the flags leave in."""
        names = {name: chip_name(f"{base}/{name}") for name in dirs}
        plan: list[Chip] = []
        taken: set[str] = set()
        for directory in dirs:
            path = f"{base}/{directory}"
            chip, human = names[directory]
            if sum(other == chip for other, _ in names.values()) > 1:
                # Chips below one device: the driver's name tells them apart, else the number does.
                chip = f"{chip}_{human or directory}"
                if chip in taken:
                    chip = f"{chip}_{directory}"
            taken.add(chip)
            if self._chips.ignored(chip):
                continue
            try:
                plan.append(self._plan_chip(path, chip, human))
            except OSError as err:
                skip(path, err)
        return plan

    def _plan_chip(self, path: str, chip: str, human: str) -> Chip:
        files: dict[str, dict[str, str]] = {}
        kinds: dict[str, str] = {}
        for folder in (path, f"{path}/device"):
            try:
                names = list_dir(folder)
            except OSError:
                if folder == path:
                    raise
                continue
            for name in names:
                parts = split_file_name(name)
                if parts is not None and not os.path.isdir(f"{folder}/{name}"):  # noqa: PTH112
                    kind, sensor, element = parts
                    kinds[sensor] = kind
                    files.setdefault(sensor, {})[element] = f"{folder}/{name}"
        constant: list[Reading] = [(CHIP, (chip, human), 1.0)] if human else []
        elements: list[Element] = []
        for sensor, paths in files.items():
            if self._sensors.ignored(f"{chip};{sensor}"):
                continue
            label = _label(paths)
            if label is not None:
                constant.append((LABEL, (chip, sensor, label), 1.0))
            kind = kinds[sensor]
            for element, file in paths.items():
                if element == "label" or (element and kind in ("beep_enable", "vrm", "update_interval")):
                    continue
                found = element_of(kind, element, "" in paths, label)
                if found is None:
                    continue
                key, factor, divisor = found
                shown = clean(label) if label is not None and key.endswith("in MHz") else sensor
                elements.append(
                    Element(self._descs[key], file, (chip, shown), factor, divisor, truth=kind == "beep_enable")
                )
        return Chip(chip, tuple(constant), tuple(elements), human in SLOW_CHIPS)


def read_elements(elements: tuple[Element, ...], skip: Skip) -> list[Reading]:
    """Readings of these files; an empty one is no reading, garbage is skipped."""
    readings: list[Reading] = []
    for element in elements:
        try:
            text = read_attr(element.path)
            value = float(text == "1") if element.truth else float(text)
        except OSError as err:
            skip(element.path, err)
        except ValueError as err:
            if text:
                skip(element.path, err)
        else:
            if value - value == 0:
                readings.append((element.desc, element.labels, value * element.factor / element.divisor))
    return readings


def chip_name(path: str) -> tuple[str, str]:
    """(name from the place of the chip's device, name that the driver gives or '') of a hwmon directory."""
    try:
        human = clean(read_attr(f"{path}/name"))
    except OSError:
        human = ""
    if os.path.exists(f"{path}/device"):  # noqa: PTH110
        parent, device = os.path.split(os.path.realpath(f"{path}/device"))
        kind = clean(os.path.basename(parent))  # noqa: PTH119
        device = clean(device)
        if device:
            return (f"{kind}_{device}" if kind else device), human
    return human or clean(os.path.basename(os.path.realpath(path))), human  # noqa: PTH119


def _label(paths: dict[str, str]) -> str | None:
    if "label" not in paths:
        return None
    try:
        return read_attr(paths["label"])
    except OSError:
        return None
