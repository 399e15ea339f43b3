"""Questions to the Raspberry Pi's firmware: the mailbox device, or the program vcgencmd where that is all there is.

Mailbox: github.com/raspberrypi/firmware/wiki/Mailbox-property-interface; the text commands of tag 0x00030080 are
those of vcgencmd (raspberrypi.com, documentation/computers/os, "vcgencmd").
"""

import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Sequence
from typing import Protocol

from common.errors import FormatError
from edge.collectors.files import integer

COMMAND_TIMEOUT_SECONDS = 5.0
MAX_ANSWER = 1024
DEVICES = ("/dev/vcio", "/dev/vcio_gencmd")

_TAG_THROTTLED = 0x00030046
_TAG_GENCMD = 0x00030080
_REQUEST, _SUCCESS = 0, 0x80000000
_IOWR = 3 << 30
IOCTL_PROPERTY = _IOWR | struct.calcsize("P") << 16 | 100 << 8


class FirmwareError(FormatError):
    """The firmware refused a question or did not understand it."""


class Firmware(Protocol):
    """Who can ask the firmware."""

    def command(self, text: str) -> str:
        """The answer to a vcgencmd command; FirmwareError if it is unknown, OSError if nobody answers."""
        ...

    def throttled(self) -> int:
        """The throttled bits."""
        ...

    @property
    def cheap(self) -> bool:
        """Whether asking costs no process, so that it can be done every second."""
        ...


class Mailbox:
    """The firmware by ioctl(2) on /dev/vcio; needs the group `video`."""

    cheap = True

    def __init__(self, device: str) -> None:
        """Open the device; OSError if there is none or it may not be opened."""
        self._fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the device; idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def property(self, tag: int, value: bytes) -> bytes:
        """The value buffer that the firmware gives back for a tag; FirmwareError if it reports failure."""
        size = (len(value) + 3) & ~3
        message = struct.pack("<5I", size + 24, _REQUEST, tag, size, 0) + value.ljust(size, b"\0") + bytes(4)
        buffer = bytearray(message)
        fcntl.ioctl(self._fd, IOCTL_PROPERTY, buffer, True)
        if int.from_bytes(buffer[4:8], "little") != _SUCCESS:
            raise FirmwareError(f"mailbox tag {tag:#x} failed")
        return bytes(buffer[20 : 20 + size])

    def throttled(self) -> int:
        return int.from_bytes(self.property(_TAG_THROTTLED, b"\xff\xff\0\0")[:4], "little")

    def command(self, text: str) -> str:
        answer = self.property(_TAG_GENCMD, struct.pack("<I", 0) + text.encode().ljust(MAX_ANSWER, b"\0"))
        return checked(text, answer[4:].split(b"\0")[0].decode("utf-8", "replace"))


class Vcgencmd:
    """The firmware by the program vcgencmd: a process for each question, so only now and then."""

    cheap = False

    def __init__(self, program: str) -> None:
        self._program = program

    def command(self, text: str) -> str:
        try:
            done = subprocess.run(
                [self._program, *text.split()],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=COMMAND_TIMEOUT_SECONDS,
            )
        except subprocess.TimeoutExpired as err:
            raise TimeoutError(f"{self._program} {text} did not answer within {COMMAND_TIMEOUT_SECONDS} s") from err
        answer = (done.stdout or done.stderr)[: MAX_ANSWER * 4].decode("utf-8", "replace")
        if done.returncode and "=" not in answer:
            raise FirmwareError(f"{self._program} {text}: {answer.strip() or f'exit status {done.returncode}'}")
        return checked(text, answer)

    def throttled(self) -> int:
        return parse_hex(self.command("get_throttled"))

    def close(self) -> None:
        """Nothing is open."""


def checked(command: str, answer: str) -> str:
    """`answer`, unless it is one of the ways in which the firmware or vcgencmd says no."""
    first = answer.strip().split("\n")[0]
    if not first or first.startswith(("error=", "VCHI initialization failed", "Can't open device file")):
        raise FirmwareError(f"vcgencmd {command}: {first or 'empty answer'}")
    return answer


def parse_hex(answer: str) -> int:
    """The number of `throttled=0x50005` or `get_rsts=1020`: hexadecimal with or without 0x; FormatError if none."""
    text = answer.strip().rpartition("=")[2]
    try:
        return integer(text, 16)
    except ValueError:
        raise FormatError(f"expected a hexadecimal number, got {answer[:40]!r}") from None


def open_firmware(live: bool, devices: Sequence[str], program: str) -> Mailbox | Vcgencmd | None:
    """The best way to the firmware: a mailbox device of this machine, else the program, else None."""
    for device in devices if live else ():
        try:
            return Mailbox(device)
        except OSError:
            continue
    return Vcgencmd(program) if program and shutil.which(program) else None
