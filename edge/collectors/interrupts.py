"""Interrupts by CPU and line (proc_interrupts(5))."""

from dataclasses import dataclass

from common.errors import FormatError
from edge.collectors.base import COUNTER, Collector, Desc, DeviceFilter, Reading, Skip, flag
from edge.collectors.files import integer, read_text

INTERRUPTS = Desc("node_interrupts_total", COUNTER, "Interrupt details.", ("cpu", "type", "info", "devices"))


@dataclass(frozen=True, slots=True)
class InterruptsOptions:
    """Flags of the interrupts collector."""

    include: str = flag(
        "collector.interrupts.name-include",
        "",
        "Regexp of interrupts name to include (mutually exclusive to --collector.interrupts.name-exclude).",
    )
    exclude: str = flag(
        "collector.interrupts.name-exclude",
        "",
        "Regexp of interrupts name to exclude (mutually exclusive to --collector.interrupts.name-include).",
    )
    zeros: bool = flag("collector.interrupts.include-zeros", True, "Include interrupts that have a zero value")


@dataclass(frozen=True, slots=True)
class Line:
    """One interrupt line: name, how it is delivered, who listens, counts by CPU."""

    name: str
    info: str
    devices: str
    counts: tuple[float, ...]


def parse_interrupts(text: str, skip: Skip) -> tuple[list[str], list[Line]]:
    """CPUs of the table's head and its lines; totals without CPUs (ERR, MIS) are left out."""
    head, _, rest = text.partition("\n")
    cpus = [name.removeprefix("CPU") for name in head.split()]
    if not cpus:
        raise FormatError("/proc/interrupts has no head line")
    lines: list[Line] = []
    for line in rest.split("\n"):
        fields = line.split()
        if len(fields) < len(cpus) + 2:
            continue
        name = fields[0].rstrip(":")
        try:
            counts = tuple([float(integer(field)) for field in fields[1 : len(cpus) + 1]])
        except ValueError as err:
            skip(f"interrupts {name[:40]}", err)
            continue
        tail = fields[len(cpus) + 1 :]
        if name.isdecimal():
            lines.append(Line(name, tail[0], " ".join(tail[1:]), counts))
        else:
            lines.append(Line(name, " ".join(tail), "", counts))
    return cpus, lines


class InterruptsCollector(Collector):
    """node_interrupts_total"""

    name = "interrupts"
    default_enabled = False
    options_type = InterruptsOptions
    descs = (INTERRUPTS,)
    options: InterruptsOptions

    def _prepare(self) -> None:
        self._filter = DeviceFilter(self.options.exclude, self.options.include, "collector.interrupts.name")

    def collect(self, skip: Skip) -> list[Reading]:
        cpus, lines = parse_interrupts(read_text(self.paths.proc("interrupts")), skip)
        zeros = self.options.zeros
        readings: list[Reading] = []
        for line in lines:
            # The filter's names are upstream's: type, info and devices, joined by semicolons.
            if self._filter.ignored(f"{line.name};{line.info};{line.devices}"):
                continue
            readings += [
                (INTERRUPTS, (cpu, line.name, line.info, line.devices), count)
                for cpu, count in zip(cpus, line.counts, strict=True)
                if count or zeros
            ]
        return readings
