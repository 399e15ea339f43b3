"""Connection tracking (kernel: Documentation/networking/nf_conntrack-sysctl.rst, nf_conntrack_standalone.c)."""

from common.errors import FormatError
from edge.collectors.base import GAUGE, Collector, Desc, NoDataError, Reading, Skip
from edge.collectors.files import integer, read_int, read_text


def _desc(name: str, text: str) -> Desc:
    return Desc(f"node_nf_conntrack_{name}", GAUGE, text)


ENTRIES = _desc("entries", "Number of currently allocated flow entries for connection tracking.")
LIMIT = _desc("entries_limit", "Maximum size of connection tracking table.")
STATS = {
    "found": _desc("stat_found", "Number of searched entries which were successful."),
    "invalid": _desc("stat_invalid", "Number of packets seen which can not be tracked."),
    "ignore": _desc("stat_ignore", "Number of packets seen which are already connected to a conntrack entry."),
    "insert": _desc("stat_insert", "Number of entries inserted into the list."),
    "insert_failed": _desc(
        "stat_insert_failed", "Number of entries for which list insertion was attempted but failed."
    ),
    "drop": _desc("stat_drop", "Number of packets dropped due to conntrack failure."),
    "early_drop": _desc(
        "stat_early_drop",
        "Number of dropped conntrack entries to make room for new ones, if maximum table size was reached.",
    ),
    "search_restart": _desc(
        "stat_search_restart",
        "Number of conntrack table lookups which had to be restarted due to hashtable resizes.",
    ),
}


def parse_stats(text: str, skip: Skip) -> list[Reading]:
    """Sums over CPUs of the table's known columns; numbers are hexadecimal."""
    lines = text.split("\n")
    names = lines[0].split()
    sums = dict.fromkeys(STATS, 0)
    for number, line in enumerate(lines[1:]):
        fields = line.split()
        if not fields:
            continue
        try:
            values = [integer(field, 16) for field in fields]
        except ValueError as err:
            skip(f"nf_conntrack line {number + 2}", err)
            continue
        for name, value in zip(names, values, strict=False):
            # Kernels from 5.9 call the column of search restarts `clashres` on the second place of the name list.
            if name in sums:
                sums[name] += value
    return [(desc, (), float(sums[name])) for name, desc in STATS.items() if name in names or name == "ignore"]


class ConntrackCollector(Collector):
    """node_nf_conntrack_*"""

    name = "conntrack"
    descs = (ENTRIES, LIMIT, *STATS.values())

    def collect(self, skip: Skip) -> list[Reading]:
        readings: list[Reading] = []
        for desc, name in ((ENTRIES, "nf_conntrack_count"), (LIMIT, "nf_conntrack_max")):
            path = self.paths.proc("sys/net/netfilter", name)
            try:
                readings.append((desc, (), float(read_int(path))))
            except FileNotFoundError:
                raise NoDataError("connection tracking is not loaded") from None
            except FormatError as err:
                skip(path, err)
        try:
            readings += parse_stats(read_text(self.paths.proc("net/stat/nf_conntrack")), skip)
        except OSError as err:
            skip(self.paths.proc("net/stat/nf_conntrack"), err)
        return readings
