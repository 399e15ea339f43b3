"""What the Raspberry Pi is: board, memory, bootloader, how it was started, what supplies it.

Revision codes: raspberrypi.com, documentation/computers/raspberry-pi, "New-style revision codes".
"""

import hashlib
import os
from dataclasses import dataclass

from common.errors import ConfigError
from edge.collectors.base import GAUGE, Collector, Desc, NoDataError, Reading, Skip, flag
from edge.collectors.devicetree import is_raspberry_pi, read_cell, read_string
from edge.collectors.files import read_text

INFO = Desc(
    "rpi_board_info",
    GAUGE,
    "The board: model, revision code and what it decodes to, serial number (raw, hashed or empty by choice).",
    ("model", "revision", "serial", "type", "manufacturer", "processor", "board_revision"),
)
MEMORY = Desc("rpi_board_memory_bytes", GAUGE, "Memory fitted on the board, by its revision code.")
SUPPLY = Desc("rpi_power_supply_max_current_amperes", GAUGE, "Current that the power supply said it can give (Pi 5).")
USB_CURRENT = Desc(
    "rpi_usb_max_current_enabled", GAUGE, "Whether the USB ports may draw their full current together (Pi 5)."
)
BOOTLOADER = Desc("rpi_bootloader_info", GAUGE, "Version of the EEPROM's bootloader.", ("version",))
BUILT = Desc("rpi_bootloader_build_timestamp_seconds", GAUGE, "When the bootloader was built.")
UPDATED = Desc("rpi_bootloader_update_timestamp_seconds", GAUGE, "When the bootloader was last updated.")
BOOT = Desc("rpi_boot_info", GAUGE, "The medium and partition that the board was started from.", ("mode", "partition"))
RESET_STATUS = Desc("rpi_reset_status", GAUGE, "The reset status register (RSTS) at boot.")
RESET_CAUSE = Desc("rpi_reset_cause", GAUGE, "Whether the register names this cause of the last reset.", ("cause",))
REBOOT = Desc("rpi_reboot_required", GAUGE, "Whether an update asks for a reboot (/run/reboot-required).")
OVERLAY = Desc("rpi_root_overlay", GAUGE, "Whether the root file system is an overlay over a read-only one.")

TYPES = {
    0x0: "A",
    0x1: "B",
    0x2: "A+",
    0x3: "B+",
    0x4: "2B",
    0x5: "Alpha",
    0x6: "CM1",
    0x8: "3B",
    0x9: "Zero",
    0xA: "CM3",
    0xC: "Zero W",
    0xD: "3B+",
    0xE: "3A+",
    0x10: "CM3+",
    0x11: "4B",
    0x12: "Zero 2 W",
    0x13: "400",
    0x14: "CM4",
    0x15: "CM4S",
    0x17: "5",
    0x18: "CM5",
    0x19: "500",
    0x1A: "CM5 Lite",
    0x1B: "CM0",
}
MAKERS = ("Sony UK", "Egoman", "Embest", "Sony Japan", "Embest", "Stadium")
PROCESSORS = ("BCM2835", "BCM2836", "BCM2837", "BCM2711", "BCM2712")
MODES = {1: "sd", 2: "network", 3: "rpiboot", 4: "usb", 5: "usb-c-host", 6: "nvme", 7: "http"}
CAUSES = (("power_on", 0x1000), ("watchdog", 0x20))
MIB = 1 << 20
OLD = {
    0x2: ("B", "Egoman", 256),
    0x3: ("B", "Egoman", 256),
    0x4: ("B", "Sony UK", 256),
    0x5: ("B", "Qisda", 256),
    0x6: ("B", "Egoman", 256),
    0x7: ("A", "Egoman", 256),
    0x8: ("A", "Sony UK", 256),
    0x9: ("A", "Qisda", 256),
    0xD: ("B", "Egoman", 512),
    0xE: ("B", "Sony UK", 512),
    0xF: ("B", "Egoman", 512),
    0x10: ("B+", "Sony UK", 512),
    0x11: ("CM1", "Sony UK", 512),
    0x12: ("A+", "Sony UK", 256),
    0x13: ("B+", "Embest", 512),
    0x14: ("CM1", "Embest", 512),
    0x15: ("A+", "Embest", 256),
}
"""Boards before 2014: code -> type, manufacturer, MiB of memory."""


@dataclass(frozen=True, slots=True)
class Revision:
    """A decoded revision code; empty texts and 0 bytes where the code does not say."""

    code: str
    type: str
    manufacturer: str
    processor: str
    board_revision: str
    memory: int


def decode_revision(code: int) -> Revision:
    """Fields of a revision code; a type, maker or processor that is not known yet is its number in hexadecimal."""
    text = f"{code:x}" if code >= 0x10000 else f"{code:04x}"
    if not code >> 23 & 1:
        board, maker, memory = OLD.get(code & 0xFFFF, ("", "", 0))
        return Revision(text, board, maker, "BCM2835" if board else "", "", memory * MIB)
    kind, maker_number, processor = code >> 4 & 0xFF, code >> 16 & 0xF, code >> 12 & 0xF
    size = code >> 20 & 0x7
    return Revision(
        text,
        TYPES.get(kind, f"0x{kind:02x}"),
        MAKERS[maker_number] if maker_number < len(MAKERS) else f"0x{maker_number:x}",
        PROCESSORS[processor] if processor < len(PROCESSORS) else f"0x{processor:x}",
        f"1.{code & 0xF}",
        256 * MIB << size if size < 7 else 0,
    )


