"""Memory zones (proc_zoneinfo(5))."""

import re

from common.errors import FormatError
from edge.collectors.base import COUNTER, GAUGE, Collector, Desc, DescTable, Reading, Skip
from edge.collectors.files import integer, read_text

_LABELS = ("node", "zone")


def _gauge(name: str, text: str) -> Desc:
    return Desc(f"node_zoneinfo_{name}", GAUGE, text, _LABELS)


def _pages(name: str, text: str) -> Desc:
    return _gauge(f"{name}_pages", text)


def _total(name: str, text: str) -> Desc:
    return Desc(f"node_zoneinfo_{name}_total", COUNTER, text, _LABELS)


FIELDS = {
    "nr_free_pages": _pages("nr_free", "Total number of free pages in the zone"),
    "min": _pages("min", "Zone watermark pages_min"),
    "low": _pages("low", "Zone watermark pages_low"),
    "high": _pages("high", "Zone watermark pages_high"),
    "scanned": _pages("scanned", "Pages scanned since last reclaim"),
    "spanned": _pages("spanned", "Total pages spanned by the zone, including holes"),
    "present": _pages("present", "Physical pages existing within the zone"),
    "managed": _pages("managed", "Present pages managed by the buddy system"),
    "nr_active_anon": _pages("nr_active_anon", "Number of anonymous pages recently more used"),
    "nr_inactive_anon": _pages("nr_inactive_anon", "Number of anonymous pages recently less used"),
    "nr_isolated_anon": _pages("nr_isolated_anon", "Temporary isolated pages from anon lru"),
    "nr_anon_pages": _pages("nr_anon", "Number of anonymous pages currently used by the system"),
    "nr_anon_transparent_hugepages": _gauge(
        "nr_anon_transparent_hugepages", "Number of anonymous transparent huge pages currently used by the system"
    ),
    "nr_active_file": _pages("nr_active_file", "Number of active pages with file-backing"),
    "nr_inactive_file": _pages("nr_inactive_file", "Number of inactive pages with file-backing"),
    "nr_isolated_file": _pages("nr_isolated_file", "Temporary isolated pages from file lru"),
    "nr_file_pages": _pages("nr_file", "Number of file pages"),
    "nr_slab_reclaimable": _pages("nr_slab_reclaimable", "Number of reclaimable slab pages"),
    "nr_slab_unreclaimable": _pages("nr_slab_unreclaimable", "Number of unreclaimable slab pages"),
    "nr_mlock_stack": _pages("nr_mlock_stack", "mlock()ed pages found and moved off LRU"),
    "nr_kernel_stack": _gauge("nr_kernel_stacks", "Number of kernel stacks"),
    "nr_mapped": _pages("nr_mapped", "Number of mapped pages"),
    "nr_dirty": _pages("nr_dirty", "Number of dirty pages"),
    "nr_writeback": _pages("nr_writeback", "Number of writeback pages"),
    "nr_unevictable": _pages("nr_unevictable", "Number of unevictable pages"),
    "nr_shmem": _pages("nr_shmem", "Number of shmem pages (included tmpfs/GEM pages)"),
    "nr_dirtied": _total("nr_dirtied", "Page dirtyings since bootup"),
    "nr_written": _total("nr_written", "Page writings since bootup"),
    "numa_hit": _total("numa_hit", "Allocated in intended node"),
    "numa_miss": _total("numa_miss", "Allocated in non intended node"),
    "numa_foreign": _total("numa_foreign", "Was intended here, hit elsewhere"),
    "numa_interleave": _total("numa_interleave", "Interleaver preferred this zone"),
    "numa_local": _total("numa_local", "Allocation from local node"),
    "numa_other": _total("numa_other", "Allocation from other node"),
}
"""Names of lines in a zone's block and what they become."""

_HEAD = re.compile(r"Node\s+(\d+),\s+zone\s+(\S+)", re.ASCII)


class ZoneinfoCollector(Collector):
    """node_zoneinfo_*"""

    name = "zoneinfo"
    default_enabled = False
    descs = tuple(FIELDS.values())

    def _prepare(self) -> None:
        self._protection = DescTable(
            lambda key: Desc(f"node_zoneinfo_protection_{key}", GAUGE, f"Protection array {key}. field", _LABELS)
        )

    def collect(self, skip: Skip) -> list[Reading]:
        readings = self.parse(read_text(self.paths.proc("zoneinfo")), skip)
        if not readings:
            raise FormatError("/proc/zoneinfo has no readable zone")
        return readings

    def parse(self, text: str, skip: Skip) -> list[Reading]:
        """Readings of all zones; what stands below `pagesets` is by CPU and left out."""
        readings: list[Reading] = []
        labels: tuple[str, str] | None = None
        for line in text.split("\n"):
            head = _HEAD.match(line)
            if head:
                labels = (head[1], head[2])
                continue
            fields = line.split()
            if labels is None or len(fields) < 2:
                if fields == ["pagesets"]:
                    labels = None
                continue
            try:
                if fields[0] == "protection:":
                    values = line.partition("(")[2].rpartition(")")[0].split(",")
                    readings += [(self._protection[str(i)], labels, float(integer(v))) for i, v in enumerate(values)]
                elif fields[0] in FIELDS:
                    readings.append((FIELDS[fields[0]], labels, float(integer(fields[1]))))
            except ValueError as err:
                skip(f"zoneinfo {labels[1]} {fields[0]}", err)
        return readings
