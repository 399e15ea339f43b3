"""Block devices: counters (kernel: Documentation/admin-guide/iostats.rst) and what udev knows of them."""

from dataclasses import dataclass

from edge.collectors.base import COUNTER, GAUGE, Collector, Desc, DeviceFilter, Reading, Skip, flag
from edge.collectors.files import integer, read_attr, read_text

SECTOR = 512.0
"""Bytes of a sector in /proc/diskstats, whatever the device's own."""

MS = 1.0 / 1000.0
UDEV_SECONDS = 60.0
"""Udev properties are read again after this time."""

DEFAULT_EXCLUDE = r"^(z?ram|loop|fd|(h|s|v|xv)d[a-z]|nvme\d+n\d+p)\d+$"
_D = ("device",)


def _counter(name: str, text: str) -> Desc:
    return Desc(f"node_disk_{name}_total", COUNTER, text, _D)


FIELDS: tuple[tuple[Desc, float], ...] = (
    (_counter("reads_completed", "The total number of reads completed successfully."), 1.0),
    (_counter("reads_merged", "The total number of reads merged."), 1.0),
    (_counter("read_bytes", "The total number of bytes read successfully."), SECTOR),
    (_counter("read_time_seconds", "The total number of seconds spent by all reads."), MS),
    (_counter("writes_completed", "The total number of writes completed successfully."), 1.0),
    (_counter("writes_merged", "The number of writes merged."), 1.0),
    (_counter("written_bytes", "The total number of bytes written successfully."), SECTOR),
    (_counter("write_time_seconds", "This is the total number of seconds spent by all writes."), MS),
    (Desc("node_disk_io_now", GAUGE, "The number of I/Os currently in progress.", _D), 1.0),
    (_counter("io_time_seconds", "Total seconds spent doing I/Os."), MS),
    (_counter("io_time_weighted_seconds", "The weighted # of seconds spent doing I/Os."), MS),
    (_counter("discards_completed", "The total number of discards completed successfully."), 1.0),
    (_counter("discards_merged", "The total number of discards merged."), 1.0),
    (_counter("discarded_sectors", "The total number of sectors discarded successfully."), 1.0),
    (_counter("discard_time_seconds", "This is the total number of seconds spent by all discards."), MS),
    (_counter("flush_requests", "The total number of flush requests completed successfully"), 1.0),
    (_counter("flush_requests_time_seconds", "This is the total number of seconds spent by all flush requests."), MS),
)
"""Columns of /proc/diskstats after the device's name, with the factor to the base unit."""

MIN_FIELDS = 11

INFO = Desc(
    "node_disk_info",
    GAUGE,
    "Info of /sys/block/<block_device>.",
    ("device", "major", "minor", "path", "wwn", "model", "serial", "revision", "rotational"),
)
FILESYSTEM = Desc(
    "node_disk_filesystem_info",
    GAUGE,
    "Info about disk filesystem.",
    ("device", "type", "usage", "uuid", "version"),
)
MAPPER = Desc(
    "node_disk_device_mapper_info",
    GAUGE,
    "Info about disk device mapper.",
    ("device", "name", "uuid", "vg_name", "lv_name", "lv_layer"),
)
MAPPER_KEYS = ("DM_NAME", "DM_UUID", "DM_VG_NAME", "DM_LV_NAME", "DM_LV_LAYER")
FILESYSTEM_KEYS = ("ID_FS_TYPE", "ID_FS_USAGE", "ID_FS_UUID", "ID_FS_VERSION")
WRITE_CACHE = Desc("node_disk_ata_write_cache", GAUGE, "ATA disk has a write cache.", _D)
WRITE_CACHE_ENABLED = Desc("node_disk_ata_write_cache_enabled", GAUGE, "ATA disk has its write cache enabled.", _D)
ROTATION = Desc("node_disk_ata_rotation_rate_rpm", GAUGE, "ATA disk rotation rate in RPMs (0 for SSDs).", _D)
ATA = (
    (WRITE_CACHE, "ID_ATA_WRITE_CACHE"),
    (WRITE_CACHE_ENABLED, "ID_ATA_WRITE_CACHE_ENABLED"),
    (ROTATION, "ID_ATA_ROTATION_RATE_RPM"),
)


@dataclass(frozen=True, slots=True)
class DiskstatsOptions:
    """Flags of the diskstats collector."""

    device_exclude: str = flag(
        "collector.diskstats.device-exclude",
        DEFAULT_EXCLUDE,
        "Regexp of diskstats devices to exclude (mutually exclusive to device-include).",
    )
    device_include: str = flag(
        "collector.diskstats.device-include",
        "",
        "Regexp of diskstats devices to include (mutually exclusive to device-exclude).",
    )