def shown_serial(serial: str, how: str) -> str:
    """The serial number as the flag wants it: `raw`, `hash` (12 hex digits of its SHA-256) or `none`."""
    if how == "raw" or not serial:
        return serial
    return hashlib.sha256(serial.encode()).hexdigest()[:12] if how == "hash" else ""


def root_is_overlay(mounts: str) -> bool | None:
    """Whether the last mount on / is an overlay; None if / is not in the table."""
    found: bool | None = None
    for line in mounts.split("\n"):
        fields = line.split(" ")
        if len(fields) > 2 and fields[1] == "/" and fields[0] != "rootfs":
            found = fields[2] == "overlay"
    return found


@dataclass(frozen=True, slots=True)
class RpiBoardOptions:
    """Flags of the rpi_board collector."""

    serial: str = flag("collector.rpi_board.serial", "raw", "Serial number in rpi_board_info: raw, hash or none.")


class RpiBoardCollector(Collector):
    """rpi_board_*, rpi_bootloader_*, rpi_boot_info, rpi_reset_*"""

    name = "rpi_board"
    silent_without_data = True
    options_type = RpiBoardOptions
    descs = (
        *(INFO, MEMORY, SUPPLY, USB_CURRENT, BOOTLOADER, BUILT, UPDATED, BOOT, RESET_STATUS, RESET_CAUSE),
        *(REBOOT, OVERLAY),
    )
    options: RpiBoardOptions

    def _prepare(self) -> None:
        if self.options.serial not in ("raw", "hash", "none"):
            raise ConfigError(f'--collector.rpi_board.serial: expected raw, hash or none, got "{self.options.serial}"')
        self._constant: list[Reading] | None = None

    def collect(self, skip: Skip) -> list[Reading]:
        if self._constant is None:
            if not is_raspberry_pi(self.paths):
                raise NoDataError("this is no Raspberry Pi")
            self._constant = self._read_constant()
        return self._constant + self._read_changing(skip)

    def _read_constant(self) -> list[Reading]:
        """What only a reboot changes."""
        paths = self.paths
        code = read_cell(paths, "system/linux,revision")
        revision = decode_revision(code) if code is not None else Revision("", "", "", "", "", 0)
        serial = shown_serial(read_string(paths, "serial-number"), self.options.serial)
        labels = (read_string(paths, "model"), revision.code, serial)
        decoded = (revision.type, revision.manufacturer, revision.processor, revision.board_revision)
        readings: list[Reading] = [(INFO, (*labels, *decoded), 1.0)]
        if revision.memory:
            readings.append((MEMORY, (), float(revision.memory)))
        for desc, name, divisor in (
            (SUPPLY, "chosen/power/max_current", 1000.0),
            (USB_CURRENT, "chosen/power/usb_max_current_enable", 1.0),
            (BUILT, "chosen/bootloader/build-timestamp", 1.0),
            (UPDATED, "chosen/bootloader/update-timestamp", 1.0),
        ):
            value = read_cell(paths, name)
            # 0 is how the bootloader says "never" and "not known".
            if value is not None and (value or desc is USB_CURRENT):
                readings.append((desc, (), value / divisor))
        version = read_string(paths, "chosen/bootloader/version")
        if version:
            readings.append((BOOTLOADER, (version,), 1.0))
        mode, partition = (
            read_cell(paths, "chosen/bootloader/boot-mode"),
            read_cell(paths, "chosen/bootloader/partition"),
        )
        if mode is not None:
            shown = "" if partition is None else str(partition)
            readings.append((BOOT, (MODES.get(mode, str(mode)), shown), 1.0))
        status = read_cell(paths, "chosen/bootloader/rsts")
        return readings + (reset_readings(status) if status is not None else [])

    def _read_changing(self, skip: Skip) -> list[Reading]:
        readings: list[Reading] = []
        if os.path.isdir(self.paths.root("run")):  # noqa: PTH112
            wanted = os.path.exists(self.paths.root("run/reboot-required"))  # noqa: PTH110
            readings.append((REBOOT, (), 1.0 if wanted else 0.0))
        for name in ("1/mounts", "mounts"):
            try:
                overlay = root_is_overlay(read_text(self.paths.proc(name)))
            except OSError:
                continue
            if overlay is not None:
                readings.append((OVERLAY, (), 1.0 if overlay else 0.0))
            break
        return readings


def reset_readings(status: int) -> list[Reading]:
    """The register and the causes that it names."""
    return [
        (RESET_STATUS, (), float(status)),
        *((RESET_CAUSE, (cause,), 1.0 if status & bit else 0.0) for cause, bit in CAUSES),
    ]
