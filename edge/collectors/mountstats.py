"""NFS mounts: traffic, calls and events of each (proc_pid_mountstats(5), fs/nfs/super.c, net/sunrpc/stats.c)."""

from dataclasses import dataclass, field

from edge.collectors.base import COUNTER, GAUGE, Collector, Desc, NoDataError, Reading, Skip
from edge.collectors.files import integer, read_text
from edge.collectors.filesystem import unescape

_MOUNT = ("export", "protocol", "mountaddr")


def _desc(name: str, text: str, *more: str) -> Desc:
    kind = COUNTER if name.endswith("_total") else GAUGE
    return Desc(f"node_mountstats_nfs_{name}", kind, text, (*_MOUNT, *more))


def _event(name: str, text: str) -> Desc:
    return _desc(f"event_{name}_total", text)


AGE = _desc("age_seconds_total", "The age of the NFS mount in seconds.")
INFO = _desc("mountpoint_info", "Info metric for an NFS mountpoint.", "mountpoint")
BYTES = (
    _desc("read_bytes_total", "Number of bytes read using the read() syscall."),
    _desc("write_bytes_total", "Number of bytes written using the write() syscall."),
    _desc("direct_read_bytes_total", "Number of bytes read using the read() syscall in O_DIRECT mode."),
    _desc("direct_write_bytes_total", "Number of bytes written using the write() syscall in O_DIRECT mode."),
    _desc("total_read_bytes_total", "Number of bytes read from the NFS server, in total."),
    _desc("total_write_bytes_total", "Number of bytes written to the NFS server, in total."),
    _desc("read_pages_total", "Number of pages read directly via mmap()'d files."),
    _desc("write_pages_total", "Number of pages written directly via mmap()'d files."),
)
EVENTS = (
    _event("inode_revalidate", "Number of times cached inode attributes are re-validated from the server."),
    _event("dnode_revalidate", "Number of times cached dentry nodes are re-validated from the server."),
    _event("data_invalidate", "Number of times an inode cache is cleared."),
    _event("attribute_invalidate", "Number of times cached inode attributes are invalidated."),
    _event("vfs_open", "Number of times cached inode attributes are invalidated."),
    _event("vfs_lookup", "Number of times a directory lookup has occurred."),
    _event("vfs_access", "Number of times permissions have been checked."),
    _event("vfs_update_page", "Number of updates (and potential writes) to pages."),
    _event("vfs_read_page", "Number of pages read directly via mmap()'d files."),
    _event("vfs_read_pages", "Number of times a group of pages have been read."),
    _event("vfs_write_page", "Number of pages written directly via mmap()'d files."),
    _event("vfs_write_pages", "Number of times a group of pages have been written."),
    _event("vfs_getdents", "Number of times directory entries have been read with getdents()."),
    _event("vfs_setattr", "Number of times directory entries have been read with getdents()."),
    _event("vfs_flush", "Number of pending writes that have been forcefully flushed to the server."),
    _event("vfs_fsync", "Number of times fsync() has been called on directories and files."),
    _event("vfs_lock", "Number of times locking has been attempted on a file."),
    _event("vfs_file_release", "Number of times files have been closed and released."),
    None,  # congestion_wait: nothing counts it any more
    _event("truncation", "Number of times files have been truncated."),
    _event("write_extension", "Number of times a file has been grown due to writes beyond its existing end."),
    _event("silly_rename", "Number of times a file was removed while still open by another process."),
    _event("short_read", "Number of times the NFS server gave less data than expected while reading."),
    _event("short_write", "Number of times the NFS server wrote less data than expected while writing."),
    _event("jukebox_delay", "Number of times the NFS server indicated EJUKEBOX; retrieving data from offline storage."),
    _event("pnfs_read", "Number of NFS v4.1+ pNFS reads."),
    _event("pnfs_write", "Number of NFS v4.1+ pNFS writes."),
)
"""In the order of the line `events:`."""


def _operation(name: str, text: str) -> Desc:
    return _desc(f"operations_{name}_total", text, "operation")


