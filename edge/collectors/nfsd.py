"""NFS server (/proc/net/rpc/nfsd, fs/nfsd/stats.c; operations of version 4 by their numbers in RFC 7530)."""

from edge.collectors.base import COUNTER, GAUGE, Collector, Desc, NoDataError, Reading, Skip
from edge.collectors.files import integer, read_text
from edge.collectors.nfs import V2, V3


def _total(name: str, text: str, *labels: str) -> Desc:
    return Desc(f"node_nfsd_{name}_total", COUNTER, text, labels)


HITS = _total("reply_cache_hits", "Total number of NFSd Reply Cache hits (client lost server response).")
MISSES = _total(
    "reply_cache_misses", "Total number of NFSd Reply Cache an operation that requires caching (idempotent)."
)
NOCACHE = _total("reply_cache_nocache", "Total number of NFSd Reply Cache non-idempotent operations (rename/delete/…).")
STALE = _total("file_handles_stale", "Total number of NFSd stale file handles")
READ = _total("disk_bytes_read", "Total NFSd bytes read.")
WRITTEN = _total("disk_bytes_written", "Total NFSd bytes written.")
THREADS = Desc("node_nfsd_server_threads", GAUGE, "Total number of NFSd kernel threads that are running.")
AHEAD = Desc("node_nfsd_read_ahead_cache_size_blocks", GAUGE, "How large the read ahead cache is in blocks.")
NOT_FOUND = _total("read_ahead_cache_not_found", "Total number of NFSd read ahead cache not found.")
PACKETS = _total("packets", "Total NFSd network packets (sent+received) by protocol type.", "proto")
CONNECTIONS = _total("connections", "Total number of NFSd TCP connections.")
ERRORS = _total("rpc_errors", "Total number of NFSd RPC errors by error type.", "error")
RPCS = _total("server_rpcs", "Total number of NFSd RPCs.")
REQUESTS = _total("requests", "Total number NFSd Requests by method and protocol.", "proto", "method")

V4_FIRST = 3
V4_OPERATIONS = (
    *("Access", "Close", "Commit", "Create", "DelegPurge", "DelegReturn", "GetAttr", "GetFH", "Link", "Lock", "Lockt"),
    *("Locku", "Lookup", "LookupRoot", "Nverify", "Open", "OpenAttr", "OpenConfirm", "OpenDgrd", "PutFH", "", ""),
    *("Read", "ReadDir", "ReadLink", "Remove", "Rename", "Renew", "RestoreFH", "SaveFH", "SecInfo", "SetAttr"),
    *("SetClientID", "SetClientIDConfirm", "Verify", "Write", "RelLockOwner"),
)
"""Operations from number 3 on; upstream leaves out PUTPUBFH and PUTROOTFH."""

Plan = tuple[tuple[Desc, tuple[str, ...], int], ...]
LINES: dict[str, Plan] = {
    "rc": ((HITS, (), 0), (MISSES, (), 1), (NOCACHE, (), 2)),
    "fh": ((STALE, (), 0),),
    "io": ((READ, (), 0), (WRITTEN, (), 1)),
    "th": ((THREADS, (), 0),),
    "ra": ((AHEAD, (), 0), (NOT_FOUND, (), 11)),
    "net": ((PACKETS, ("udp",), 1), (PACKETS, ("tcp",), 2), (CONNECTIONS, (), 3)),
    "rpc": ((RPCS, (), 0), (ERRORS, ("fmt",), 2), (ERRORS, ("auth",), 3), (ERRORS, ("cInt",), 4)),
    # The first number of these three is how many follow; the null procedure is left out, as upstream does.
    "proc2": tuple((REQUESTS, ("2", name), i) for i, name in enumerate(V2, 1) if name != "Null"),
    "proc3": tuple((REQUESTS, ("3", name), i) for i, name in enumerate(V3, 1) if name != "Null"),
    "proc4ops": tuple((REQUESTS, ("4", name), i) for i, name in enumerate(V4_OPERATIONS, V4_FIRST + 1) if name),
    "wdeleg_getattr": ((REQUESTS, ("4", "WdelegGetattr"), 0),),
}
"""Key of a line -> (description, labels, index among the line's numbers)."""


def parse_nfsd(text: str, skip: Skip) -> list[Reading]:
    """Readings of all lines that are known; a line with too few numbers gives those that it has."""
    readings: list[Reading] = []
    for line in text.split("\n"):
        key, _, rest = line.partition(" ")
        plan = LINES.get(key)
        if plan is None:
            continue
        try:
            # Older kernels follow the threads by a histogram of fractions: only the first number counts.
            fields = rest.split()[:1] if key == "th" else rest.split()
            values = [float(integer(field)) for field in fields]
        except ValueError as err:
            skip(f"rpc/nfsd {key}", err)
            continue
        readings += [(desc, labels, values[i]) for desc, labels, i in plan if i < len(values)]
    return readings


class NfsdCollector(Collector):
    """node_nfsd_*"""

    name = "nfsd"
    descs = (
        *(HITS, MISSES, NOCACHE, STALE, READ, WRITTEN, THREADS, AHEAD, NOT_FOUND, PACKETS, CONNECTIONS, ERRORS),
        *(RPCS, REQUESTS),
    )

    def collect(self, skip: Skip) -> list[Reading]:
        try:
            return parse_nfsd(read_text(self.paths.proc("net/rpc/nfsd")), skip)
        except FileNotFoundError:
            raise NoDataError("this machine is no NFS server") from None
