"""Scheduler time of each CPU (kernel: Documentation/scheduler/sched-stats.rst)."""

from edge.collectors.base import COUNTER, Collector, Desc, NoDataError, Reading, Skip
from edge.collectors.files import integer, read_text

NS = 1e9
_CPU = ("cpu",)
RUNNING = Desc("node_schedstat_running_seconds_total", COUNTER, "Number of seconds CPU spent running a process.", _CPU)
WAITING = Desc(
    "node_schedstat_waiting_seconds_total",
    COUNTER,
    "Number of seconds spent by processing waiting for this CPU.",
    _CPU,
)
TIMESLICES = Desc("node_schedstat_timeslices_total", COUNTER, "Number of timeslices executed by CPU.", _CPU)


def parse_schedstat(text: str, skip: Skip) -> list[Reading]:
    """Readings of the CPU lines: running and waiting are nanoseconds."""
    readings: list[Reading] = []
    for line in text.split("\n"):
        fields = line.split()
        if not fields or not fields[0].startswith("cpu"):
            continue
        cpu = (fields[0][3:],)
        try:
            running, waiting, slices = (integer(field) for field in fields[7:10])
        except ValueError as err:
            skip(f"schedstat {fields[0][:40]}", err)
            continue
        readings += [(RUNNING, cpu, running / NS), (WAITING, cpu, waiting / NS), (TIMESLICES, cpu, float(slices))]
    return readings


class SchedstatCollector(Collector):
    """node_schedstat_*"""

    name = "schedstat"
    descs = (RUNNING, WAITING, TIMESLICES)

    def collect(self, skip: Skip) -> list[Reading]:
        try:
            return parse_schedstat(read_text(self.paths.proc("schedstat")), skip)
        except FileNotFoundError:
            raise NoDataError("the kernel keeps no scheduler statistics") from None
