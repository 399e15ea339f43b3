"""Kernel counters of /proc/stat other than CPU time (proc_stat(5))."""

from dataclasses import dataclass

from common.errors import FormatError
from edge.collectors.base import COUNTER, GAUGE, Collector, Desc, Reading, Skip, flag
from edge.collectors.files import integer, read_text

LINES = {
    "intr": Desc("node_intr_total", COUNTER, "Total number of interrupts serviced."),
    "ctxt": Desc("node_context_switches_total", COUNTER, "Total number of context switches."),
    "processes": Desc("node_forks_total", COUNTER, "Total number of forks."),
    "btime": Desc("node_boot_time_seconds", GAUGE, "Node boot time, in unixtime."),
    "procs_running": Desc("node_procs_running", GAUGE, "Number of processes in runnable state."),
    "procs_blocked": Desc("node_procs_blocked", GAUGE, "Number of processes blocked waiting for I/O to complete."),
}
SOFTIRQS = Desc("node_softirqs_total", COUNTER, "Number of softirq calls.", ("vector",))
VECTORS = ("hi", "timer", "net_tx", "net_rx", "block", "block_iopoll", "tasklet", "sched", "hrtimer", "rcu")


@dataclass(frozen=True, slots=True)
class StatOptions:
    """Flags of the stat collector."""

    softirq: bool = flag("collector.stat.softirq", False, "Export softirq calls per vector")


def parse_stat(text: str, with_softirqs: bool, skip: Skip) -> list[Reading]:
    """Readings of the lines that are known; CPU lines are the cpu collector's."""
    readings: list[Reading] = []
    for line in text.split("\n"):
        key, _, rest = line.partition(" ")
        desc = LINES.get(key)
        try:
            if desc is not None:
                readings.append((desc, (), float(integer(rest.partition(" ")[0]))))
            elif key == "softirq" and with_softirqs:
                counts = rest.split()[1:]
                readings += [(SOFTIRQS, (v,), float(integer(n))) for v, n in zip(VECTORS, counts, strict=False)]
        except ValueError as err:
            skip(f"/proc/stat {key}", err)
    return readings


class StatCollector(Collector):
    """node_intr_total, node_boot_time_seconds and their neighbours"""

    name = "stat"
    options_type = StatOptions
    descs = (*LINES.values(), SOFTIRQS)
    options: StatOptions

    def collect(self, skip: Skip) -> list[Reading]:
        readings = parse_stat(read_text(self.paths.proc("stat")), self.options.softirq, skip)
        if not readings:
            raise FormatError("/proc/stat has no readable line")
        return readings
