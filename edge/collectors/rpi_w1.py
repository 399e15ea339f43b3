"""1-wire thermometers (kernel: Documentation/w1/slaves/w1_therm.rst); a conversion takes up to 0.75 s each."""

import os
import re
from dataclasses import dataclass

from common.errors import ConfigError, FormatError
from common.units import parse_duration
from edge.collectors.background import BackgroundCollector
from edge.collectors.base import GAUGE, Desc, NoDataError, Reading, Skip, flag
from edge.collectors.files import integer, list_dir, read_attr

_SENSOR = ("sensor",)
TEMPERATURE = Desc("rpi_w1_temperature_celsius", GAUGE, "Temperature by a 1-wire thermometer.", _SENSOR)
READ = Desc(
    "rpi_w1_read_timestamp_seconds", GAUGE, "When the thermometer was read for rpi_w1_temperature_celsius.", _SENSOR
)

LOWEST, HIGHEST = -55.0, 125.0
POWER_ON = 85.0
"""What a DS18B20 gives before its first conversion (datasheet, "Operation - Measuring Temperature")."""

PLAUSIBLE_STEP = 5.0
"""85 degrees are believed after a reading this close to them."""

MAX_SENSORS = 128
BULK_WAIT_SECONDS = 0.8

_DEVICE = re.compile(r"(?:10|22|28|3b|42)-[0-9a-f]{12}\Z")
_SLAVE = re.compile(r"crc=[0-9a-f]{2} (YES|NO)\n.*t=(-?\d+)", re.DOTALL)


def parse_temperature(text: str) -> float:
    """Degrees of the file `temperature` (milli-degrees) or `w1_slave`; FormatError if it is no reading."""
    if "crc=" in text:
        match = _SLAVE.search(text)
        if match is None:
            raise FormatError(f"not a scratch pad: {text[:60]!r}")
        if match[1] == "NO":
            raise FormatError("the checksum is wrong")
        number = match[2]
    else:
        number = text
    if not number:
        raise FormatError("empty: the sensor is gone")
    try:
        celsius = integer(number) / 1000.0
    except ValueError:
        raise FormatError(f"expected milli-degrees, got {text[:40]!r}") from None
    if not LOWEST <= celsius <= HIGHEST:
        raise FormatError(f"{celsius} degrees are beyond what the sensor can measure: has it power?")
    return celsius


def plausible(celsius: float, last: float | None) -> bool:
    """Whether a reading may be believed: the power-on value only next to a reading like it."""
    return celsius != POWER_ON or (last is not None and abs(last - celsius) <= PLAUSIBLE_STEP)


@dataclass(frozen=True, slots=True)
class RpiW1Options:
    """Flags of the rpi_w1 collector."""

    interval: str = flag("collector.rpi_w1.interval", "60s", "How often the 1-wire thermometers are read.")


class RpiW1Collector(BackgroundCollector):
    """rpi_w1_*"""

    name = "rpi_w1"
    silent_without_data = True
    options_type = RpiW1Options
    descs = (TEMPERATURE, READ)
    options: RpiW1Options

    def _prepare(self) -> None:
        try:
            self.interval = max(1.0, parse_duration(self.options.interval) / 1000.0)
        except ValueError as err:
            raise ConfigError(f"--collector.rpi_w1.interval: {err}") from None
        self._last: dict[str, float] = {}

    def read(self, skip: Skip) -> list[Reading]:
        base = self.paths.sys("bus/w1/devices")
        try:
            names = list_dir(base)
        except FileNotFoundError:
            raise NoDataError("there is no 1-wire bus") from None
        sensors = [name for name in names if _DEVICE.match(name)]
        if not sensors:
            raise NoDataError("no thermometer is on the 1-wire bus")
        if len(sensors) > MAX_SENSORS:
            skip(base, FormatError(f"more than {MAX_SENSORS} thermometers: the rest is left out"))
        self._convert_all([f"{base}/{name}" for name in names if name.startswith("w1_bus_master")])
        temperatures: list[Reading] = []
        stamps: list[Reading] = []
        last, self._last = self._last, {}
        for sensor in sensors[:MAX_SENSORS]:
            path = f"{base}/{sensor}"
            try:
                celsius = parse_temperature(read_sensor(path))
                if not plausible(celsius, last.get(sensor)):
                    raise FormatError("85 degrees: the value it has after power-on, before it measured")
            except (OSError, FormatError) as err:
                skip(path, err)
                if sensor in last:
                    self._last[sensor] = last[sensor]
                continue
            self._last[sensor] = celsius
            temperatures.append((TEMPERATURE, (sensor,), celsius))
            stamps.append((READ, (sensor,), self.clock.now() / 1000.0))
        return temperatures + stamps

    def _convert_all(self, masters: list[str]) -> None:
        """Let all thermometers of a bus measure at once, where the kernel can (5.10 on) and root asks."""
        if not self.paths.live:
            return
        asked = False
        for master in masters:
            try:
                fd = os.open(f"{master}/therm_bulk_read", os.O_WRONLY | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                os.write(fd, b"trigger\n")
                asked = True
            except OSError:
                continue
            finally:
                os.close(fd)
        if asked:
            self._stop.wait(BULK_WAIT_SECONDS)


def read_sensor(path: str) -> str:
    """Text of the sensor's `temperature`, or of `w1_slave` where the driver is older."""
    try:
        return read_attr(f"{path}/temperature")
    except FileNotFoundError:
        return read_attr(f"{path}/w1_slave")
