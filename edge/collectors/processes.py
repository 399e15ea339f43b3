"""How many processes and threads there are, by state (proc_pid_stat(5))."""

from collections import Counter

from common.errors import FormatError
from edge.collectors.base import GAUGE, Collector, Desc, Reading, Skip
from edge.collectors.files import integer, list_dir, optional_int, read_bytes

THREADS = Desc("node_processes_threads", GAUGE, "Allocated threads in system")
THREAD_LIMIT = Desc("node_processes_max_threads", GAUGE, "Limit of threads in the system")
STATE = Desc("node_processes_state", GAUGE, "Number of processes in each state.", ("state",))
THREADS_STATE = Desc("node_processes_threads_state", GAUGE, "Number of threads in each state.", ("thread_state",))
PIDS = Desc("node_processes_pids", GAUGE, "Number of PIDs")
PID_LIMIT = Desc("node_processes_max_processes", GAUGE, "Number of max PIDs limit")


def parse_pid_stat(data: bytes) -> tuple[str, int]:
    """(state, number of threads); the command's name may hold anything, so the last parenthesis counts."""
    fields = data[data.rfind(b")") + 1 :].split()
    try:
        return fields[0].decode("ascii"), integer(fields[17])
    except (IndexError, ValueError):
        raise FormatError("not a line of /proc/PID/stat") from None


class ProcessesCollector(Collector):
    """node_processes_*"""

    name = "processes"
    default_enabled = False
    descs = (THREADS, THREAD_LIMIT, STATE, THREADS_STATE, PIDS, PID_LIMIT)

    def collect(self, skip: Skip) -> list[Reading]:
        processes: Counter[str] = Counter()
        threads: Counter[str] = Counter()
        allocated = 0
        for pid in list_dir(self.paths.procfs):
            if not pid.isdecimal():
                continue
            base = self.paths.proc(pid)
            try:
                state, count = parse_pid_stat(read_bytes(f"{base}/stat"))
            except OSError:
                continue  # it ended since
            except FormatError as err:
                skip(f"{base}/stat", err)
                continue
            processes[state] += 1
            allocated += count
            if count == 1:
                threads[state] += 1
                continue
            try:
                for thread in list_dir(f"{base}/task"):
                    threads[parse_pid_stat(read_bytes(f"{base}/task/{thread}/stat"))[0]] += 1
            except (OSError, FormatError):
                continue  # threads end while they are counted
        readings: list[Reading] = [(THREADS, (), float(allocated)), (PIDS, (), float(processes.total()))]
        for desc, name in ((THREAD_LIMIT, "threads-max"), (PID_LIMIT, "pid_max")):
            value = optional_int(self.paths.proc("sys/kernel", name), skip)
            if value is not None:
                readings.append((desc, (), float(value)))
        readings += [(STATE, (state,), float(n)) for state, n in sorted(processes.items())]
        readings += [(THREADS_STATE, (state,), float(n)) for state, n in sorted(threads.items())]
        return readings
