"""Kernel samepage merging (kernel: Documentation/admin-guide/mm/ksm.rst)."""

from edge.collectors.base import COUNTER, GAUGE, Collector, Desc, NoDataError, Reading, Skip
from edge.collectors.files import optional_int

FILES: dict[str, tuple[Desc, float]] = {
    "full_scans": (
        Desc("node_ksmd_full_scans_total", COUNTER, "How many times all mergeable areas have been scanned."),
        1.0,
    ),
    "general_profit": (
        Desc(
            "node_ksmd_general_profit_bytes",
            GAUGE,
            "How effective is KSM. ksm_saved_pages * sizeof(page) - (all_rmap_items) * sizeof(rmap_item)",
        ),
        1.0,
    ),
    "merge_across_nodes": (
        Desc("node_ksmd_merge_across_nodes", GAUGE, "Specifies if pages from different NUMA nodes can be merged."),
        1.0,
    ),
    "pages_shared": (Desc("node_ksmd_pages_shared", GAUGE, "How many shared pages are being used."), 1.0),
    "pages_sharing": (
        Desc("node_ksmd_pages_sharing", GAUGE, "How many more sites are sharing them i.e. how much saved."),
        1.0,
    ),
    "pages_to_scan": (
        Desc("node_ksmd_pages_to_scan", GAUGE, "How many pages to scan before ksmd goes to sleep."),
        1.0,
    ),
    "pages_unshared": (
        Desc("node_ksmd_pages_unshared", GAUGE, "How many pages unique but repeatedly checked for merging."),
        1.0,
    ),
    "pages_volatile": (
        Desc("node_ksmd_pages_volatile", GAUGE, "How many pages changing too fast to be placed in a tree."),
        1.0,
    ),
    "run": (Desc("node_ksmd_run", GAUGE, "The status of ksmd. stopped = 0, running = 1"), 1.0),
    "sleep_millisecs": (
        Desc("node_ksmd_sleep_seconds", GAUGE, "How many seconds ksmd should sleep before next scan."),
        1000.0,
    ),
}
"""Files of /sys/kernel/mm/ksm, what they become, and the divisor."""


class KsmdCollector(Collector):
    """node_ksmd_*"""

    name = "ksmd"
    default_enabled = False
    descs = tuple(desc for desc, _ in FILES.values())

    def collect(self, skip: Skip) -> list[Reading]:
        base = self.paths.sys("kernel/mm/ksm")
        readings: list[Reading] = []
        for name, (desc, divisor) in FILES.items():
            value = optional_int(f"{base}/{name}", skip)
            if value is not None:
                readings.append((desc, (), value / divisor))
        if not readings:
            raise NoDataError(f"{base} has nothing readable")
        return readings
