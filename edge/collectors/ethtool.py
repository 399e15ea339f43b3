"""What drivers of network devices tell by ioctl (include/uapi/linux/ethtool.h)."""

import array
import errno
import fcntl
import re
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from edge.collectors.base import (
    GAUGE,
    UNTYPED,
    Collector,
    Desc,
    DescTable,
    DeviceFilter,
    NoDataError,
    Reading,
    Skip,
    flag,
)
from edge.collectors.files import list_dir

SIOCETHTOOL = 0x8946
GDRVINFO, GSTRINGS, GSTATS, GSSET_INFO, GLINKSETTINGS = 0x3, 0x1B, 0x1D, 0x37, 0x4C
ETH_SS_STATS = 1
NAME_BYTES = 32
MAX_STATS = 4096
_DEVICE = ("device",)

INFO_LABELS = ("bus_info", "device", "driver", "expansion_rom_version", "firmware_version", "version")
INFO = Desc(
    "node_ethtool_info",
    GAUGE,
    "A metric with a constant '1' value labeled by bus_info, device, driver, expansion_rom_version,"
    " firmware_version, version.",
    INFO_LABELS,
)
KNOWN = {
    "rx_bytes": Desc("node_ethtool_received_bytes_total", UNTYPED, "Network interface bytes received", _DEVICE),
    "rx_dropped": Desc("node_ethtool_received_dropped_total", UNTYPED, "Number of received frames dropped", _DEVICE),
    "rx_errors": Desc("node_ethtool_received_errors_total", UNTYPED, "Number of received frames with errors", _DEVICE),
    "rx_packets": Desc("node_ethtool_received_packets_total", UNTYPED, "Network interface packets received", _DEVICE),
    "tx_bytes": Desc("node_ethtool_transmitted_bytes_total", UNTYPED, "Network interface bytes sent", _DEVICE),
    "tx_errors": Desc("node_ethtool_transmitted_errors_total", UNTYPED, "Number of sent frames with errors", _DEVICE),
    "tx_packets": Desc("node_ethtool_transmitted_packets_total", UNTYPED, "Network interface packets sent", _DEVICE),
}


def _link(name: str, text: str, *labels: str) -> Desc:
    return Desc(f"node_network_{name}", GAUGE, text, (*_DEVICE, *labels))


AUTONEGOTIATE = _link("autonegotiate", "If this port is using autonegotiate")
PORTS = _link("supported_port_info", "Type of ports or PHYs supported by network device", "type")
SUPPORTED_SPEED = _link(
    "supported_speed_bytes", "Combination of speeds and features supported by network device", "duplex", "mode"
)
ADVERTISED_SPEED = _link(
    "advertised_speed_bytes", "Combination of speeds and features offered by network device", "duplex", "mode"
)
CAPABILITIES = (
    (
        6,
        _link("autonegotiate_supported", "If this port device supports autonegotiate"),
        _link("autonegotiate_advertised", "If this port device offers autonegotiate"),
    ),
    (
        13,
        _link("pause_supported", "If this port device supports pause frames"),
        _link("pause_advertised", "If this port device offers pause capability"),
    ),
    (
        14,
        _link("asymmetricpause_supported", "If this port device supports asymmetric pause frames"),
        _link("asymmetricpause_advertised", "If this port device offers asymmetric pause capability"),
    ),
)
"""Link mode bit -> whether the device can do it, and whether it offers it to its peer."""

PORT_BITS = ((7, "TP"), (8, "AUI"), (9, "MII"), (10, "FIBRE"), (11, "BNC"), (16, "Backplane"))
SPEED_BITS = (
    *((0, 10, "half", "10baseT"), (1, 10, "full", "10baseT"), (2, 100, "half", "100baseT")),
    *((3, 100, "full", "100baseT"), (4, 1000, "half", "1000baseT"), (5, 1000, "full", "1000baseT")),
    *((12, 10000, "full", "10000baseT"), (15, 2500, "full", "2500baseX"), (17, 1000, "full", "1000baseKX")),
    *((18, 10000, "full", "10000baseKX4"), (19, 10000, "full", "10000baseKR"), (20, 10000, "full", "10000baseR_FEC")),
    *((23, 40000, "full", "40000baseKR4"), (24, 40000, "full", "40000baseCR4"), (25, 40000, "full", "40000baseSR4")),
    *((26, 40000, "full", "40000baseLR4"), (31, 25000, "full", "25000baseCR"), (32, 25000, "full", "25000baseKR")),
    *((33, 25000, "full", "25000baseSR"), (41, 1000, "full", "1000baseX"), (42, 10000, "full", "10000baseCR")),
    *((43, 10000, "full", "10000baseSR"), (44, 10000, "full", "10000baseLR"), (47, 2500, "full", "2500baseT")),
    (48, 5000, "full", "5000baseT"),
)
"""Link mode bit, Mbit/s, duplex, name (enum ethtool_link_mode_bit_indices)."""

