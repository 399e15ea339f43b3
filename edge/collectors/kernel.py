"""Three small files below /proc/sys: file handles, entropy, hung tasks (kernel: Documentation/admin-guide/sysctl)."""

from common.errors import FormatError
from edge.collectors.base import COUNTER, GAUGE, Collector, Desc, NoDataError, Reading, Skip
from edge.collectors.files import integer, read_attr, read_int

ALLOCATED = Desc("node_filefd_allocated", GAUGE, "File descriptor statistics: allocated.")
MAXIMUM = Desc("node_filefd_maximum", GAUGE, "File descriptor statistics: maximum.")
AVAILABLE = Desc("node_entropy_available_bits", GAUGE, "Bits of available entropy.")
POOL = Desc("node_entropy_pool_size_bits", GAUGE, "Bits of entropy pool.")
HUNG = Desc(
    "node_kernel_hung_tasks_total",
    COUNTER,
    "Total number of tasks that have been detected as hung since the system booted.",
)


class FilefdCollector(Collector):
    """node_filefd_*"""

    name = "filefd"
    descs = (ALLOCATED, MAXIMUM)

    def collect(self, skip: Skip) -> list[Reading]:
        return parse_file_nr(read_attr(self.paths.proc("sys/fs/file-nr")))


def parse_file_nr(text: str) -> list[Reading]:
    """Allocated and maximum of `allocated free maximum`."""
    fields = text.split()
    try:
        return [(ALLOCATED, (), float(integer(fields[0]))), (MAXIMUM, (), float(integer(fields[2])))]
    except (IndexError, ValueError):
        raise FormatError(f"fs/file-nr: expected three integers, got {text[:60]!r}") from None


class EntropyCollector(Collector):
    """node_entropy_*"""

    name = "entropy"
    descs = (AVAILABLE, POOL)

    def collect(self, skip: Skip) -> list[Reading]:
        base = self.paths.proc("sys/kernel/random")
        readings: list[Reading] = []
        for desc, name in ((AVAILABLE, "entropy_avail"), (POOL, "poolsize")):
            try:
                readings.append((desc, (), float(read_int(f"{base}/{name}"))))
            except (OSError, FormatError) as err:
                skip(f"{base}/{name}", err)
        if not readings:
            raise FormatError(f"{base} has nothing readable")
        return readings


class KernelHungCollector(Collector):
    """node_kernel_hung_tasks_total"""

    name = "kernel_hung"
    descs = (HUNG,)

    def collect(self, skip: Skip) -> list[Reading]:
        try:
            return [(HUNG, (), float(read_int(self.paths.proc("sys/kernel/hung_task_detect_count"))))]
        except FileNotFoundError:
            raise NoDataError("the kernel does not count hung tasks (before 6.13)") from None
