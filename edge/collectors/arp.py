"""Neighbours by device: rtnetlink's IPv4 neighbour table, else /proc/net/arp (arp(7))."""

from collections import Counter
from dataclasses import dataclass

from common.errors import FormatError
from edge.collectors import rtnetlink
from edge.collectors.base import GAUGE, Collector, Desc, DeviceFilter, Reading, Skip, flag
from edge.collectors.files import read_text

ENTRIES = Desc("node_arp_entries", GAUGE, "ARP entries by device", ("device",))
STATES = Desc("node_arp_states", GAUGE, "ARP states by device", ("state", "device"))


@dataclass(frozen=True, slots=True)
class ArpOptions:
    """Flags of the arp collector."""

    device_include: str = flag(
        "collector.arp.device-include", "", "Regexp of arp devices to include (mutually exclusive to device-exclude)."
    )
    device_exclude: str = flag(
        "collector.arp.device-exclude", "", "Regexp of arp devices to exclude (mutually exclusive to device-include)."
    )
    netlink: bool = flag("collector.arp.netlink", True, "Use netlink to gather stats instead of /proc/net/arp.")


def parse_arp(text: str) -> Counter[str]:
    """Entries of each device."""
    counts: Counter[str] = Counter()
    for line in text.split("\n")[1:]:
        fields = line.split()
        if len(fields) >= 6:
            counts[fields[-1]] += 1
    return counts


class ArpCollector(Collector):
    """node_arp_entries, node_arp_states"""

    name = "arp"
    options_type = ArpOptions
    descs = (ENTRIES, STATES)
    options: ArpOptions

    def _prepare(self) -> None:
        given = self.options
        self._filter = DeviceFilter(given.device_exclude, given.device_include, "collector.arp.device")
        self._netlink = given.netlink and self.paths.live

    def collect(self, skip: Skip) -> list[Reading]:
        if self._netlink:
            try:
                return self._by_netlink()
            except (OSError, FormatError) as err:
                skip("rtnetlink", err)
        counts = parse_arp(read_text(self.paths.proc("net/arp")))
        return [(ENTRIES, (device,), float(n)) for device, n in counts.items() if not self._filter.ignored(device)]

    def _by_netlink(self) -> list[Reading]:
        entries: Counter[str] = Counter()
        states: Counter[tuple[str, str]] = Counter()
        for device, state in rtnetlink.neighbours():
            if not self._filter.ignored(device):
                entries[device] += 1
                states[state, device] += 1
        readings: list[Reading] = [(ENTRIES, (device,), float(n)) for device, n in entries.items()]
        return readings + [(STATES, key, float(n)) for key, n in states.items()]