@dataclass(frozen=True, slots=True)
class Disk:
    """One line of /proc/diskstats; `values` in the order of FIELDS and in base units."""

    major: str
    minor: str
    name: str
    values: tuple[float, ...]


def parse_diskstats(text: str, wanted: DeviceFilter, skip: Skip) -> list[Disk]:
    """The devices that the filter leaves in; newer kernels' further columns are ignored."""
    disks: list[Disk] = []
    for line in text.split("\n"):
        fields = line.split(None, 3)
        if not fields or (len(fields) > 2 and wanted.ignored(fields[2])):
            continue
        try:
            major, minor, name, rest = fields
            columns = rest.split()
            if len(columns) < MIN_FIELDS:
                raise ValueError(f"expected {MIN_FIELDS} columns or more, got {len(columns)}")
            integer(major), integer(minor)
            values = [integer(column) * factor for (_, factor), column in zip(FIELDS, columns, strict=False)]
        except ValueError as err:
            skip(f"/proc/diskstats {line.strip()[:40]}", err)
        else:
            disks.append(Disk(major, minor, name, tuple(values)))
    return disks


def parse_udev(text: str) -> dict[str, str]:
    """Properties (`E:` lines) of a file of udev's database."""
    properties: dict[str, str] = {}
    for line in text.split("\n"):
        if line.startswith("E:"):
            key, equals, value = line[2:].partition("=")
            if equals:
                properties[key] = value
    return properties


def udev_readings(disk: Disk, udev: dict[str, str], rotational: str, skip: Skip) -> list[Reading]:
    """What the properties say of the device; without properties there is still node_disk_info."""
    serial = udev.get("SCSI_IDENT_SERIAL") or udev.get("ID_SERIAL_SHORT") or udev.get("ID_SERIAL", "")
    info = (
        disk.name,
        disk.major,
        disk.minor,
        udev.get("ID_PATH", ""),
        udev.get("ID_WWN", ""),
        udev.get("ID_MODEL", ""),
        serial,
        udev.get("ID_REVISION", ""),
        rotational,
    )
    readings: list[Reading] = [(INFO, info, 1.0)]
    if udev.get("DM_NAME"):
        readings.append((MAPPER, (disk.name, *(udev.get(key, "") for key in MAPPER_KEYS)), 1.0))
    if udev.get("ID_FS_USAGE"):
        readings.append((FILESYSTEM, (disk.name, *(udev.get(key, "") for key in FILESYSTEM_KEYS)), 1.0))
    for desc, key in ATA:
        if key in udev:
            try:
                readings.append((desc, (disk.name,), float(integer(udev[key]))))
            except ValueError as err:
                skip(f"udev {disk.name} {key}", err)
    return readings


class DiskstatsCollector(Collector):
    """node_disk_*"""

    name = "diskstats"
    options_type = DiskstatsOptions
    descs = (*(desc for desc, _ in FIELDS), INFO, FILESYSTEM, MAPPER, WRITE_CACHE, WRITE_CACHE_ENABLED, ROTATION)
    options: DiskstatsOptions

    def _prepare(self) -> None:
        exclude = self.options.device_exclude
        if self.options.device_include and exclude == DEFAULT_EXCLUDE:
            exclude = ""
        self._filter = DeviceFilter(exclude, self.options.device_include, "collector.diskstats.device")
        self._udev: dict[tuple[str, str, str], tuple[float, list[Reading]]] = {}

    def collect(self, skip: Skip) -> list[Reading]:
        disks = parse_diskstats(read_text(self.paths.proc("diskstats")), self._filter, skip)
        readings: list[Reading] = []
        now = self.clock.monotonic()
        known = self._udev
        self._udev = {}
        for disk in disks:
            labels = (disk.name,)
            readings += [(desc, labels, value) for (desc, _), value in zip(FIELDS, disk.values, strict=False)]
            key = (disk.major, disk.minor, disk.name)
            entry = known.get(key)
            if entry is None or now - entry[0] >= UDEV_SECONDS:
                entry = (now, self._identify(disk, skip))
            self._udev[key] = entry
            readings += entry[1]
        return readings

    def _identify(self, disk: Disk, skip: Skip) -> list[Reading]:
        try:
            udev = parse_udev(read_text(f"{self.paths.udev}/b{disk.major}:{disk.minor}"))
        except OSError:
            udev = {}  # containers and machines without udev: the counters need no names
        try:
            rotational = read_attr(self.paths.sys("block", disk.name, "queue/rotational"))
        except OSError:
            rotational = "0"
        return udev_readings(disk, udev, rotational, skip)
