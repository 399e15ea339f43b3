"""Btrfs file systems (sysfs-fs-btrfs, fs/btrfs/sysfs.c)."""

import re

from edge.collectors.base import COUNTER, GAUGE, Collector, Desc, Reading, Skip
from edge.collectors.files import MAX_DIGITS, list_dir, optional_attr, optional_int

INFO = Desc("node_btrfs_info", GAUGE, "Filesystem information", ("uuid", "label"))
RESERVE = Desc("node_btrfs_global_rsv_size_bytes", GAUGE, "Size of global reserve.", ("uuid",))
COMMITS = Desc("node_btrfs_commits_total", COUNTER, "The total number of commits that have occurred.", ("uuid",))
LAST_COMMIT = Desc(
    "node_btrfs_last_commit_seconds", GAUGE, "Duration of the most recent commit, in seconds.", ("uuid",)
)
MAX_COMMIT = Desc("node_btrfs_max_commit_seconds", GAUGE, "Duration of the slowest commit, in seconds.", ("uuid",))
COMMIT_SECONDS = Desc(
    "node_btrfs_commit_seconds_total", COUNTER, "Sum of the duration of all commits, in seconds.", ("uuid",)
)
RESERVED = Desc(
    "node_btrfs_reserved_bytes", GAUGE, "Amount of space reserved for a data type", ("uuid", "block_group_type")
)
_LAYOUT = ("uuid", "block_group_type", "mode")
USED = Desc("node_btrfs_used_bytes", GAUGE, "Amount of used space by a layout/data type", _LAYOUT)
SIZE = Desc("node_btrfs_size_bytes", GAUGE, "Amount of space allocated for a layout/data type", _LAYOUT)
RATIO = Desc("node_btrfs_allocation_ratio", GAUGE, "Data allocation ratio for a layout/data type", _LAYOUT)
DEVICE_SIZE = Desc(
    "node_btrfs_device_size_bytes",
    GAUGE,
    "Size of a device that is part of the filesystem.",
    ("uuid", "device", "btrfs_dev_uuid"),
)
ERRORS = Desc(
    "node_btrfs_device_errors_total",
    COUNTER,
    "Errors reported for the device",
    ("uuid", "type", "device", "btrfs_dev_uuid"),
)

GROUPS = ("data", "metadata", "system")
COPIES = {"dup": 2.0, "raid1": 2.0, "raid10": 2.0, "raid1c3": 3.0, "raid1c4": 4.0}
PARITY = {"raid5": 1, "raid6": 2}
SECTOR = 512.0

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


def allocation_ratio(layout: str, devices: int) -> float:
    """Bytes on disk for each byte stored (btrfs(5), profiles); parity profiles by the number of devices."""
    lost = PARITY.get(layout)
    if lost is not None:
        return devices / (devices - lost) if devices > lost else 1.0
    return COPIES.get(layout, 1.0)


class BtrfsCollector(Collector):
    """node_btrfs_*"""

    name = "btrfs"
    descs = (
        *(INFO, RESERVE, COMMITS, LAST_COMMIT, MAX_COMMIT, COMMIT_SECONDS, RESERVED, USED, SIZE, RATIO),
        *(DEVICE_SIZE, ERRORS),
    )

    def collect(self, skip: Skip) -> list[Reading]:
        base = self.paths.sys("fs/btrfs")
        try:
            names = [name for name in list_dir(base) if _UUID.match(name)]
        except FileNotFoundError:
            return []
        return [reading for uuid in names for reading in self._filesystem(f"{base}/{uuid}", uuid, skip)]

    def _filesystem(self, path: str, uuid: str, skip: Skip) -> list[Reading]:
        try:
            devices = list_dir(f"{path}/devices")
        except OSError as err:
            skip(f"{path}/devices", err)
            devices = []
        readings: list[Reading] = [(INFO, (uuid, optional_attr(f"{path}/label", skip) or ""), 1.0)]
        reserve = optional_int(f"{path}/allocation/global_rsv_size", skip)
        if reserve is not None:
            readings.append((RESERVE, (uuid,), float(reserve)))
        readings += commit_readings(uuid, optional_attr(f"{path}/commit_stats", skip) or "")
        for group in GROUPS:
            readings += self._group(f"{path}/allocation/{group}", uuid, group, len(devices), skip)
        for device in devices:
            sectors = optional_int(f"{path}/devices/{device}/size", skip)
            if sectors is not None:
                readings.append((DEVICE_SIZE, (uuid, device, ""), sectors * SECTOR))
        return readings + self._errors(path, uuid, skip)

    def _group(self, path: str, uuid: str, group: str, devices: int, skip: Skip) -> list[Reading]:
        try:
            names = list_dir(path)
        except OSError:
            return []  # mixed file systems have no such group
        readings: list[Reading] = []
        reserved = optional_int(f"{path}/bytes_reserved", skip)
        if reserved is not None:
            readings.append((RESERVED, (uuid, group), float(reserved)))
        for layout in names:
            used = optional_int(f"{path}/{layout}/used_bytes", _quiet)
            total = optional_int(f"{path}/{layout}/total_bytes", _quiet)
            if used is not None and total is not None:
                labels = (uuid, group, layout)
                readings += [(USED, labels, float(used)), (SIZE, labels, float(total))]
                readings.append((RATIO, labels, allocation_ratio(layout, devices)))
        return readings

    def _errors(self, path: str, uuid: str, skip: Skip) -> list[Reading]:
        """Errors by device id, where the kernel (5.14 on) gives them in sysfs."""
        try:
            ids = list_dir(f"{path}/devinfo")
        except OSError:
            return []
        readings: list[Reading] = []
        for number in ids:
            text = optional_attr(f"{path}/devinfo/{number}/error_stats", skip) or ""
            for line in text.split("\n"):
                kind, _, count = line.partition(" ")
                if kind.endswith("_errs") and count.isdecimal() and len(count) <= MAX_DIGITS:
                    readings.append((ERRORS, (uuid, kind.removesuffix("_errs"), f"devid {number}", ""), float(count)))
        return readings


def commit_readings(uuid: str, text: str) -> list[Reading]:
    """Readings of `commits`, `last_commit_ms`, `max_commit_ms`, `total_commit_ms`; none of older kernels."""
    found: dict[str, int] = {}
    for line in text.split("\n"):
        key, _, number = line.partition(" ")
        if number.isdecimal() and len(number) <= MAX_DIGITS:
            found[key] = int(number)
    wanted = (
        (COMMITS, "commits", 1.0),
        (LAST_COMMIT, "last_commit_ms", 1000.0),
        (MAX_COMMIT, "max_commit_ms", 1000.0),
        (COMMIT_SECONDS, "total_commit_ms", 1000.0),
    )
    return [(desc, (uuid,), found[key] / divisor) for desc, key, divisor in wanted if key in found]


def _quiet(what: str, error: Exception) -> None:
    """A Skip that forgets: directories and plain files stand side by side here."""
