"""Properties of network devices (sysfs-class-net)."""

import os
from dataclasses import dataclass

from edge.collectors.base import COUNTER, GAUGE, Collector, Desc, DeviceFilter, NoDataError, Reading, Skip, flag
from edge.collectors.files import list_dir, optional_attr, optional_int

_DEVICE = ("device",)


def _property(name: str, counter: bool = False) -> Desc:
    return Desc(f"node_network_{name}", COUNTER if counter else GAUGE, f"Network device property: {name}", _DEVICE)


PROPERTIES: tuple[tuple[str, Desc], ...] = (
    ("addr_assign_type", _property("address_assign_type")),
    ("carrier", _property("carrier")),
    ("carrier_changes", _property("carrier_changes_total", counter=True)),
    ("carrier_up_count", _property("carrier_up_changes_total", counter=True)),
    ("carrier_down_count", _property("carrier_down_changes_total", counter=True)),
    ("dev_id", _property("device_id")),
    ("dormant", _property("dormant")),
    ("flags", _property("flags")),
    ("ifindex", _property("iface_id")),
    ("iflink", _property("iface_link")),
    ("link_mode", _property("iface_link_mode")),
    ("mtu", _property("mtu_bytes")),
    ("name_assign_type", _property("name_assign_type")),
    ("netdev_group", _property("net_dev_group")),
    ("tx_queue_len", _property("transmit_queue_length")),
    ("type", _property("protocol_type")),
)
"""Files of /sys/class/net/DEVICE and what they become."""

STABLE = frozenset({"addr_assign_type", "dev_id", "ifindex", "name_assign_type", "type"})
"""Files that cannot change while a device keeps its name and index; read once."""

SPEED = _property("speed_bytes")
UP = Desc("node_network_up", GAUGE, "Value is 1 if operstate is 'up', 0 otherwise.", _DEVICE)
INFO = Desc(
    "node_network_info",
    GAUGE,
    "Non-numeric data from /sys/class/net/<iface>, value is always 1.",
    ("device", "address", "broadcast", "duplex", "operstate", "adminstate", "ifalias"),
)
IFF_UP = 1


@dataclass(frozen=True, slots=True)
class NetclassOptions:
    """Flags of the netclass collector."""

    ignored_devices: str = flag(
        "collector.netclass.ignored-devices", "^$", "Regexp of net devices to ignore for netclass collector."
    )
    ignore_invalid_speed: bool = flag(
        "collector.netclass.ignore-invalid-speed",
        False,
        "Ignore devices where the speed is invalid. This will be the default behavior in 2.x.",
    )
    netlink: bool = flag(
        "collector.netclass.netlink", False, "Accepted for compatibility; the properties are read from sysfs."
    )
    with_stats: bool = flag(
        "collector.netclass_rtnl.with-stats", False, "Accepted for compatibility; netdev gives the statistics."
    )


class NetclassCollector(Collector):
    """node_network_info, node_network_up and properties of devices"""

    name = "netclass"
    options_type = NetclassOptions
    descs = (*(desc for _, desc in PROPERTIES), SPEED, UP, INFO)
    options: NetclassOptions

    def _prepare(self) -> None:
        self._filter = DeviceFilter(self.options.ignored_devices, "", "collector.netclass.ignored-devices")
        self._stable: dict[str, dict[str, int | None]] = {}

    def collect(self, skip: Skip) -> list[Reading]:
        base = self.paths.sys("class/net")
        try:
            names = list_dir(base)
        except FileNotFoundError:
            raise NoDataError(f"{base} does not exist") from None
        readings: list[Reading] = []
        known, self._stable = self._stable, {}
        for name in names:
            if self._filter.ignored(name):
                continue
            index = optional_int(f"{base}/{name}/ifindex", skip)
            if index is None and not os.path.isdir(f"{base}/{name}"):  # noqa: PTH112
                continue  # bonding_masters is a file, and a device may vanish meanwhile
            stable = known.get(name)
            if stable is None or stable["ifindex"] != index:
                stable = {file: optional_int(f"{base}/{name}/{file}", skip, 0) for file in STABLE}
                stable["ifindex"] = index
            self._stable[name] = stable
            readings += self._device(f"{base}/{name}", name, stable, skip)
        return readings

    def _device(self, path: str, name: str, stable: dict[str, int | None], skip: Skip) -> list[Reading]:
        labels = (name,)
        readings: list[Reading] = []
        flags = 0
        for file, desc in PROPERTIES:
            value = stable[file] if file in stable else optional_int(f"{path}/{file}", skip, 0)
            if value is not None:
                readings.append((desc, labels, float(value)))
                if file == "flags":
                    flags = value
        speed = optional_int(f"{path}/speed", skip)
        if speed is not None and not (speed < 0 and self.options.ignore_invalid_speed):
            readings.append((SPEED, labels, speed * 1000.0 * 1000.0 / 8.0))
        operstate = optional_attr(f"{path}/operstate", skip) or ""
        readings.append((UP, labels, 1.0 if operstate == "up" else 0.0))
        info = (
            name,
            optional_attr(f"{path}/address", skip) or "",
            optional_attr(f"{path}/broadcast", skip) or "",
            optional_attr(f"{path}/duplex", skip) or "",
            operstate,
            "up" if flags & IFF_UP else "down",
            optional_attr(f"{path}/ifalias", skip) or "",
        )
        readings.append((INFO, info, 1.0))
        return readings
