"""Chosen counters of virtual memory (proc_vmstat(5))."""

from dataclasses import dataclass

from edge.collectors.base import UNTYPED, Collector, Desc, DescTable, DeviceFilter, Reading, Skip, flag
from edge.collectors.files import integer, read_text


@dataclass(frozen=True, slots=True)
class VmstatOptions:
    """Flags of the vmstat collector."""

    fields: str = flag(
        "collector.vmstat.fields",
        "^(oom_kill|pgpg|pswp|pg.*fault).*",
        "Regexp of fields to return for vmstat collector.",
    )


class VmstatCollector(Collector):
    """node_vmstat_*"""

    name = "vmstat"
    options_type = VmstatOptions
    options: VmstatOptions

    def _prepare(self) -> None:
        self._fields = DeviceFilter("", self.options.fields, "collector.vmstat.fields")
        self._descs = DescTable(
            lambda field: Desc(f"node_vmstat_{field}", UNTYPED, f"/proc/vmstat information field {field}.")
        )

    def collect(self, skip: Skip) -> list[Reading]:
        readings: list[Reading] = []
        for line in read_text(self.paths.proc("vmstat")).split("\n"):
            field, _, value = line.partition(" ")
            if field and not self._fields.ignored(field):
                try:
                    readings.append((self._descs[field], (), float(integer(value))))
                except ValueError as err:
                    skip(f"/proc/vmstat {field[:40]}", err)
        return readings
