"""Network backlog of each CPU (/proc/net/softnet_stat, net/core/net-procfs.c)."""

from common.errors import FormatError
from edge.collectors.base import COUNTER, GAUGE, Collector, Desc, Reading, Skip
from edge.collectors.files import integer, read_text

_CPU = ("cpu",)
COLUMNS = (
    (Desc("node_softnet_processed_total", COUNTER, "Number of processed packets", _CPU), 0),
    (Desc("node_softnet_dropped_total", COUNTER, "Number of dropped packets", _CPU), 1),
    (
        Desc(
            "node_softnet_times_squeezed_total",
            COUNTER,
            "Number of times processing packets ran out of quota",
            _CPU,
        ),
        2,
    ),
    (
        Desc(
            "node_softnet_cpu_collision_total",
            COUNTER,
            "Number of collision occur while obtaining device lock while transmitting",
            _CPU,
        ),
        8,
    ),
    (
        Desc("node_softnet_received_rps_total", COUNTER, "Number of times cpu woken up received_rps", _CPU),
        9,
    ),
    (
        Desc(
            "node_softnet_flow_limit_count_total",
            COUNTER,
            "Number of times flow limit has been reached",
            _CPU,
        ),
        10,
    ),
    (Desc("node_softnet_backlog_len", GAUGE, "Softnet backlog status", _CPU), 11),
)
CPU_COLUMN = 12
MIN_COLUMNS = 9


def parse_softnet(text: str, skip: Skip) -> list[Reading]:
    """Readings of one line a CPU, in hexadecimal; columns that an older kernel lacks are 0, as upstream has it."""
    readings: list[Reading] = []
    for number, line in enumerate(text.split("\n")):
        fields = line.split()
        if not fields:
            continue
        try:
            values = [integer(field, 16) for field in fields]
            if len(values) < MIN_COLUMNS:
                raise ValueError(f"expected {MIN_COLUMNS} columns or more, got {len(values)}")
        except ValueError as err:
            skip(f"softnet_stat line {number + 1}", err)
            continue
        cpu = (str(values[CPU_COLUMN] if len(values) > CPU_COLUMN else number),)
        readings += [(desc, cpu, float(values[i]) if i < len(values) else 0.0) for desc, i in COLUMNS]
    return readings


class SoftnetCollector(Collector):
    """node_softnet_*"""

    name = "softnet"
    descs = tuple(desc for desc, _ in COLUMNS)

    def collect(self, skip: Skip) -> list[Reading]:
        readings = parse_softnet(read_text(self.paths.proc("net/softnet_stat")), skip)
        if not readings:
            raise FormatError("/proc/net/softnet_stat has no readable line")
        return readings
