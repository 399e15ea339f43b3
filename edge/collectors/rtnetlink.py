"""Dumps of links and addresses by rtnetlink(7); the layout is include/uapi/linux/{netlink,rtnetlink,if_link}.h."""

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from common.errors import FormatError

STATS64 = (
    *("rx_packets", "tx_packets", "rx_bytes", "tx_bytes", "rx_errors", "tx_errors", "rx_dropped", "tx_dropped"),
    *("multicast", "collisions", "rx_length_errors", "rx_over_errors", "rx_crc_errors", "rx_frame_errors"),
    *("rx_fifo_errors", "rx_missed_errors", "tx_aborted_errors", "tx_carrier_errors", "tx_fifo_errors"),
    *("tx_heartbeat_errors", "tx_window_errors", "rx_compressed", "tx_compressed", "rx_nohandler"),
)
"""Fields of struct rtnl_link_stats64 in their order."""

TIMEOUT_SECONDS = 2.0
MAX_REPLY = 16 << 20
"""Most bytes taken of one dump."""

_RTM_NEWLINK, _RTM_GETLINK, _RTM_NEWADDR, _RTM_GETADDR = 16, 18, 20, 22
_NLM_F_REQUEST, _NLM_F_DUMP = 1, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_IFLA_IFNAME, _IFLA_STATS64 = 3, 23
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_SCOPES = {0: "global", 200: "site", 253: "link-local", 254: "loopback", 255: "nowhere"}
_HEADER = struct.Struct("=IHHII")
_ATTR = struct.Struct("=HH")


@dataclass(frozen=True, slots=True)
class Link:
    """A network device: index, name, IFF_ flags, statistics in the order of STATS64 (older kernels: a prefix)."""

    index: int
    name: str
    flags: int
    stats: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Address:
    """An address of a device, with its prefix length and scope in words."""

    device: str
    address: str
    prefix: int
    scope: str


def dump(kind: int, family: int, body: int) -> list[bytes]:
    """Datagrams of a NETLINK_ROUTE dump of `kind`; `body` is the length of the zeroed request after its family."""
    return exchange(socket.NETLINK_ROUTE, kind, bytes([family]) + bytes(body), _NLM_F_REQUEST | _NLM_F_DUMP)


def exchange(protocol: int, kind: int, payload: bytes, flags: int) -> list[bytes]:
    """Datagrams that the kernel answers to one netlink request, up to the end of the dump or the acknowledgement."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as sock:
        sock.settimeout(TIMEOUT_SECONDS)
        sock.bind((0, 0))
        sock.send(_HEADER.pack(_HEADER.size + len(payload), kind, flags, 1, 0) + payload)
        replies: list[bytes] = []
        size = 0
        while True:
            data = sock.recv(1 << 16)
            size += len(data)
            if size > MAX_REPLY:
                raise FormatError(f"netlink answer is longer than {MAX_REPLY} bytes")
            replies.append(data)
            if any(message in (_NLMSG_DONE, _NLMSG_ERROR) for message, _ in messages(data)):
                return replies


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, payload) of the netlink messages in a datagram; a kernel error is an OSError."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size or at + length > len(data):
            raise FormatError("truncated netlink message")
        payload = data[at + _HEADER.size : at + length]
        if kind == _NLMSG_ERROR:
            code = -int.from_bytes(payload[:4], sys.byteorder, signed=True) if len(payload) >= 4 else errno.EPROTO
            if code:
                raise OSError(code, f"netlink request refused: {os.strerror(code)}")
        yield kind, payload
        at += (length + 3) & ~3


def attributes(data: bytes, at: int = 0) -> dict[int, bytes]:
    """Attribute type -> payload of the attributes that begin at offset `at`; the first of a type wins."""
    found: dict[int, bytes] = {}
    while at + 4 <= len(data):
        length, kind = _ATTR.unpack_from(data, at)
        if length < 4 or at + length > len(data):
            raise FormatError("truncated netlink attribute")
        found.setdefault(kind & 0x3FFF, data[at + 4 : at + length])
        at += (length + 3) & ~3
    return found


def parse_link(payload: bytes) -> Link | None:
    """The link of an RTM_NEWLINK payload; None if it has no name."""
    if len(payload) < 16:
        raise FormatError("truncated RTM_NEWLINK")
    _, _, _, index, flags, _ = struct.unpack_from("=BBHiII", payload)
    found = attributes(payload, 16)
    name = found.get(_IFLA_IFNAME, b"").split(b"\0")[0].decode("utf-8", "replace")
    stats = found.get(_IFLA_STATS64, b"")
    count = min(len(stats) // 8, len(STATS64))
    return Link(index, name, flags, struct.unpack_from(f"={count}Q", stats)) if name else None


def links() -> list[Link]:
    """All links of this network namespace with their counters, in the kernel's order."""
    found: list[Link] = []
    for data in dump(_RTM_GETLINK, socket.AF_UNSPEC, 15):
        for kind, payload in messages(data):
            link = parse_link(payload) if kind == _RTM_NEWLINK else None
            if link is not None:
                found.append(link)
    return found


def parse_address(payload: bytes, names: dict[int, str]) -> Address | None:
    """The address of an RTM_NEWADDR payload; None if it has none or its device is unknown."""
    if len(payload) < 8:
        raise FormatError("truncated RTM_NEWADDR")
    family, prefix, _, scope, index = struct.unpack_from("=BBBBI", payload)
    found = attributes(payload, 8)
    raw = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
    if raw is None or index not in names or family not in (socket.AF_INET, socket.AF_INET6):
        return None
    if len(raw) != (4 if family == socket.AF_INET else 16):
        raise FormatError("address of a wrong length")
    return Address(names[index], socket.inet_ntop(family, raw), prefix, _SCOPES.get(scope, str(scope)))


def addresses() -> list[Address]:
    """All IPv4 and IPv6 addresses of this network namespace."""
    names = {link.index: link.name for link in links()}
    found: list[Address] = []
    for data in dump(_RTM_GETADDR, socket.AF_UNSPEC, 7):
        for kind, payload in messages(data):
            address = parse_address(payload, names) if kind == _RTM_NEWADDR else None
            if address is not None:
                found.append(address)
    return found


NUD_STATES = {
    0x01: "incomplete",
    0x02: "reachable",
    0x04: "stale",
    0x08: "delay",
    0x10: "probe",
    0x20: "failed",
    0x80: "permanent",
}
"""States of neighbours (include/uapi/linux/neighbour.h) as node_exporter writes them."""

_RTM_NEWNEIGH, _RTM_GETNEIGH = 28, 30
_NUD_NOARP = 0x40


def neighbours() -> list[tuple[str, str]]:
    """(device, state) of each IPv4 neighbour that has an ARP state."""
    found: list[tuple[str, str]] = []
    for data in dump(_RTM_GETNEIGH, socket.AF_INET, 11):
        for kind, payload in messages(data):
            if kind != _RTM_NEWNEIGH:
                continue
            if len(payload) < 12:
                raise FormatError("truncated RTM_NEWNEIGH")
            index, state = struct.unpack_from("=iH", payload, 4)
            if state and not state & _NUD_NOARP:
                try:
                    name = socket.if_indextoname(index)
                except OSError:
                    continue  # the device vanished since
                found.append((name, NUD_STATES.get(state, "unknown")))
    return found
