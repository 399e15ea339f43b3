"""Thermal zones and cooling devices (sysfs-class-thermal)."""

from common.errors import FormatError
from edge.collectors.base import GAUGE, Collector, Desc, NoDataError, Reading, Skip
from edge.collectors.files import list_dir, read_attr, read_int

TEMP = Desc("node_thermal_zone_temp", GAUGE, "Zone temperature in Celsius", ("zone", "type"))
CURRENT = Desc("node_cooling_device_cur_state", GAUGE, "Current throttle state of the cooling device", ("name", "type"))
MAXIMUM = Desc("node_cooling_device_max_state", GAUGE, "Maximum throttle state of the cooling device", ("name", "type"))


class ThermalZoneCollector(Collector):
    """node_thermal_zone_temp, node_cooling_device_*"""

    name = "thermal_zone"
    descs = (TEMP, CURRENT, MAXIMUM)

    def collect(self, skip: Skip) -> list[Reading]:
        base = self.paths.sys("class/thermal")
        try:
            names = list_dir(base)
        except FileNotFoundError:
            raise NoDataError(f"{base} does not exist") from None
        zones: list[Reading] = []
        current: list[Reading] = []
        maximum: list[Reading] = []
        for name in names:
            path = f"{base}/{name}"
            try:
                if name.startswith("thermal_zone"):
                    labels = (name.removeprefix("thermal_zone"), read_attr(f"{path}/type"))
                    zones.append((TEMP, labels, read_int(f"{path}/temp") / 1000.0))
                elif name.startswith("cooling_device"):
                    labels = (name.removeprefix("cooling_device"), read_attr(f"{path}/type"))
                    current.append((CURRENT, labels, float(read_int(f"{path}/cur_state"))))
                    maximum.append((MAXIMUM, labels, float(read_int(f"{path}/max_state"))))
            except (OSError, FormatError) as err:
                skip(path, err)
        return zones + current + maximum
