"""Wi-Fi interfaces and stations by generic netlink (include/uapi/linux/{genetlink,nl80211}.h)."""

import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from common.errors import FormatError
from edge.collectors import rtnetlink

_NETLINK_GENERIC = 16
_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, _CTRL_ATTR_FAMILY_ID, _CTRL_ATTR_FAMILY_NAME = 16, 3, 1, 2
_REQUEST, _REQUEST_ACK, _REQUEST_DUMP = 0x1, 0x5, 0x301
_GET_INTERFACE, _GET_STATION, _GET_SCAN = 5, 17, 32
_IFINDEX, _IFNAME, _IFTYPE, _MAC, _STA_INFO, _FREQ, _BSS = 3, 4, 5, 6, 21, 38, 47
_IE_SSID = 0
STATUS_AUTHENTICATED, STATUS_ASSOCIATED, STATUS_IBSS = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Interface:
    """A Wi-Fi interface; frequency in MHz, 0 if it has none."""

    index: int
    name: str
    frequency: int


@dataclass(frozen=True, slots=True)
class Bss:
    """The network an interface belongs to."""

    bssid: str
    ssid: str
    status: int


@dataclass(frozen=True, slots=True)
class Station:
    """A peer of an interface: seconds, bits a second, dBm, counts; None where the driver does not say."""

    mac: str
    connected: float | None
    inactive: float | None
    receive_rate: float | None
    transmit_rate: float | None
    received_bytes: float | None
    transmitted_bytes: float | None
    received_packets: float | None
    transmitted_packets: float | None
    signal: float | None
    retries: float | None
    failed: float | None
    beacon_loss: float | None


def mac_text(raw: bytes) -> str:
    """`01:23:..` of six bytes."""
    return ":".join(f"{byte:02x}" for byte in raw)


def _attr(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", len(payload) + 4, kind) + payload + b"\0" * (-len(payload) % 4)


def _number(raw: bytes | None) -> int | None:
    return None if raw is None else int.from_bytes(raw, sys.byteorder)


def _payloads(datagrams: Iterable[bytes], family: int) -> list[dict[int, bytes]]:
    found: list[dict[int, bytes]] = []
    for data in datagrams:
        for kind, payload in rtnetlink.messages(data):
            if kind == family and len(payload) >= 4:
                found.append(rtnetlink.attributes(payload, 4))
    return found


class Nl80211:
    """Queries of the running kernel's cfg80211; FileNotFoundError if it has none."""

    def __init__(self) -> None:
        payload = struct.pack("=BBH", _CTRL_CMD_GETFAMILY, 1, 0) + _attr(_CTRL_ATTR_FAMILY_NAME, b"nl80211\0")
        replies = rtnetlink.exchange(_NETLINK_GENERIC, _GENL_ID_CTRL, payload, _REQUEST_ACK)
        for attributes in _payloads(replies, _GENL_ID_CTRL):
            if _CTRL_ATTR_FAMILY_ID in attributes:
                self._family = int.from_bytes(attributes[_CTRL_ATTR_FAMILY_ID], sys.byteorder)
                return
        raise FileNotFoundError("the kernel has no nl80211")

    def _dump(self, command: int, attributes: bytes = b"") -> list[dict[int, bytes]]:
        payload = struct.pack("=BBH", command, 0, 0) + attributes
        replies = rtnetlink.exchange(_NETLINK_GENERIC, self._family, payload, _REQUEST_DUMP)
        return _payloads(replies, self._family)

    def interfaces(self) -> list[Interface]:
        """All Wi-Fi interfaces that have a name."""
        return [interface for found in self._dump(_GET_INTERFACE) if (interface := parse_interface(found)) is not None]

    def bss(self, interface: Interface) -> Bss | None:
        """The network that the interface has joined, if any."""
        for found in self._dump(_GET_SCAN, _attr(_IFINDEX, struct.pack("=I", interface.index))):
            bss = parse_bss(found.get(_BSS, b""))
            if bss is not None:
                return bss
        return None

    def stations(self, interface: Interface) -> list[Station]:
        """The interface's peers: one access point, or all clients."""
        found = self._dump(_GET_STATION, _attr(_IFINDEX, struct.pack("=I", interface.index)))
        return [parse_station(attributes) for attributes in found if _STA_INFO in attributes and _MAC in attributes]


def parse_interface(attributes: dict[int, bytes]) -> Interface | None:
    """The interface of an NL80211_CMD_NEW_INTERFACE; None without index or name."""
    index, name = _number(attributes.get(_IFINDEX)), attributes.get(_IFNAME)
    if index is None or not name:
        return None
    text = name.split(b"\0")[0].decode("utf-8", "replace")
    return Interface(index, text, _number(attributes.get(_FREQ)) or 0)


def parse_bss(raw: bytes) -> Bss | None:
    """The network of a nested NL80211_ATTR_BSS; None if it is only one that is in the air."""
    found = rtnetlink.attributes(raw)
    status, bssid = _number(found.get(9)), found.get(1)
    if status is None or bssid is None:
        return None
    return Bss(mac_text(bssid), parse_ssid(found.get(6, b"")), status)


def parse_ssid(elements: bytes) -> str:
    """SSID among information elements (IEEE 802.11, 9.4.2.2); '' if there is none."""
    at = 0
    while at + 2 <= len(elements):
        kind, length = elements[at], elements[at + 1]
        if kind == _IE_SSID:
            return elements[at + 2 : at + 2 + length].decode("utf-8", "replace")
        at += 2 + length
    return ""


def parse_station(attributes: dict[int, bytes]) -> Station:
    """The station of an NL80211_CMD_NEW_STATION; FormatError if an attribute is cut short."""
    info = rtnetlink.attributes(attributes[_STA_INFO])

    def number(*kinds: int, factor: float = 1.0) -> float | None:
        for kind in kinds:
            if kind in info:
                return int.from_bytes(info[kind], sys.byteorder) * factor
        return None

    def rate(kind: int) -> float | None:
        if kind not in info:
            return None
        found = rtnetlink.attributes(info[kind])
        units = _number(found.get(5, found.get(1)))
        return None if units is None else units * 100_000.0

    signal = info.get(7)
    if signal is not None and len(signal) != 1:
        raise FormatError("signal strength is not one byte")
    return Station(
        mac=mac_text(attributes[_MAC]),
        connected=number(16),
        inactive=number(1, factor=0.001),
        receive_rate=rate(14),
        transmit_rate=rate(8),
        received_bytes=number(23, 2),
        transmitted_bytes=number(24, 3),
        received_packets=number(9),
        transmitted_packets=number(10),
        signal=None if signal is None else float(int.from_bytes(signal, sys.byteorder, signed=True)),
        retries=number(11),
        failed=number(12),
        beacon_loss=number(18),
    )
