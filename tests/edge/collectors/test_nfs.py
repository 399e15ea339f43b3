"""NFS server and mounts."""

import pytest

from edge.collectors.base import NoDataError
from edge.collectors.mountstats import MountstatsCollector
from edge.collectors.nfsd import NfsdCollector

NFSD = (
    "rc 1 2 3\nfh 4 5 6 7 8\nio 9 10\nth 11 0 0.000 0.000\nra 32 1 2 3 4 5 6 7 8 9 10 12\nnet 13 14 15 16\n"
    "rpc 17 18 19 20 21\nproc2 18 " + " ".join(str(100 + i) for i in range(18)) + "\n"
    "proc4ops 72 " + " ".join(str(400 + i) for i in range(72)) + "\nwdeleg_getattr 5\n"
)


def test_an_nfs_servers_lines_become_counters(read) -> None:
    found = read(NfsdCollector, {"proc/net/rpc/nfsd": NFSD})
    assert found["node_nfsd_reply_cache_nocache_total",] == 3.0
    assert found["node_nfsd_server_threads",] == 11.0
    assert found["node_nfsd_rpc_errors_total", "cInt"] == 21.0
    assert found["node_nfsd_requests_total", "2", "GetAttr"] == 101.0
    assert found["node_nfsd_requests_total", "4", "Access"] == 403.0
    assert found["node_nfsd_requests_total", "4", "Read"] == 425.0
    assert found["node_nfsd_requests_total", "4", "WdelegGetattr"] == 5.0
    assert ("node_nfsd_requests_total", "2", "Null") not in found


def test_a_garbled_line_of_an_nfs_server_costs_its_own_series(read, skipped) -> None:
    found = read(NfsdCollector, {"proc/net/rpc/nfsd": "rc x\nio 9\nnet 1 2 3 4\nfuture 1 2\n"})
    assert set(found) == {
        ("node_nfsd_disk_bytes_read_total",),
        ("node_nfsd_packets_total", "udp"),
        ("node_nfsd_packets_total", "tcp"),
        ("node_nfsd_connections_total",),
    }
    assert skipped == ["rpc/nfsd rc"]


MOUNTSTATS = """device rootfs mounted on / with fstype rootfs
device nas:/a mounted on /mnt\\040a with fstype nfs4 statvers=1.1
\topts:\trw,vers=4.0,proto=tcp
\tage:\t13968
\tevents:\t52 226 x
\tbytes:\t1 2 3 4 5 6 7 8
\tRPC iostats version: 1.0  p/v: 100003/4 (nfs)
\txprt:\ttcp 832 1 1 2 11 6428 6428 3 12154 4 24 26 5726
\tper-op statistics
\t        READ: 1298 1298 1 207680 1210292152 6 79386 79407 3

device nas:/a mounted on /again with fstype nfs4 statvers=1.1
\tage:\t13968
"""
MOUNTINFO = "29 1 0:40 / /mnt\\040a rw - nfs4 nas:/a rw,vers=4.0,addr=10.0.0.9\n"


def test_an_nfs_mount_tells_its_traffic_and_calls(read, skipped) -> None:
    files = {"proc/self/mountstats": MOUNTSTATS, "proc/self/mountinfo": MOUNTINFO}
    found = read(MountstatsCollector, files)
    mount = ("nas:/a", "tcp", "10.0.0.9")
    assert found["node_mountstats_nfs_age_seconds_total", *mount] == 13968.0
    assert found["node_mountstats_nfs_write_pages_total", *mount] == 8.0
    assert found["node_mountstats_nfs_mountpoint_info", *mount, "/mnt a"] == 1.0
    assert found["node_mountstats_nfs_transport_idle_time_seconds", *mount, "0"] == 11.0
    assert found["node_mountstats_nfs_operations_response_time_seconds_total", *mount, "READ"] == 79.386
    assert skipped == ["mountstats /mnt a events:"]


@pytest.mark.parametrize("kind", [NfsdCollector, MountstatsCollector])
def test_a_machine_without_nfs_has_no_data(read, kind) -> None:
    with pytest.raises(NoDataError):
        read(kind, {})
