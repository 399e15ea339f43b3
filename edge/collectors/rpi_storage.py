"""How the card and the file systems on it fare: identity, eMMC wear, bus errors, ext4's own counters.

Kernel: Documentation/ABI/testing/sysfs-bus-mmc, Documentation/driver-api/mmc/mmc-dev-attrs.rst, Documentation/ABI/
testing/sysfs-fs-ext4; wear levels: JEDEC JESD84-B51, EXT_CSD registers 267-269.
"""

import re

from common.errors import FormatError
from edge.collectors.base import COUNTER, GAUGE, Collector, Desc, NoDataError, Reading, Skip
from edge.collectors.files import integer, list_dir, optional_attr, optional_int, read_text

CARD = Desc(
    "rpi_mmc_info",
    GAUGE,
    "Identity of an SD card or eMMC; fakes may have an empty or garbled name.",
    ("device", "name", "manfid", "oemid", "date", "type", "serial"),
)
LIFE = Desc(
    "rpi_mmc_life_used_ratio",
    GAUGE,
    "Life of an eMMC that is used up at most, by type of its memory; 1.1 when exceeded. SD cards do not tell.",
    ("device", "type"),
)
PRE_EOL = Desc(
    "rpi_mmc_pre_eol", GAUGE, "Spare blocks of an eMMC: 1 normal, 2 warning (80 % used), 3 urgent.", ("device",)
)
BUS_ERRORS = Desc(
    "rpi_mmc_errors_total",
    COUNTER,
    "Errors on the bus to the card, by the host controller (debugfs, root only).",
    ("host", "error"),
)
EXT4_WRITTEN = Desc(
    "rpi_ext4_lifetime_write_bytes", GAUGE, "Bytes written since the file system was made.", ("device",)
)
EXT4_SESSION = Desc(
    "rpi_ext4_session_write_bytes", GAUGE, "Bytes written since the file system was mounted.", ("device",)
)
EXT4_ERRORS = Desc(
    "rpi_ext4_errors_total", COUNTER, "Errors that the file system has noted since its last check.", ("device",)
)

_CARD = re.compile(r"mmcblk[0-9]+\Z")
_ERROR_LINE = re.compile(r"#?\s*(.+?):\s+(\d+)\s*\Z", re.ASCII)


def parse_life(text: str) -> list[tuple[str, float]]:
    """(type, ratio) of `0x02 0x01`: n means at most n tenths, 0 not defined; FormatError if it is no pair of those."""
    fields = text.split()
    try:
        values = [integer(field, 16) for field in fields]
    except ValueError:
        values = []
    if len(values) != 2 or not all(0 <= value <= 0x0B for value in values):
        raise FormatError(f"life_time: expected two values up to 0x0b, got {text[:40]!r}")
    return [(kind, value / 10.0) for kind, value in zip("ab", values, strict=True) if value]


def parse_err_stats(text: str, skip: Skip) -> list[tuple[str, float]]:
    """(error, count) of lines `# Data CRC Errors Occurred:<tab> 17`."""
    found: list[tuple[str, float]] = []
    for line in text.split("\n"):
        match = _ERROR_LINE.match(line)
        if match:
            found.append((match[1], float(match[2])))
        elif line.strip():
            skip(f"err_stats {line[:60]}", ValueError("expected a name and a count"))
    return found


class RpiStorageCollector(Collector):
    """rpi_mmc_*, rpi_ext4_*"""

    name = "rpi_storage"
    silent_without_data = True
    descs = (CARD, LIFE, PRE_EOL, BUS_ERRORS, EXT4_WRITTEN, EXT4_SESSION, EXT4_ERRORS)

    def collect(self, skip: Skip) -> list[Reading]:
        readings = self._cards(skip) + self._hosts(skip) + self._ext4(skip)
        if not readings:
            raise NoDataError("neither a card nor an ext4 file system")
        return readings

    def _cards(self, skip: Skip) -> list[Reading]:
        base = self.paths.sys("block")
        readings: list[Reading] = []
        for name in _names(base):
            if not _CARD.match(name):
                continue
            path = f"{base}/{name}/device"
            files = ("name", "manfid", "oemid", "date", "type", "serial")
            texts = [optional_attr(f"{path}/{file}", skip) for file in files]
            if any(text is not None for text in texts):
                readings.append((CARD, (name, *(text or "" for text in texts)), 1.0))
            life = optional_attr(f"{path}/life_time", skip)
            if life is not None:
                try:
                    readings += [(LIFE, (name, kind), ratio) for kind, ratio in parse_life(life)]
                except FormatError as err:
                    skip(f"{path}/life_time", err)
            pre_eol = optional_int(f"{path}/pre_eol_info", skip, 16)
            if pre_eol:
                readings.append((PRE_EOL, (name,), float(pre_eol)))
        return readings

    def _hosts(self, skip: Skip) -> list[Reading]:
        base = self.paths.sys("kernel/debug")
        readings: list[Reading] = []
        for host in _names(base):
            if not host.startswith("mmc"):
                continue
            try:
                found = parse_err_stats(read_text(f"{base}/{host}/err_stats", 1 << 16), skip)
            except (OSError, FormatError) as err:
                if not isinstance(err, FileNotFoundError | PermissionError):
                    skip(f"{base}/{host}/err_stats", err)
                continue
            readings += [(BUS_ERRORS, (host, error), count) for error, count in dict(found).items()]
        return readings

    def _ext4(self, skip: Skip) -> list[Reading]:
        base = self.paths.sys("fs/ext4")
        readings: list[Reading] = []
        for device in _names(base):
            for desc, file, factor in (
                (EXT4_WRITTEN, "lifetime_write_kbytes", 1024.0),
                (EXT4_SESSION, "session_write_kbytes", 1024.0),
                (EXT4_ERRORS, "errors_count", 1.0),
            ):
                value = optional_int(f"{base}/{device}/{file}", skip)
                if value is not None:
                    readings.append((desc, (device,), value * factor))
        return readings


def _names(path: str) -> list[str]:
    try:
        return list_dir(path)
    except OSError:
        return []