_UNCLEAN = re.compile(r"_*[^0-9A-Za-z_]+_*", re.ASCII)
_RX = re.compile(r"(^|_)rx(_|$)")
_TX = re.compile(r"(^|_)tx(_|$)")


def metric_name(stat: str) -> str:
    """Metric name of a driver's counter: other characters as `_`, lower case, rx and tx spelled out."""
    name = _UNCLEAN.sub("_", stat).lower().lstrip("_")
    return "node_ethtool_" + _TX.sub(r"\1transmitted\2", _RX.sub(r"\1received\2", name))


def describe(stat: str) -> Desc:
    """Description of a driver's counter."""
    return KNOWN.get(stat) or Desc(metric_name(stat), UNTYPED, f"Network interface {stat}", _DEVICE)


@dataclass(frozen=True, slots=True)
class EthtoolOptions:
    """Flags of the ethtool collector."""

    include: str = flag(
        "collector.ethtool.device-include",
        "",
        "Regexp of ethtool devices to include (mutually exclusive to device-exclude).",
    )
    exclude: str = flag(
        "collector.ethtool.device-exclude",
        "",
        "Regexp of ethtool devices to exclude (mutually exclusive to device-include).",
    )
    metrics: str = flag("collector.ethtool.metrics-include", ".*", "Regexp of ethtool stats to include.")


class Ethtool:
    """Questions to the drivers of this machine."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def close(self) -> None:
        """Close the socket; idempotent."""
        self._socket.close()

    def ask(self, device: str, request: bytes) -> bytes:
        """What the driver made of the request's bytes; OSError (EOPNOTSUPP: it has nothing) if it refuses."""
        buffer = array.array("B", request)
        address, _ = buffer.buffer_info()
        ifreq = struct.pack("16sP16x", device.encode()[:15], address)
        fcntl.ioctl(self._socket, SIOCETHTOOL, ifreq)
        return buffer.tobytes()

    def driver(self, device: str) -> tuple[str, str, str, str, str]:
        """(bus_info, driver, expansion ROM version, firmware version, version)."""
        raw = self.ask(device, struct.pack("=I192x", GDRVINFO))
        texts = [_text(raw[at : at + 32]) for at in range(4, 164, 32)]
        driver, version, firmware, bus, rom = texts
        return bus, driver, rom, firmware, version

    def link(self, device: str) -> tuple[bool, int, int]:
        """(whether it autonegotiates, link modes that it can, those that it offers) as bit sets."""
        # The kernel answers a first question with the number of 32-bit words that its bit sets have, negated.
        raw = self.ask(device, struct.pack("=I44x", GLINKSETTINGS))
        words = -struct.unpack_from("=b", raw, 15)[0]
        if not 0 < words <= 127:
            raise OSError(errno.EOPNOTSUPP, "no link modes")
        request = bytearray(struct.pack("=I44x", GLINKSETTINGS) + bytes(3 * words * 4))
        struct.pack_into("=b", request, 15, words)
        return parse_link(self.ask(device, bytes(request)), words)

    def stats(self, device: str) -> dict[str, int]:
        """The driver's own counters by name."""
        raw = self.ask(device, struct.pack("=IIQI", GSSET_INFO, 0, 1 << ETH_SS_STATS, 0))
        if not struct.unpack_from("=Q", raw, 8)[0]:
            return {}
        count = min(struct.unpack_from("=I", raw, 16)[0], MAX_STATS)
        names = self.ask(device, struct.pack("=III", GSTRINGS, ETH_SS_STATS, count) + bytes(count * NAME_BYTES))
        values = self.ask(device, struct.pack("=II", GSTATS, count) + bytes(count * 8))
        return parse_stats(names[12:], values[8:], count)


