"""Pressure stall information (kernel: Documentation/accounting/psi.rst)."""

import errno

from edge.collectors.base import COUNTER, Collector, Desc, NoDataError, Reading, Skip
from edge.collectors.files import integer, read_text


def _desc(name: str, text: str) -> Desc:
    return Desc(f"node_pressure_{name}_seconds_total", COUNTER, text)


_NO_PROGRESS = "Total time in seconds no process could make progress due to"
CPU = _desc("cpu_waiting", "Total time in seconds that processes have waited for CPU time")
RESOURCES: dict[str, tuple[Desc | None, Desc | None]] = {
    "cpu": (CPU, None),
    "io": (
        _desc("io_waiting", "Total time in seconds that processes have waited due to IO congestion"),
        _desc("io_stalled", f"{_NO_PROGRESS} IO congestion"),
    ),
    "memory": (
        _desc("memory_waiting", "Total time in seconds that processes have waited for memory"),
        _desc("memory_stalled", f"{_NO_PROGRESS} memory congestion"),
    ),
    "irq": (None, _desc("irq_stalled", f"{_NO_PROGRESS} IRQ congestion")),
}
"""Resource -> descriptions of its `some` and `full` lines."""


def parse_pressure(resource: str, text: str) -> list[Reading]:
    """Readings of one file; ValueError if a line has no total."""
    some, full = RESOURCES[resource]
    readings: list[Reading] = []
    for line in text.split("\n"):
        kind, _, rest = line.partition(" ")
        desc = some if kind == "some" else full if kind == "full" else None
        if desc is not None:
            readings.append((desc, (), integer(rest.rpartition("total=")[2]) / 1000.0 / 1000.0))
    return readings


class PressureCollector(Collector):
    """node_pressure_*"""

    name = "pressure"
    descs = tuple(desc for pair in RESOURCES.values() for desc in pair if desc is not None)

    def collect(self, skip: Skip) -> list[Reading]:
        readings: list[Reading] = []
        for resource in RESOURCES:
            path = self.paths.proc("pressure", resource)
            try:
                readings += parse_pressure(resource, read_text(path))
            except OSError as err:
                if err.errno not in (errno.ENOENT, errno.EOPNOTSUPP, errno.ENOTSUP):
                    skip(path, err)
            except ValueError as err:
                skip(path, err)
        if not readings:
            raise NoDataError("the kernel measures no pressure: is it off (CONFIG_PSI, psi=1)?")
        return readings
