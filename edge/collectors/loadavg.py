"""Load averages (proc_loadavg(5))."""

from common.errors import FormatError
from edge.collectors.base import GAUGE, Collector, Desc, Reading, Skip
from edge.collectors.files import read_text

LOAD1 = Desc("node_load1", GAUGE, "1m load average.")
LOAD5 = Desc("node_load5", GAUGE, "5m load average.")
LOAD15 = Desc("node_load15", GAUGE, "15m load average.")


def parse_loadavg(text: str) -> list[Reading]:
    """The three averages; FormatError if there are not three numbers."""
    fields = text.split()
    try:
        return [(desc, (), float(fields[i])) for i, desc in enumerate((LOAD1, LOAD5, LOAD15))]
    except (IndexError, ValueError):
        raise FormatError(f"/proc/loadavg: expected three numbers, got {text[:60]!r}") from None


class LoadavgCollector(Collector):
    """node_load1, node_load5, node_load15"""

    name = "loadavg"
    descs = (LOAD1, LOAD5, LOAD15)

    def collect(self, skip: Skip) -> list[Reading]:
        return parse_loadavg(read_text(self.paths.proc("loadavg")))
