"""Mounted file systems: what is left of them, and whether they can be written (proc_pid_mountinfo(5), statfs(2))."""

import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from common.units import parse_duration
from edge.collectors.base import GAUGE, Collector, Desc, DeviceFilter, Reading, Skip, flag
from edge.collectors.files import read_text

MOUNT_POINTS_EXCLUDE = r"^/(dev|proc|run/credentials/.+|sys|var/lib/docker/.+|var/lib/containers/storage/.+)($|/)"
FS_TYPES_EXCLUDE = (
    r"^(autofs|binfmt_misc|bpf|cgroup2?|configfs|debugfs|devpts|devtmpfs|fusectl|hugetlbfs|iso9660|mqueue|nsfs|"
    r"overlay|proc|procfs|pstore|rpc_pipefs|securityfs|selinuxfs|squashfs|erofs|sysfs|tracefs)$"
)
MAY_HANG = ("nfs", "cifs", "smb", "fuse", "9p", "ceph", "afs", "gluster", "lustre", "gpfs", "ocfs", "virtiofs")
"""Types (by their beginning) that answer over a network or from user space: asked with a time limit."""

MAX_MOUNTS = 4096

_LABELS = ("device", "mountpoint", "fstype", "device_error")
SIZE = Desc("node_filesystem_size_bytes", GAUGE, "Filesystem size in bytes.", _LABELS)
FREE = Desc("node_filesystem_free_bytes", GAUGE, "Filesystem free space in bytes.", _LABELS)
AVAIL = Desc("node_filesystem_avail_bytes", GAUGE, "Filesystem space available to non-root users in bytes.", _LABELS)
FILES = Desc("node_filesystem_files", GAUGE, "Filesystem total file nodes.", _LABELS)
FILES_FREE = Desc("node_filesystem_files_free", GAUGE, "Filesystem total free file nodes.", _LABELS)
PURGEABLE = Desc(
    "node_filesystem_purgeable_bytes",
    GAUGE,
    "Filesystem space available including purgeable space (MacOS specific).",
    _LABELS,
)
READONLY = Desc("node_filesystem_readonly", GAUGE, "Filesystem read-only status.", _LABELS)
ERROR = Desc(
    "node_filesystem_device_error",
    GAUGE,
    "Whether an error occurred while getting statistics for the given device.",
    _LABELS,
)
MOUNT = Desc(
    "node_filesystem_mount_info",
    GAUGE,
    "Filesystem mount information.",
    ("device", "major", "minor", "mountpoint"),
)

_OCTAL = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """A mounted file system, its mount point as the reader of the mount table sees it."""

    device: str
    mountpoint: str
    fstype: str
    major: str
    minor: str
    readonly: bool


@dataclass(frozen=True, slots=True)
class FilesystemOptions:
    """Flags of the filesystem collector."""

    mount_points_exclude: str = flag(
        "collector.filesystem.mount-points-exclude",
        MOUNT_POINTS_EXCLUDE,
        "Regexp of mount points to exclude for filesystem collector. (mutually exclusive to mount-points-include)",
    )
    mount_points_include: str = flag(
        "collector.filesystem.mount-points-include",
        "",
        "Regexp of mount points to include for filesystem collector. (mutually exclusive to mount-points-exclude)",
    )
    fs_types_exclude: str = flag(
        "collector.filesystem.fs-types-exclude",
        FS_TYPES_EXCLUDE,
        "Regexp of filesystem types to exclude for filesystem collector. (mutually exclusive to fs-types-include)",
    )
    fs_types_include: str = flag(
        "collector.filesystem.fs-types-include",
        "",
        "Regexp of filesystem types to include for filesystem collector. (mutually exclusive to fs-types-exclude)",
    )
    mount_timeout: str = flag(
        "collector.filesystem.mount-timeout", "2s", "how long to wait for a mount to respond before marking it as stale"
    )
    stat_workers: int = flag(
        "collector.filesystem.stat-workers",
        4,
        "how many mounts that do not respond are waited for at the same time",
    )


