"""Wall time, time zone and the kernel's clock sources (sysfs-devices-system-clocksource)."""

import time

from edge.collectors.base import GAUGE, Collector, Desc, Reading, Skip
from edge.collectors.files import list_dir, read_attr

NOW = Desc("node_time_seconds", GAUGE, "System time in seconds since epoch (1970).")
ZONE = Desc("node_time_zone_offset_seconds", GAUGE, "System time zone offset in seconds.", ("time_zone",))
AVAILABLE = Desc(
    "node_time_clocksource_available_info",
    GAUGE,
    "Available clocksources read from '/sys/devices/system/clocksource'.",
    ("device", "clocksource"),
)
CURRENT = Desc(
    "node_time_clocksource_current_info",
    GAUGE,
    "Current clocksource read from '/sys/devices/system/clocksource'.",
    ("device", "clocksource"),
)


class TimeCollector(Collector):
    """node_time_*"""

    name = "time"
    descs = (NOW, ZONE, AVAILABLE, CURRENT)

    def collect(self, skip: Skip) -> list[Reading]:
        now = self.clock.now() / 1000.0
        local = time.localtime(now)
        readings: list[Reading] = [(NOW, (), now), (ZONE, (local.tm_zone,), float(local.tm_gmtoff))]
        base = self.paths.sys("devices/system/clocksource")
        try:
            devices = [name for name in list_dir(base) if name.startswith("clocksource")]
        except FileNotFoundError:
            return readings
        for device in devices:
            number = device.removeprefix("clocksource")
            try:
                available = read_attr(f"{base}/{device}/available_clocksource").split()
                current = read_attr(f"{base}/{device}/current_clocksource")
            except OSError as err:
                skip(f"{base}/{device}", err)
                continue
            readings += [(AVAILABLE, (number, source), 1.0) for source in available]
            readings.append((CURRENT, (number, current), 1.0))
        return readings
