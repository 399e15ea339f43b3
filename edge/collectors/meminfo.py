"""Memory, every field that the kernel prints (proc_meminfo(5))."""

from common.errors import FormatError
from edge.collectors.base import GAUGE, Collector, Desc, DescTable, Reading, Skip
from edge.collectors.files import integer, read_text


def describe(field: str) -> Desc:
    """Description of a field as it is called after cleaning, with `_bytes` if it has a unit."""
    return Desc(f"node_memory_{field}", GAUGE, f"Memory information field {field}.")


class MeminfoCollector(Collector):
    """node_memory_*"""

    name = "meminfo"

    def _prepare(self) -> None:
        self._descs = DescTable(describe)
        self._known: dict[str, Desc] = {}

    def collect(self, skip: Skip) -> list[Reading]:
        readings = self.parse(read_text(self.paths.proc("meminfo")), skip)
        if not readings:
            raise FormatError("/proc/meminfo has no readable field")
        return readings

    def parse(self, text: str, skip: Skip) -> list[Reading]:
        """Readings of `Field(part):  123 kB` lines; kB are 1024 bytes."""
        readings: list[Reading] = []
        for line in text.split("\n"):
            field, colon, rest = line.partition(":")
            if not colon:
                continue
            try:
                if rest.endswith(" kB"):
                    value = integer(rest[:-3]) * 1024.0
                else:
                    value = float(integer(rest))
                desc = self._known.get(field)
                if desc is None:
                    desc = self._known[field] = self._descs[clean_field(field) + ("_bytes" if "kB" in rest else "")]
            except ValueError as err:
                skip(f"/proc/meminfo {field[:40]}", err)
            else:
                readings.append((desc, (), value))
        return readings


def clean_field(field: str) -> str:
    """`Active(anon)` as `Active_anon`; ValueError if what remains is no metric name."""
    name = field.strip().replace("(", "_").replace(")", "")
    if not name.isascii() or not name.replace("_", "a").isalnum():
        raise ValueError(f"not a field name: {field[:40]!r}")
    return name
