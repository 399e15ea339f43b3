"""NFS client calls (/proc/net/rpc/nfs, fs/nfs/proc.c; names of procedures by RFC 1094, 1813, 7530, 5661)."""

from edge.collectors.base import COUNTER, Collector, Desc, NoDataError, Reading, Skip
from edge.collectors.files import integer, read_text

PACKETS = Desc(
    "node_nfs_packets_total",
    COUNTER,
    "Total NFSd network packets (sent+received) by protocol type.",
    ("protocol",),
)
CONNECTIONS = Desc("node_nfs_connections_total", COUNTER, "Total number of NFSd TCP connections.")
RPCS = Desc("node_nfs_rpcs_total", COUNTER, "Total number of RPCs performed.")
RETRANSMISSIONS = Desc("node_nfs_rpc_retransmissions_total", COUNTER, "Number of RPC transmissions performed.")
REFRESHES = Desc(
    "node_nfs_rpc_authentication_refreshes_total", COUNTER, "Number of RPC authentication refreshes performed."
)
REQUESTS = Desc("node_nfs_requests_total", COUNTER, "Number of NFS procedures invoked.", ("proto", "method"))

V2 = (
    *("Null", "GetAttr", "SetAttr", "Root", "Lookup", "ReadLink", "Read", "WrCache", "Write", "Create", "Remove"),
    *("Rename", "Link", "SymLink", "MkDir", "RmDir", "ReadDir", "FsStat"),
)
V3 = (
    *("Null", "GetAttr", "SetAttr", "Lookup", "Access", "ReadLink", "Read", "Write", "Create", "MkDir", "SymLink"),
    *("MkNod", "Remove", "RmDir", "Rename", "Link", "ReadDir", "ReadDirPlus", "FsStat", "FsInfo", "PathConf"),
    "Commit",
)
V4 = (
    *("Null", "Read", "Write", "Commit", "Open", "OpenConfirm", "OpenNoattr", "OpenDowngrade", "Close", "Setattr"),
    *("FsInfo", "Renew", "SetClientID", "SetClientIDConfirm", "Lock", "Lockt", "Locku", "Access", "Getattr"),
    *("Lookup", "LookupRoot", "Remove", "Rename", "Link", "Symlink", "Create", "Pathconf", "StatFs", "ReadLink"),
    *("ReadDir", "ServerCaps", "DelegReturn", "GetACL", "SetACL", "FsLocations", "ReleaseLockowner", "Secinfo"),
    *("FsidPresent", "ExchangeID", "CreateSession", "DestroySession", "Sequence", "GetLeaseTime"),
    *("ReclaimComplete", "GetDeviceInfo", "LayoutGet", "LayoutCommit", "LayoutReturn", "SecinfoNoName"),
    *("TestStateID", "FreeStateID", "GetDeviceList", "BindConnToSession", "DestroyClientID", "Seek", "Allocate"),
    *("DeAllocate", "LayoutStats", "Clone"),
)
METHODS = {"proc2": ("2", V2), "proc3": ("3", V3), "proc4": ("4", V4)}


def parse_nfs(text: str, skip: Skip) -> list[Reading]:
    """Readings of the lines net, rpc and proc2 to proc4; procedures that an older kernel lacks are 0."""
    readings: list[Reading] = []
    for line in text.split("\n"):
        key, *fields = line.split() or [""]
        try:
            values = [float(integer(field)) for field in fields]
            if key == "net":
                readings += [(PACKETS, ("udp",), values[1]), (PACKETS, ("tcp",), values[2])]
                readings.append((CONNECTIONS, (), values[3]))
            elif key == "rpc":
                readings += [(RPCS, (), values[0]), (RETRANSMISSIONS, (), values[1]), (REFRESHES, (), values[2])]
            elif key in METHODS:
                proto, names = METHODS[key]
                counts = values[1 : int(values[0]) + 1] + [0.0] * len(names)
                readings += [(REQUESTS, (proto, name), n) for name, n in zip(names, counts, strict=False)]
        except (IndexError, ValueError) as err:
            skip(f"rpc/nfs {key[:40]}", err)
    return readings


class NfsCollector(Collector):
    """node_nfs_*"""

    name = "nfs"
    descs = (PACKETS, CONNECTIONS, RPCS, RETRANSMISSIONS, REFRESHES, REQUESTS)

    def collect(self, skip: Skip) -> list[Reading]:
        try:
            return parse_nfs(read_text(self.paths.proc("net/rpc/nfs")), skip)
        except FileNotFoundError:
            raise NoDataError("this machine is no NFS client") from None