def unescape(text: str) -> str:
    """Octal escapes of the mount tables (space, tab, newline, backslash) as characters."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text) if "\\" in text else text


def parse_mountinfo(text: str, skip: Skip) -> list[Mount]:
    """Mounts of /proc/PID/mountinfo."""
    mounts: list[Mount] = []
    for line in text.split("\n")[:MAX_MOUNTS]:
        if not line:
            continue
        left, dash, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        major, colon, minor = fields[2].partition(":") if len(fields) > 5 else ("", "", "")
        if not dash or not colon or len(tail) < 3:
            skip(f"mountinfo {line[:60]}", ValueError("expected six fields, ' - ' and three more"))
            continue
        readonly = "ro" in fields[5].split(",") or "ro" in tail[2].split(",")
        mounts.append(Mount(unescape(tail[1]), unescape(fields[4]), tail[0], major, minor, readonly))
    return mounts


def parse_mounts(text: str, skip: Skip) -> list[Mount]:
    """Mounts of /proc/mounts, which has no device numbers."""
    mounts: list[Mount] = []
    for line in text.split("\n")[:MAX_MOUNTS]:
        fields = line.split(" ")
        if len(fields) < 4:
            if line:
                skip(f"mounts {line[:60]}", ValueError("expected four fields or more"))
            continue
        readonly = "ro" in fields[3].split(",")
        mounts.append(Mount(unescape(fields[0]), unescape(fields[1]), fields[2], "", "", readonly))
    return mounts


class FilesystemCollector(Collector):
    """node_filesystem_*"""

    name = "filesystem"
    options_type = FilesystemOptions
    descs = (SIZE, FREE, AVAIL, FILES, FILES_FREE, PURGEABLE, READONLY, ERROR, MOUNT)
    options: FilesystemOptions

    def _prepare(self) -> None:
        given = self.options
        points, types = given.mount_points_exclude, given.fs_types_exclude
        if given.mount_points_include and points == MOUNT_POINTS_EXCLUDE:
            points = ""
        if given.fs_types_include and types == FS_TYPES_EXCLUDE:
            types = ""
        self._points = DeviceFilter(points, given.mount_points_include, "collector.filesystem.mount-points")
        self._types = DeviceFilter(types, given.fs_types_include, "collector.filesystem.fs-types")
        self._timeout = parse_duration(given.mount_timeout) / 1000.0
        self._until = 0.0
        self._waiting: dict[str, threading.Thread] = {}
        self.statvfs: Callable[[str], os.statvfs_result] = os.statvfs

    def collect(self, skip: Skip) -> list[Reading]:
        readings: list[Reading] = []
        seen: set[tuple[str, ...]] = set()
        self._until = self.clock.monotonic() + self._timeout
        self._waiting = {path: thread for path, thread in self._waiting.items() if thread.is_alive()}
        for mount in self._mounts(skip):
            point = self.paths.strip_root(mount.mountpoint)
            if self._types.ignored(mount.fstype) or self._points.ignored(point):
                continue
            # The kernel lists over-mounts of one point several times; statfs(2) answers for the top one alike.
            if (mount.device, point, mount.fstype) in seen:
                continue
            seen.add((mount.device, point, mount.fstype))
            readings += self._measure(mount, point)
        return readings

    def _mounts(self, skip: Skip) -> list[Mount]:
        for name in ("1/mountinfo", "self/mountinfo"):
            try:
                return parse_mountinfo(read_text(self.paths.proc(name)), skip)
            except (FileNotFoundError, PermissionError):
                continue
        return parse_mounts(read_text(self.paths.proc("mounts")), skip)

    def _measure(self, mount: Mount, point: str) -> list[Reading]:
        error = ""
        found: os.statvfs_result | None = None
        try:
            found = self._ask(mount.fstype, self.paths.root(point))
        except TimeoutError:
            error = "mountpoint timeout"
        except OSError as err:
            error = (err.strerror or str(err)).lower()
        labels = (mount.device, point, mount.fstype, error)
        readings: list[Reading] = [
            (ERROR, labels, 0.0 if found is not None else 1.0),
            (READONLY, labels, 1.0 if mount.readonly else 0.0),
        ]
        if mount.major:
            readings.append((MOUNT, (mount.device, mount.major, mount.minor, point), 1.0))
        if found is None:
            return readings
        block = found.f_frsize
        readings += [
            (SIZE, labels, float(found.f_blocks * block)),
            (FREE, labels, float(found.f_bfree * block)),
            (AVAIL, labels, float(found.f_bavail * block)),
            (FILES, labels, float(found.f_files)),
            (FILES_FREE, labels, float(found.f_ffree)),
            (PURGEABLE, labels, 0.0),
        ]
        return readings

    def _ask(self, fstype: str, path: str) -> os.statvfs_result:
        """statvfs of `path`; TimeoutError if a type that may hang does, and until it answers."""
        if not fstype.startswith(MAY_HANG):
            return self.statvfs(path)
        if path in self._waiting or len(self._waiting) >= self.options.stat_workers:
            raise TimeoutError
        answer: list[os.statvfs_result | OSError] = []

        def ask() -> None:
            try:
                answer.append(self.statvfs(path))
            except OSError as err:
                answer.append(err)

        thread = threading.Thread(target=ask, name=f"statfs {path}", daemon=True)
        thread.start()
        thread.join(max(0.1, self._until - self.clock.monotonic()))
        if not answer:
            self._waiting[path] = thread
            raise TimeoutError
        if isinstance(answer[0], OSError):
            raise answer[0]
        return answer[0]
