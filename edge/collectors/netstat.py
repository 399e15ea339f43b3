"""Protocol counters of IPv4 and IPv6 (proc_pid_net(5), kernel: Documentation/networking/snmp_counter.rst)."""

import contextlib
import re
from dataclasses import dataclass

from edge.collectors.base import UNTYPED, Collector, Desc, DescTable, DeviceFilter, Reading, Skip, flag
from edge.collectors.files import integer, read_text

FIELDS = (
    "^(.*_(InErrors|InErrs)|Ip_Forwarding|Ip(6|Ext)_(InOctets|OutOctets)|Icmp6?_(InMsgs|OutMsgs)|"
    "TcpExt_(Listen.*|Syncookies.*|TCPSynRetrans|TCPTimeouts|TCPOFOQueue|TCPRcvQDrop)|"
    "Tcp_(ActiveOpens|InSegs|OutSegs|OutRsts|PassiveOpens|RetransSegs|CurrEstab)|"
    "Udp6?_(InDatagrams|OutDatagrams|NoPorts|RcvbufErrors|SndbufErrors))$"
)
_SIX = re.compile(r"(\w*?6)(\w+)\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class NetstatOptions:
    """Flags of the netstat collector."""

    fields: str = flag("collector.netstat.fields", FIELDS, "Regexp of fields to return for netstat collector.")


def describe(key: str) -> Desc:
    """Description for `Protocol_Field`."""
    return Desc(f"node_netstat_{key}", UNTYPED, f"Statistic {key.replace('_', '', 1)}.")


class NetstatCollector(Collector):
    """node_netstat_*"""

    name = "netstat"
    options_type = NetstatOptions
    options: NetstatOptions

    def _prepare(self) -> None:
        self._fields = DeviceFilter("", self.options.fields, "collector.netstat.fields")
        self._descs = DescTable(describe)
        self._plans: dict[str, tuple[tuple[int, Desc], ...]] = {}
        self._six: dict[str, Desc | None] = {}

    def collect(self, skip: Skip) -> list[Reading]:
        readings = self.parse_pairs(read_text(self.paths.proc("net/netstat")), skip)
        readings += self.parse_pairs(read_text(self.paths.proc("net/snmp")), skip)
        with contextlib.suppress(FileNotFoundError):  # as when IPv6 is disabled
            readings += self.parse_snmp6(read_text(self.paths.proc("net/snmp6")), skip)
        return readings

    def parse_pairs(self, text: str, skip: Skip) -> list[Reading]:
        """Readings of pairs of lines `Protocol: names` and `Protocol: values`."""
        readings: list[Reading] = []
        lines = text.split("\n")
        for names, values in zip(lines[::2], lines[1::2], strict=False):
            protocol, colon, _ = names.partition(":")
            if not colon or not values.startswith(protocol + ":"):
                skip(f"netstat {protocol[:40]}", ValueError("names and values do not belong together"))
                continue
            plan = self._plan(protocol, names)
            fields = values.split()
            for index, desc in plan:
                try:
                    readings.append((desc, (), float(integer(fields[index]))))
                except (IndexError, ValueError) as err:
                    skip(f"netstat {desc.name}", err)
        return readings

    def _plan(self, protocol: str, names: str) -> tuple[tuple[int, Desc], ...]:
        """(position, description) of the wanted fields of a line of names, which rarely changes."""
        plan = self._plans.get(names)
        if plan is None:
            if len(self._plans) >= 64:
                self._plans.clear()
            plan = self._plans[names] = tuple(
                (index, self._descs[f"{protocol}_{name}"])
                for index, name in enumerate(names.split())
                if index and not self._fields.ignored(f"{protocol}_{name}")
            )
        return plan

    def parse_snmp6(self, text: str, skip: Skip) -> list[Reading]:
        """Readings of lines `Ip6InOctets 460`; the protocol's name ends with the first 6."""
        readings: list[Reading] = []
        for line in text.split("\n"):
            fields = line.split()
            if len(fields) < 2:
                continue
            name = fields[0]
            if name not in self._six:
                if len(self._six) >= DeviceFilter.MAX_REMEMBERED:
                    self._six.clear()
                match = _SIX.match(name)
                key = f"{match[1]}_{match[2]}" if match else ""
                self._six[name] = self._descs[key] if match and not self._fields.ignored(key) else None
            desc = self._six[name]
            if desc is not None:
                try:
                    readings.append((desc, (), float(integer(fields[1]))))
                except ValueError as err:
                    skip(f"snmp6 {name}", err)
        return readings
