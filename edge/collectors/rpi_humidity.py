"""Humidity of hwmon chips as the ratio that it is; node_hwmon_humidity is a thousandth of it.

Kernel: Documentation/hwmon/sysfs-interface.rst: `humidity*_input` is milli-percent.
"""

import re

from edge.collectors.base import GAUGE, Collector, Desc, NoDataError, Reading, Skip
from edge.collectors.files import list_dir, optional_attr, optional_int
from edge.collectors.hwmon import clean

HUMIDITY = Desc("rpi_humidity_ratio", GAUGE, "Relative humidity by a hwmon chip, of 1.", ("chip", "device", "sensor"))
REPLAN_SECONDS = 60.0

_FILE = re.compile(r"(humidity[0-9]+)_input\Z", re.ASCII)


class RpiHumidityCollector(Collector):
    """rpi_humidity_ratio"""

    name = "rpi_humidity"
    silent_without_data = True
    descs = (HUMIDITY,)

    def _prepare(self) -> None:
        self._plan: list[tuple[str, tuple[str, str, str]]] = []
        self._planned = float("-inf")

    def collect(self, skip: Skip) -> list[Reading]:
        now = self.clock.monotonic()
        if now - self._planned >= REPLAN_SECONDS:
            self._plan, self._planned = self._find(skip), now
        readings: list[Reading] = []
        for path, labels in self._plan:
            value = optional_int(path, skip)
            if value is not None:
                readings.append((HUMIDITY, labels, value / 100_000.0))
        if not readings:
            raise NoDataError("no hwmon chip measures humidity")
        return readings

    def _find(self, skip: Skip) -> list[tuple[str, tuple[str, str, str]]]:
        base = self.paths.sys("class/hwmon")
        found: list[tuple[str, tuple[str, str, str]]] = []
        try:
            for name in list_dir(base):
                for match in filter(None, map(_FILE.match, list_dir(f"{base}/{name}"))):
                    chip = clean(optional_attr(f"{base}/{name}/name", skip) or "")
                    found.append((f"{base}/{name}/{match[0]}", (chip, name, match[1])))
        except OSError:
            return found
        return found
