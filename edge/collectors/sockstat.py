"""Sockets by protocol (/proc/net/sockstat and sockstat6, net/ipv4/proc.c)."""

from edge.collectors.base import GAUGE, Collector, Desc, DescTable, NoDataError, Reading, Skip
from edge.collectors.files import integer, page_size, read_text

USED = Desc("node_sockstat_sockets_used", GAUGE, "Number of IPv4 sockets in use.")


def describe(key: str) -> Desc:
    """Description for `PROTOCOL_state`."""
    protocol, _, state = key.partition("_")
    return Desc(f"node_sockstat_{key}", GAUGE, f"Number of {protocol} sockets in state {state}.")


class SockstatCollector(Collector):
    """node_sockstat_*"""

    name = "sockstat"
    descs = (USED,)

    def _prepare(self) -> None:
        self._descs = DescTable(describe)
        self._page = page_size()

    def collect(self, skip: Skip) -> list[Reading]:
        readings: list[Reading] = []
        found = False
        for file in ("net/sockstat", "net/sockstat6"):
            try:
                readings += self.parse(read_text(self.paths.proc(file)), skip)
                found = True
            except FileNotFoundError:
                continue
        if not found:
            raise NoDataError("there is no socket statistics file")
        return readings

    def parse(self, text: str, skip: Skip) -> list[Reading]:
        """Readings of lines `TCP: inuse 4 orphan 0`; `mem` is pages and given in bytes too."""
        readings: list[Reading] = []
        for line in text.split("\n"):
            protocol, colon, rest = line.partition(":")
            if not colon:
                continue
            fields = rest.split()
            for state, number in zip(fields[::2], fields[1::2], strict=False):
                try:
                    value = float(integer(number))
                except ValueError as err:
                    skip(f"sockstat {protocol[:20]} {state[:20]}", err)
                    continue
                if protocol == "sockets":
                    if state == "used":
                        readings.append((USED, (), value))
                    continue
                readings.append((self._descs[f"{protocol}_{state}"], (), value))
                if state == "mem":
                    readings.append((self._descs[f"{protocol}_mem_bytes"], (), value * self._page))
        return readings