OPERATIONS = (
    (_operation("requests", "Number of requests performed for a given operation."), 1.0),
    (
        _operation(
            "transmissions", "Number of times an actual RPC request has been transmitted for a given operation."
        ),
        1.0,
    ),
    (
        _operation("major_timeouts", "Number of times a request has had a major timeout for a given operation."),
        1.0,
    ),
    (
        _operation("sent_bytes", "Number of bytes sent for a given operation, including RPC headers and payload."),
        1.0,
    ),
    (
        _operation(
            "received_bytes", "Number of bytes received for a given operation, including RPC headers and payload."
        ),
        1.0,
    ),
    (
        _operation(
            "queue_time_seconds",
            "Duration all requests spent queued for transmission for a given operation before they were sent,"
            " in seconds.",
        ),
        1000.0,
    ),
    (
        _operation(
            "response_time_seconds",
            "Duration all requests took to get a reply back after a request for a given operation was transmitted,"
            " in seconds.",
        ),
        1000.0,
    ),
    (
        _operation(
            "request_time_seconds",
            "Duration all requests took from when a request was enqueued to when it was completely handled for a"
            " given operation, in seconds.",
        ),
        1000.0,
    ),
    (_operation("errors", "Number of errors for a given operation"), 1.0),
)
"""In the order of the lines below `per-op statistics`, with the divisor to seconds; errors came with version 1.1."""


def _transport(name: str, text: str) -> Desc:
    return _desc(f"transport_{name}", text, "transport")


BIND = _transport(
    "bind_total", "Number of times the client has had to establish a connection from scratch to the NFS server."
)
CONNECT = _transport("connect_total", "Number of times the client has made a TCP connection to the NFS server.")
IDLE = _transport("idle_time_seconds", "Duration since the NFS mount last saw any RPC traffic, in seconds.")
SENDS = _transport("sends_total", "Number of RPC requests for this mount sent to the NFS server.")
RECEIVES = _transport("receives_total", "Number of RPC responses for this mount received from the NFS server.")
BAD_IDS = _transport(
    "bad_transaction_ids_total",
    "Number of times the NFS server sent a response with a transaction ID unknown to this client.",
)
BACKLOG = _transport("backlog_queue_total", "Total number of items added to the RPC backlog queue.")
SLOTS = _transport("maximum_rpc_slots", "Maximum number of simultaneously active RPC requests ever used.")
SENDING = _transport("sending_queue_total", "Total number of items added to the RPC transmission sending queue.")
PENDING = _transport("pending_queue_total", "Total number of items added to the RPC transmission pending queue.")
TRANSPORTS = (BIND, CONNECT, IDLE, SENDS, RECEIVES, BAD_IDS, BACKLOG, SLOTS, SENDING, PENDING)
FIELDS: dict[str, tuple[Desc | None, ...]] = {
    "tcp": (None, BIND, CONNECT, None, IDLE, SENDS, RECEIVES, BAD_IDS, None, BACKLOG, SLOTS, SENDING, PENDING),
    "udp": (None, BIND, SENDS, RECEIVES, BAD_IDS, None, BACKLOG, SLOTS, SENDING, PENDING),
}
"""Numbers after the protocol in the line `xprt:`."""

MAX_MOUNTS = 1024


@dataclass(slots=True)
class NfsMount:
    """One NFS mount's block of the file."""

    export: str
    mountpoint: str
    address: str = ""
    age: float | None = None
    bytes: list[float] = field(default_factory=list)
    events: list[float] = field(default_factory=list)
    transports: list[tuple[str, list[float]]] = field(default_factory=list)
    operations: list[tuple[str, list[float]]] = field(default_factory=list)


