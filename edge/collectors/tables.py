"""Small tables of procfs: buddyinfo, cgroups, softirqs (proc(5))."""

from common.errors import FormatError
from edge.collectors.base import COUNTER, GAUGE, Collector, Desc, NoDataError, Reading, Skip
from edge.collectors.files import integer, read_text

BLOCKS = Desc("node_buddyinfo_blocks", GAUGE, "Count of free blocks according to size.", ("node", "zone", "size"))
# The second help text is the first one's upstream too; the two differ in meaning only.
CGROUPS = Desc("node_cgroups_cgroups", GAUGE, "Current cgroup number of the subsystem.", ("subsys_name",))
ENABLED = Desc("node_cgroups_enabled", GAUGE, "Current cgroup number of the subsystem.", ("subsys_name",))
SOFTIRQS = Desc("node_softirqs_functions_total", COUNTER, "Softirq counts per CPU.", ("cpu", "type"))


def parse_buddyinfo(text: str, skip: Skip) -> list[Reading]:
    """Readings of `Node 0, zone DMA 1 0 1 ...`: free blocks of each order."""
    readings: list[Reading] = []
    for line in text.split("\n"):
        fields = line.split()
        if not fields:
            continue
        try:
            if len(fields) < 5 or fields[0] != "Node" or fields[2] != "zone":
                raise ValueError("expected `Node N, zone NAME` and counts")
            node, zone = fields[1].rstrip(","), fields[3]
            readings += [(BLOCKS, (node, zone, str(size)), float(integer(n))) for size, n in enumerate(fields[4:])]
        except ValueError as err:
            skip(f"buddyinfo {line[:40]}", err)
    return readings


def parse_cgroups(text: str, skip: Skip) -> list[Reading]:
    """Readings of `name hierarchy number enabled`."""
    readings: list[Reading] = []
    for line in text.split("\n"):
        if not line or line.startswith("#"):
            continue
        try:
            name, _, number, enabled = line.split()
            readings += [(CGROUPS, (name,), float(integer(number))), (ENABLED, (name,), float(integer(enabled)))]
        except ValueError as err:
            skip(f"cgroups {line[:40]}", err)
    return readings


def parse_softirqs(text: str, skip: Skip) -> list[Reading]:
    """Readings of a table with a column a CPU and a line a vector."""
    head, _, rest = text.partition("\n")
    cpus = [name.removeprefix("CPU") for name in head.split()]
    if not cpus:
        raise FormatError("/proc/softirqs has no head line")
    readings: list[Reading] = []
    for line in rest.split("\n"):
        kind, colon, values = line.partition(":")
        if not colon:
            continue
        try:
            counts = [float(integer(value)) for value in values.split()]
        except ValueError as err:
            skip(f"softirqs {kind.strip()[:40]}", err)
            continue
        readings += [(SOFTIRQS, (cpu, kind.strip()), n) for cpu, n in zip(cpus, counts, strict=False)]
    return readings


class BuddyinfoCollector(Collector):
    """node_buddyinfo_blocks"""

    name = "buddyinfo"
    default_enabled = False
    descs = (BLOCKS,)

    def collect(self, skip: Skip) -> list[Reading]:
        return parse_buddyinfo(read_text(self.paths.proc("buddyinfo")), skip)


class CgroupsCollector(Collector):
    """node_cgroups_*"""

    name = "cgroups"
    default_enabled = False
    descs = (CGROUPS, ENABLED)

    def collect(self, skip: Skip) -> list[Reading]:
        try:
            return parse_cgroups(read_text(self.paths.proc("cgroups")), skip)
        except FileNotFoundError:
            raise NoDataError("the kernel has no /proc/cgroups") from None


class SoftirqsCollector(Collector):
    """node_softirqs_functions_total"""

    name = "softirqs"
    default_enabled = False
    descs = (SOFTIRQS,)

    def collect(self, skip: Skip) -> list[Reading]:
        return parse_softirqs(read_text(self.paths.proc("softirqs")), skip)
