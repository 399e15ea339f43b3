"""Queueing disciplines of network devices by rtnetlink(7) (include/uapi/linux/{pkt_sched,gen_stats}.h)."""

import json
import socket
import struct
from dataclasses import dataclass

from common.errors import FormatError
from edge.collectors import rtnetlink
from edge.collectors.base import COUNTER, GAUGE, Collector, Desc, DeviceFilter, NoDataError, Reading, Skip, flag
from edge.collectors.files import read_text

_LABELS = ("device", "kind")
FIELDS = (
    ("Bytes", Desc("node_qdisc_bytes_total", COUNTER, "Number of bytes sent.", _LABELS)),
    ("Packets", Desc("node_qdisc_packets_total", COUNTER, "Number of packets sent.", _LABELS)),
    ("Drops", Desc("node_qdisc_drops_total", COUNTER, "Number of packets dropped.", _LABELS)),
    (
        "Requeues",
        Desc(
            "node_qdisc_requeues_total",
            COUNTER,
            "Number of packets dequeued, not transmitted, and requeued.",
            _LABELS,
        ),
    ),
    ("Overlimits", Desc("node_qdisc_overlimits_total", COUNTER, "Number of overlimit packets.", _LABELS)),
    (
        "Qlen",
        Desc(
            "node_qdisc_current_queue_length",
            GAUGE,
            "Number of packets currently in queue to be sent.",
            _LABELS,
        ),
    ),
    ("Backlog", Desc("node_qdisc_backlog", GAUGE, "Number of bytes currently in queue to be sent.", _LABELS)),
)
"""Statistics in the order of rtnetlink.Qdisc.stats, by the names of upstream's fixtures."""


@dataclass(frozen=True, slots=True)
class QdiscOptions:
    """Flags of the qdisc collector."""

    fixtures: str = flag("collector.qdisc.fixtures", "", "test fixtures to use for qdisc collector end-to-end testing")
    device_include: str = flag(
        "collector.qdisc.device-include",
        "",
        "Regexp of qdisc devices to include (mutually exclusive to device-exclude).",
    )
    device_exclude: str = flag(
        "collector.qdisc.device-exclude",
        "",
        "Regexp of qdisc devices to exclude (mutually exclusive to device-include).",
    )


@dataclass(frozen=True, slots=True)
class Qdisc:
    """A root queueing discipline; `stats` in the order of FIELDS."""

    device: str
    kind: str
    stats: tuple[int, ...]


_RTM_NEWQDISC, _RTM_GETQDISC = 36, 38
_TC_H_ROOT = 0xFFFFFFFF
_TCA_KIND, _TCA_STATS, _TCA_STATS2 = 1, 3, 7
_BASIC, _QUEUE = 1, 3


def parse_qdisc(payload: bytes) -> tuple[int, str, tuple[int, ...]] | None:
    """(device index, kind, statistics) of an RTM_NEWQDISC payload; None if it is no root."""
    if len(payload) < 20:
        raise FormatError("truncated RTM_NEWQDISC")
    index, _, parent = struct.unpack_from("=iII", payload, 4)
    if parent != _TC_H_ROOT:
        return None
    found = rtnetlink.attributes(payload, 20)
    kind = found.get(_TCA_KIND, b"").rstrip(b"\0").decode("utf-8", "replace")
    nested = rtnetlink.attributes(found.get(_TCA_STATS2, b""))
    basic, queue = nested.get(_BASIC, b""), nested.get(_QUEUE, b"")
    if len(basic) >= 12 and len(queue) >= 20:
        count, packets = struct.unpack_from("=QI", basic)
        length, backlog, drops, requeues, overlimits = struct.unpack_from("=5I", queue)
        return index, kind, (count, packets, drops, requeues, overlimits, length, backlog)
    old = found.get(_TCA_STATS, b"")
    if len(old) >= 36:
        count, packets, drops, overlimits, _, _, length, backlog = struct.unpack_from("=QIIIIIII", old)
        return index, kind, (count, packets, drops, 0, overlimits, length, backlog)
    return None


def qdiscs() -> list[Qdisc]:
    """The root qdiscs of all devices of this network namespace."""
    found: list[Qdisc] = []
    for data in rtnetlink.dump(_RTM_GETQDISC, socket.AF_UNSPEC, 19):
        for kind, payload in rtnetlink.messages(data):
            parsed = parse_qdisc(payload) if kind == _RTM_NEWQDISC else None
            if parsed is None:
                continue
            index, name, stats = parsed
            try:
                found.append(Qdisc(socket.if_indextoname(index), name, stats))
            except OSError:
                continue  # the device vanished since
    return found


def load_fixtures(directory: str) -> list[Qdisc]:
    """Qdiscs of upstream's `results.json`; FormatError if it has another shape."""
    data: object = json.loads(read_text(f"{directory.rstrip('/')}/results.json"))
    if not isinstance(data, list) or not all(isinstance(entry, dict) for entry in data):
        raise FormatError("results.json: expected a list of objects")
    return [
        Qdisc(str(entry["IfaceName"]), str(entry["Kind"]), tuple(int(entry.get(key, 0)) for key, _ in FIELDS))
        for entry in data
    ]


class QdiscCollector(Collector):
    """node_qdisc_*"""

    name = "qdisc"
    default_enabled = False
    options_type = QdiscOptions
    descs = tuple(desc for _, desc in FIELDS)
    options: QdiscOptions

    def _prepare(self) -> None:
        given = self.options
        self._filter = DeviceFilter(given.device_exclude, given.device_include, "collector.qdisc.device")

    def collect(self, skip: Skip) -> list[Reading]:
        if self.options.fixtures:
            found = load_fixtures(self.options.fixtures)
        elif self.paths.live:
            found = qdiscs()
        else:
            raise NoDataError("queueing disciplines are asked of the running kernel, not of files")
        readings: list[Reading] = []
        for qdisc in found:
            if not self._filter.ignored(qdisc.device):
                labels = (qdisc.device, qdisc.kind)
                readings += [(desc, labels, float(value)) for (_, desc), value in zip(FIELDS, qdisc.stats, strict=True)]
        return readings
