"""Sensors of the Industrial I/O subsystem, in base units (kernel: Documentation/ABI/testing/sysfs-bus-iio)."""

import errno
import re
from collections.abc import Callable
from dataclasses import dataclass

from common.errors import ConfigError, FormatError
from common.units import parse_duration
from edge.collectors.background import BackgroundCollector
from edge.collectors.base import GAUGE, Desc, DescTable, NoDataError, Reading, Skip, flag
from edge.collectors.files import list_dir, optional_attr, read_attr

READ = Desc("rpi_iio_read_timestamp_seconds", GAUGE, "When the device was read.", ("device", "chip"))

RETRY_SECONDS = 2.0
RETRIES = 2
BUSY = frozenset({errno.EIO, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY})
"""How a DHT11 and its like say "not now": the kernel's driver wants 2 s between two tries."""

MAX_CHANNELS = 64

_CHANNEL = re.compile(
    r"in_(?P<type>[a-z]+?)(?P<index>[0-9]*)(?P<modifier>(?:[-_][a-z0-9]+)*)_(?P<kind>raw|input)\Z", re.ASCII
)


def humidity_ratio(value: float) -> float:
    """Ratio of milli-percent; the bme680 driver gives percent, which is never over 100."""
    return value / 100.0 if value <= 100.0 else value / 100_000.0


def pascals(value: float) -> float:
    """Pascal of kilopascal; the bme680 driver of older kernels gives hectopascal, which on Earth is over 200."""
    return value * 100.0 if value > 200.0 else value * 1000.0


def _times(factor: float) -> Callable[[float], float]:
    return lambda value: value * factor


TYPES: dict[str, tuple[str, str, Callable[[float], float]]] = {
    "temp": ("temperature_celsius", "Temperature", lambda value: value / 1000.0),
    "humidityrelative": ("humidity_ratio", "Relative humidity, of 1", humidity_ratio),
    "pressure": ("pressure_pascals", "Pressure", pascals),
    "voltage": ("voltage_volts", "Voltage", lambda value: value / 1000.0),
    "altvoltage": ("altvoltage_volts", "Alternating voltage", lambda value: value / 1000.0),
    "current": ("current_amperes", "Current", lambda value: value / 1000.0),
    "power": ("power_watts", "Power", lambda value: value / 1000.0),
    "energy": ("energy_joules", "Energy", _times(1.0)),
    "illuminance": ("illuminance_lux", "Illuminance", _times(1.0)),
    "resistance": ("resistance_ohms", "Resistance", _times(1.0)),
    "capacitance": ("capacitance_farads", "Capacitance", _times(1e-9)),
    "distance": ("distance_meters", "Distance", _times(1.0)),
    "concentration": ("concentration_ratio", "Concentration, of 1", lambda value: value / 100.0),
    "accel": ("acceleration_meters_per_square_second", "Acceleration", _times(1.0)),
    "anglvel": ("angular_velocity_radians_per_second", "Angular velocity", _times(1.0)),
    "magn": ("magnetic_flux_density_teslas", "Magnetic flux density", _times(1e-4)),
    "phaseshift": ("phase_shift_radians", "Phase shift", _times(1.0)),
}
"""Channel type -> metric's ending, its help, and the way from the kernel's unit."""


def describe(kind: str) -> Desc:
    """Description of a channel type; one that is not known here keeps the kernel's unit."""
    known = TYPES.get(kind)
    name, text = (known[0], f"{known[1]} by an IIO device.") if known else (kind, f"IIO channel {kind}, as it is.")
    return Desc(f"rpi_iio_{name}", GAUGE, text, ("device", "chip", "channel"))


@dataclass(frozen=True, slots=True)
class Channel:
    """One input: its type, the rest of its name as label, and the file that holds it."""

    kind: str
    label: str
    file: str


def find_channels(names: list[str]) -> list[Channel]:
    """Inputs among the files of a device; a processed value (`_input`) wins over a raw one."""
    found: dict[tuple[str, str], Channel] = {}
    for name in names:
        match = _CHANNEL.match(name)
        if match is None:
            continue
        label = (match["index"] + match["modifier"].replace("_", "-")).strip("-")
        key = (match["type"], label)
        if match["kind"] == "input" or key not in found:
            found[key] = Channel(match["type"], label, name)
    return list(found.values())[:MAX_CHANNELS]


def number(text: str, what: str) -> float:
    """A finite decimal number; FormatError names `what` if it is none."""
    try:
        value = float(text)
    except ValueError:
        raise FormatError(f"{what}: expected a number, got {text[:40]!r}") from None
    if value - value != 0:
        raise FormatError(f"{what}: not a finite number: {text[:40]!r}")
    return value


@dataclass(frozen=True, slots=True)
class RpiIioOptions:
    """Flags of the rpi_iio collector."""

    interval: str = flag("collector.rpi_iio.interval", "15s", "How often the IIO devices are read.")


class RpiIioCollector(BackgroundCollector):
    """rpi_iio_*"""

    name = "rpi_iio"
    silent_without_data = True
    options_type = RpiIioOptions
    descs = (*map(describe, TYPES), READ)
    options: RpiIioOptions

    def _prepare(self) -> None:
        try:
            self.interval = max(1.0, parse_duration(self.options.interval) / 1000.0)
        except ValueError as err:
            raise ConfigError(f"--collector.rpi_iio.interval: {err}") from None
        self._descs = DescTable(describe)

    def read(self, skip: Skip) -> list[Reading]:
        base = self.paths.sys("bus/iio/devices")
        try:
            devices = [name for name in list_dir(base) if name.startswith("iio:device")]
        except FileNotFoundError:
            raise NoDataError("there is no IIO device") from None
        if not devices:
            raise NoDataError("there is no IIO device")
        return [reading for device in devices for reading in self._device(f"{base}/{device}", device, skip)]

    def _device(self, path: str, device: str, skip: Skip) -> list[Reading]:
        try:
            names = list_dir(path)
        except OSError as err:
            skip(path, err)
            return []
        chip = optional_attr(f"{path}/name", skip) or ""
        readings: list[Reading] = []
        for channel in find_channels(names):
            try:
                value = self._value(path, channel, names)
            except (OSError, FormatError) as err:
                skip(f"{path}/{channel.file}", err)
                continue
            convert = TYPES[channel.kind][2] if channel.kind in TYPES else float
            readings.append((self._descs[channel.kind], (device, chip, channel.label), convert(value)))
        if readings:
            readings.append((READ, (device, chip), self.clock.now() / 1000.0))
        return readings

    def _value(self, path: str, channel: Channel, names: list[str]) -> float:
        value = number(self._patiently(f"{path}/{channel.file}"), channel.file)
        if channel.file.endswith("_input"):
            return value
        stem = channel.file.removesuffix("_raw")
        shared = f"in_{channel.kind}"
        for suffix in ("offset", "scale"):
            for name in (f"{stem}_{suffix}", f"{shared}_{suffix}"):
                if name in names:
                    factor = number(read_attr(f"{path}/{name}"), name)
                    value = value + factor if suffix == "offset" else value * factor
                    break
        return value

    def _patiently(self, path: str) -> str:
        for attempt in range(RETRIES + 1):
            try:
                return read_attr(path)
            except OSError as err:
                if err.errno not in BUSY or attempt == RETRIES or self._stop.wait(RETRY_SECONDS):
                    raise
        raise AssertionError("unreachable")
