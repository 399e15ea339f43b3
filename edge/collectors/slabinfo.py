"""Kernel object caches (slabinfo(5)); the file is for root only."""

from dataclasses import dataclass

from edge.collectors.base import GAUGE, Collector, Desc, DeviceFilter, Reading, Skip, flag
from edge.collectors.files import integer, read_text

_SLAB = ("slab",)
COLUMNS = (
    Desc(
        "node_slabinfo_active_objects",
        GAUGE,
        "The number of objects that are currently active (i.e., in use).",
        _SLAB,
    ),
    Desc(
        "node_slabinfo_objects",
        GAUGE,
        "The total number of allocated objects (i.e., objects that are both in use and not in use).",
        _SLAB,
    ),
    Desc("node_slabinfo_object_size_bytes", GAUGE, "The size of objects in this slab, in bytes.", _SLAB),
    Desc("node_slabinfo_objects_per_slab", GAUGE, "The number of objects stored in each slab.", _SLAB),
    Desc("node_slabinfo_pages_per_slab", GAUGE, "The number of pages allocated for each slab.", _SLAB),
)


@dataclass(frozen=True, slots=True)
class SlabinfoOptions:
    """Flags of the slabinfo collector."""

    include: str = flag("collector.slabinfo.slabs-include", ".*", "Regexp of slabs to include in slabinfo collector.")
    exclude: str = flag("collector.slabinfo.slabs-exclude", "", "Regexp of slabs to exclude in slabinfo collector.")


def parse_slabinfo(text: str, skip: Skip) -> list[tuple[str, tuple[float, ...]]]:
    """(slab, values in the order of COLUMNS)."""
    slabs: list[tuple[str, tuple[float, ...]]] = []
    for line in text.split("\n"):
        if not line.strip() or line.startswith(("slabinfo", "#")):
            continue
        name, *fields = line.split()
        try:
            values = tuple(float(integer(field)) for field in fields[:5])
            if len(values) < 5:
                raise ValueError(f"expected 5 columns or more, got {len(values)}")
        except ValueError as err:
            skip(f"slabinfo {name[:40]}", err)
        else:
            slabs.append((name, values))
    return slabs


class SlabinfoCollector(Collector):
    """node_slabinfo_*"""

    name = "slabinfo"
    default_enabled = False
    options_type = SlabinfoOptions
    descs = COLUMNS
    options: SlabinfoOptions

    def _prepare(self) -> None:
        # Both flags may be given here: a slab must match the first and not the second.
        self._include = DeviceFilter("", self.options.include, "collector.slabinfo.slabs")
        self._exclude = DeviceFilter(self.options.exclude, "", "collector.slabinfo.slabs")

    def collect(self, skip: Skip) -> list[Reading]:
        readings: list[Reading] = []
        for name, values in parse_slabinfo(read_text(self.paths.proc("slabinfo")), skip):
            if not self._include.ignored(name) and not self._exclude.ignored(name):
                readings += [(desc, (name,), value) for desc, value in zip(COLUMNS, values, strict=True)]
        return readings
