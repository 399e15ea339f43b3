"""Traffic counters of network devices: rtnetlink, as it is one dump for all, else /proc/net/dev (proc_pid_net(5))."""

from dataclasses import dataclass

from common.errors import FormatError
from edge.collectors import rtnetlink
from edge.collectors.base import COUNTER, GAUGE, Collector, Desc, DescTable, DeviceFilter, Reading, Skip, flag
from edge.collectors.files import integer, read_attr, read_text

ADDRESS = Desc(
    "node_network_address_info",
    GAUGE,
    "node network address by device",
    ("device", "address", "netmask", "scope"),
)
RECEIVE = ("bytes", "packets", "errs", "drop", "fifo", "frame", "compressed", "multicast")
TRANSMIT = ("bytes", "packets", "errs", "drop", "fifo", "colls", "carrier", "compressed")
FIELDS = (*(f"receive_{field}" for field in RECEIVE), *(f"transmit_{field}" for field in TRANSMIT))

LEGACY = (
    ("receive_bytes", ("rx_bytes",)),
    ("receive_packets", ("rx_packets",)),
    ("receive_errs", ("rx_errors",)),
    ("receive_drop", ("rx_dropped", "rx_missed_errors")),
    ("receive_fifo", ("rx_fifo_errors",)),
    ("receive_frame", ("rx_length_errors", "rx_over_errors", "rx_crc_errors", "rx_frame_errors")),
    ("receive_compressed", ("rx_compressed",)),
    ("receive_multicast", ("multicast",)),
    ("receive_nohandler", ("rx_nohandler",)),
    ("transmit_bytes", ("tx_bytes",)),
    ("transmit_packets", ("tx_packets",)),
    ("transmit_errs", ("tx_errors",)),
    ("transmit_drop", ("tx_dropped",)),
    ("transmit_fifo", ("tx_fifo_errors",)),
    ("transmit_colls", ("collisions",)),
    (
        "transmit_carrier",
        ("tx_carrier_errors", "tx_aborted_errors", "tx_heartbeat_errors", "tx_window_errors"),
    ),
    ("transmit_compressed", ("tx_compressed",)),
)
"""The columns of /proc/net/dev (and nohandler) as sums of rtnl_link_stats64 (net/core/net-procfs.c)."""

_SUMS = tuple((name, tuple(rtnetlink.STATS64.index(part) for part in parts)) for name, parts in LEGACY)


@dataclass(frozen=True, slots=True)
class NetdevOptions:
    """Flags of the netdev collector."""

    device_exclude: str = flag(
        "collector.netdev.device-exclude",
        "",
        "Regexp of net devices to exclude (mutually exclusive to device-include).",
    )
    device_include: str = flag(
        "collector.netdev.device-include",
        "",
        "Regexp of net devices to include (mutually exclusive to device-exclude).",
    )
    address_info: bool = flag("collector.netdev.address-info", False, "Collect address-info for every device")
    detailed: bool = flag(
        "collector.netdev.enable-detailed-metrics",
        False,
        "Use (incompatible) metric names that provide more detailed stats on Linux",
    )
    netlink: bool = flag("collector.netdev.netlink", True, "Use netlink to gather stats instead of /proc/net/dev.")
    ifalias: bool = flag("collector.netdev.label-ifalias", False, "Add ifAlias label")


def parse_net_dev(text: str, skip: Skip) -> dict[str, dict[str, float]]:
    """Device -> column (`receive_bytes`, ...) -> value; a line with another number of columns is skipped."""
    devices: dict[str, dict[str, float]] = {}
    for line in text.split("\n")[2:]:
        device, colon, rest = line.rpartition(":")
        if not colon:
            continue
        fields = rest.split()
        device = device.strip()
        try:
            if len(fields) != len(FIELDS):
                raise ValueError(f"expected {len(FIELDS)} columns, got {len(fields)}")
            devices[device] = dict(zip(FIELDS, [float(integer(field)) for field in fields], strict=True))
        except ValueError as err:
            skip(f"/proc/net/dev {device[:40]}", err)
    return devices


def legacy_names(stats: tuple[int, ...]) -> dict[str, float]:
    """Columns of /proc/net/dev from rtnl_link_stats64 values (older kernels give fewer)."""
    count = len(stats)
    columns: dict[str, float] = {}
    for name, indexes in _SUMS:
        if len(indexes) == 1:
            if indexes[0] < count:
                columns[name] = float(stats[indexes[0]])
        else:
            columns[name] = float(sum([stats[i] for i in indexes if i < count]))
    return columns


def detailed_names(stats: tuple[int, ...]) -> dict[str, float]:
    """The kernel's own counters, `rx_`/`tx_` spelled out."""
    columns: dict[str, float] = {}
    for name, value in zip(rtnetlink.STATS64, stats, strict=False):
        columns[name.replace("rx_", "receive_").replace("tx_", "transmit_")] = float(value)
    return columns


class NetdevCollector(Collector):
    """node_network_receive_*, node_network_transmit_*"""

    name = "netdev"
    options_type = NetdevOptions
    descs = (ADDRESS,)
    options: NetdevOptions

    def _prepare(self) -> None:
        given = self.options
        self._filter = DeviceFilter(given.device_exclude, given.device_include, "collector.netdev.device")
        labels = ("device", "ifalias") if given.ifalias else ("device",)
        self._descs = DescTable(
            lambda key: Desc(f"node_network_{key}_total", COUNTER, f"Network device statistic {key}.", labels)
        )
        # Sockets answer for this machine: a tree of files (a captured machine, a test) must be read as files.
        self._netlink = given.netlink and self.paths.live

    def collect(self, skip: Skip) -> list[Reading]:
        devices = self._read(skip)
        readings: list[Reading] = []
        for device, columns in devices.items():
            if self._filter.ignored(device):
                continue
            labels = (device, self._alias(device)) if self.options.ifalias else (device,)
            for column, value in columns.items():
                readings.append((self._descs[column], labels, value))
        if self.options.address_info and self.paths.live:
            readings += [
                (ADDRESS, (address.device, address.address, str(address.prefix), address.scope), 1.0)
                for address in rtnetlink.addresses()
                if not self._filter.ignored(address.device)
            ]
        return readings

    def _read(self, skip: Skip) -> dict[str, dict[str, float]]:
        if self._netlink:
            try:
                shape = detailed_names if self.options.detailed else legacy_names
                return {link.name: shape(link.stats) for link in rtnetlink.links() if link.stats}
            except (OSError, FormatError) as err:
                skip("rtnetlink", err)
        devices = parse_net_dev(read_text(self.paths.proc("net/dev")), skip)
        for device, columns in devices.items():
            try:
                path = self.paths.sys("class/net", device, "statistics/rx_nohandler")
                columns["receive_nohandler"] = float(read_attr(path))
            except (OSError, ValueError):
                continue  # only kernels since 4.6 count it
        return devices

    def _alias(self, device: str) -> str:
        try:
            return read_attr(self.paths.sys("class/net", device, "ifalias"))
        except OSError:
            return ""
