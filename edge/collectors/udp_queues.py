"""Bytes that wait in UDP sockets (proc_pid_net(5), udp and udp6)."""

from edge.collectors.base import GAUGE, Collector, Desc, NoDataError, Reading, Skip
from edge.collectors.files import integer, read_text

QUEUES = Desc(
    "node_udp_queues",
    GAUGE,
    "Number of allocated memory in the kernel for UDP datagrams in bytes.",
    ("queue", "ip"),
)


def parse_udp(text: str, skip: Skip) -> tuple[int, int]:
    """Sum of the transmit and of the receive queues of all sockets."""
    sent = received = 0
    for line in text.split("\n")[1:]:
        fields = line.split(None, 5)
        if not fields:
            continue
        try:
            tx, _, rx = fields[4].partition(":")
            sent, received = sent + integer(tx, 16), received + integer(rx, 16)
        except (IndexError, ValueError) as err:
            skip("udp socket", err)
    return sent, received


class UdpQueuesCollector(Collector):
    """node_udp_queues"""

    name = "udp_queues"
    descs = (QUEUES,)

    def collect(self, skip: Skip) -> list[Reading]:
        readings: list[Reading] = []
        for file, ip in (("net/udp", "v4"), ("net/udp6", "v6")):
            try:
                sent, received = parse_udp(read_text(self.paths.proc(file)), skip)
            except FileNotFoundError:
                continue
            readings += [(QUEUES, ("tx", ip), float(sent)), (QUEUES, ("rx", ip), float(received))]
        if not readings:
            raise NoDataError("neither /proc/net/udp nor udp6 exists")
        return readings