def parse_mountstats(text: str, skip: Skip) -> list[NfsMount]:
    """The NFS mounts of a file; lines that make no sense are skipped."""
    mounts: list[NfsMount] = []
    current: NfsMount | None = None
    for line in text.split("\n"):
        words = line.split()
        if line.startswith("device "):
            nfs = len(words) >= 8 and words[7] in ("nfs", "nfs4") and len(mounts) < MAX_MOUNTS
            current = NfsMount(unescape(words[1]), unescape(words[4])) if nfs else None
            if current is not None:
                mounts.append(current)
        elif current is not None and words and words[0].endswith(":"):
            try:
                _take(current, words[0][:-1], words[1:])
            except (IndexError, ValueError) as err:
                skip(f"mountstats {current.mountpoint} {words[0]}", err)
    return mounts


def _take(mount: NfsMount, key: str, words: list[str]) -> None:
    if key == "opts":
        options = dict(option.partition("=")[::2] for option in words[0].split(","))
        mount.address = options.get("addr") or options.get("mountaddr", "")
    elif key == "age":
        mount.age = float(integer(words[0]))
    elif key == "bytes":
        mount.bytes = [float(integer(word)) for word in words]
    elif key == "events":
        mount.events = [float(integer(word)) for word in words]
    elif key == "xprt":
        mount.transports.append((words[0], [float(integer(word)) for word in words[1:]]))
    elif key.isupper() or "_" in key:
        mount.operations.append((key, [float(integer(word)) for word in words]))


def parse_addresses(mountinfo: str) -> dict[str, str]:
    """Mount point -> the server's address (`addr=` of the super block's options) of NFS mounts."""
    found: dict[str, str] = {}
    for line in mountinfo.split("\n"):
        left, dash, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        if dash and len(fields) > 4 and len(tail) > 2 and tail[0].startswith("nfs"):
            options = dict(option.partition("=")[::2] for option in tail[2].split(","))
            found[unescape(fields[4])] = options.get("addr", "")
    return found


def mount_readings(mount: NfsMount) -> list[Reading]:
    """Readings of one mount."""
    protocol = mount.transports[0][0] if mount.transports else ""
    labels = (mount.export, protocol, mount.address)
    readings: list[Reading] = [] if mount.age is None else [(AGE, labels, mount.age)]
    readings += [(desc, labels, value) for desc, value in zip(BYTES, mount.bytes, strict=False)]
    for number, (kind, values) in enumerate(mount.transports):
        where = (*labels, str(number))
        given = {d: v for d, v in zip(FIELDS.get(kind, ()), values, strict=False) if d is not None}
        readings += [(desc, where, given.get(desc, 0.0)) for desc in TRANSPORTS if kind in FIELDS]
    for name, values in mount.operations:
        readings += [
            (desc, (*labels, name), value / divisor) for (desc, divisor), value in zip(OPERATIONS, values, strict=False)
        ]
    readings += [(desc, labels, v) for desc, v in zip(EVENTS, mount.events, strict=False) if desc is not None]
    return readings


class MountstatsCollector(Collector):
    """node_mountstats_nfs_*"""

    name = "mountstats"
    default_enabled = False
    descs = (
        *(AGE, INFO, *BYTES, *(desc for desc in EVENTS if desc is not None)),
        *(*(desc for desc, _ in OPERATIONS), *TRANSPORTS),
    )

    def collect(self, skip: Skip) -> list[Reading]:
        try:
            mounts = parse_mountstats(read_text(self.paths.proc("self/mountstats")), skip)
        except FileNotFoundError:
            raise NoDataError("the kernel keeps no mount statistics") from None
        try:
            addresses = parse_addresses(read_text(self.paths.proc("self/mountinfo")))
        except OSError as err:
            skip(self.paths.proc("self/mountinfo"), err)
            addresses = {}
        readings: list[Reading] = []
        seen: set[tuple[str, str, str]] = set()
        for mount in mounts:
            mount.address = addresses.get(mount.mountpoint) or mount.address
            protocol = mount.transports[0][0] if mount.transports else ""
            readings.append((INFO, (mount.export, protocol, mount.address, mount.mountpoint), 1.0))
            # The same export may be mounted twice: its counters are one.
            if (mount.export, protocol, mount.address) not in seen:
                seen.add((mount.export, protocol, mount.address))
                readings += mount_readings(mount)
        return readings