def parse_link(raw: bytes, words: int) -> tuple[bool, int, int]:
    """What `Ethtool.link` gives, of a struct ethtool_link_settings with bit sets of `words` words."""
    autoneg = raw[11] != 0
    sets = struct.unpack_from(f"={2 * words}I", raw, 48)
    supported = sum(word << 32 * i for i, word in enumerate(sets[:words]))
    return autoneg, supported, sum(word << 32 * i for i, word in enumerate(sets[words:]))


def link_readings(device: str, autoneg: bool, supported: int, advertised: int) -> list[Reading]:
    """Readings of a device's link modes."""
    readings: list[Reading] = [(AUTONEGOTIATE, (device,), float(autoneg))]
    for bit, can, offers in CAPABILITIES:
        readings += [(can, (device,), float(supported >> bit & 1)), (offers, (device,), float(advertised >> bit & 1))]
    readings += [(PORTS, (device, port), 1.0) for bit, port in PORT_BITS if supported >> bit & 1]
    for desc, modes in ((SUPPORTED_SPEED, supported), (ADVERTISED_SPEED, advertised)):
        readings += [
            (desc, (device, duplex, mode), mbits * 1_000_000 / 8)
            for bit, mbits, duplex, mode in SPEED_BITS
            if modes >> bit & 1
        ]
    return readings


def parse_stats(names: bytes, values: bytes, count: int) -> dict[str, int]:
    """Counters of the two tables that drivers fill; entries without a name are left out."""
    found: dict[str, int] = {}
    for index in range(count):
        name = _text(names[index * NAME_BYTES : (index + 1) * NAME_BYTES])
        if name and len(values) >= (index + 1) * 8:
            found[name] = struct.unpack_from("=Q", values, index * 8)[0]
    return found


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("utf-8", "replace")


class EthtoolCollector(Collector):
    """node_ethtool_*"""

    name = "ethtool"
    default_enabled = False
    options_type = EthtoolOptions
    descs = (
        *(INFO, AUTONEGOTIATE, PORTS, SUPPORTED_SPEED, ADVERTISED_SPEED, *KNOWN.values()),
        *(desc for _, can, offers in CAPABILITIES for desc in (can, offers)),
    )
    options: EthtoolOptions

    def _prepare(self) -> None:
        given = self.options
        self._devices = DeviceFilter(given.exclude, given.include, "collector.ethtool.device")
        self._metrics = DeviceFilter("", given.metrics, "collector.ethtool.metrics")
        self._descs = DescTable(describe)
        self.open: Callable[[], Ethtool] = Ethtool

    def collect(self, skip: Skip) -> list[Reading]:
        if not self.paths.live:
            raise NoDataError("drivers are asked of the running kernel, not of files")
        readings: list[Reading] = []
        ethtool = self.open()
        try:
            for device in list_dir(self.paths.sys("class/net")):
                if not self._devices.ignored(device):
                    readings += self._device(ethtool, device, skip)
        finally:
            ethtool.close()
        if not readings:
            raise NoDataError("no driver tells anything")
        return readings

    def _device(self, ethtool: Ethtool, device: str, skip: Skip) -> list[Reading]:
        readings: list[Reading] = []
        try:
            bus, driver, rom, firmware, version = ethtool.driver(device)
            readings.append((INFO, (bus, device, driver, rom, firmware, version), 1.0))
        except OSError as err:
            _tell(device, err, skip)
        try:
            readings += link_readings(device, *ethtool.link(device))
        except OSError as err:
            _tell(device, err, skip)
        try:
            counters = ethtool.stats(device)
        except OSError as err:
            _tell(device, err, skip)
            counters = {}
        # Drivers name queues so that two counters may become one metric: the first in order is kept.
        seen: set[str] = set()
        for stat in sorted(counters):
            desc = self._descs[stat]
            if not self._metrics.ignored(stat) and desc.name not in seen:
                seen.add(desc.name)
                readings.append((desc, (device,), float(counters[stat])))
        return readings


def _tell(device: str, err: OSError, skip: Skip) -> None:
    """Report a refusal, unless it is how devices without a driver's answers say so."""
    if err.errno not in (errno.EOPNOTSUPP, errno.ENODEV, errno.EINVAL):
        skip(f"ethtool {device}", err)
