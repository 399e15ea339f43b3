"""Messages of the kernel that tell of a bad supply or a dying card (kernel: Documentation/ABI/testing/dev-kmsg)."""

import os
import re
from dataclasses import dataclass

from edge.collectors.base import COUNTER, Collector, Desc, NoDataError, Reading, Skip, flag
from edge.collectors.devicetree import is_raspberry_pi

UNDER_VOLTAGE = Desc(
    "rpi_kernel_under_voltage_events_total",
    COUNTER,
    "Messages of the kernel about under-voltage that it still keeps.",
)
IO_ERRORS = Desc(
    "rpi_kernel_io_error_events_total",
    COUNTER,
    "Messages of the kernel about failed reads or writes of block devices.",
)
PATTERNS = (
    (UNDER_VOLTAGE, re.compile(rb"Under-?voltage detected!")),
    (IO_ERRORS, re.compile(rb"I/O error, dev |Buffer I/O error on dev|mmc\d+: error -\d+ ")),
)
MAX_BYTES = 1 << 20
"""Most bytes read in one scrape; the rest is for the next."""

MAX_MESSAGE = 8192


@dataclass(frozen=True, slots=True)
class RpiKernelLogOptions:
    """Flags of the rpi_kernel_log collector."""

    path: str = flag(
        "collector.rpi_kernel_log.path",
        "",
        "Kernel log to watch: a device like /dev/kmsg or a file. Empty: the first that can be read of /dev/kmsg,"
        " /var/log/kern.log, /kernel.log below rootfs.",
    )


def count(message: bytes) -> list[int]:
    """How many matches of each of PATTERNS there are in a part of the log."""
    return [len(pattern.findall(message)) for _, pattern in PATTERNS]


class RpiKernelLogCollector(Collector):
    """rpi_kernel_*_events_total"""

    name = "rpi_kernel_log"
    silent_without_data = True
    options_type = RpiKernelLogOptions
    descs = (UNDER_VOLTAGE, IO_ERRORS)
    options: RpiKernelLogOptions

    def _prepare(self) -> None:
        self._fd = -1
        self._counts = [0] * len(PATTERNS)
        self._rest = b""
        chosen = self.options.path
        names = ["var/log/kern.log", "kernel.log"]
        self._candidates = [chosen] if chosen else [self.paths.root(name) for name in names]
        if not chosen and self.paths.live:
            self._candidates.insert(0, "/dev/kmsg")
        self._wanted = bool(chosen) or is_raspberry_pi(self.paths)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def collect(self, skip: Skip) -> list[Reading]:
        if not self._wanted:
            raise NoDataError("this is no Raspberry Pi")
        if self._fd < 0:
            self._open()
        self._follow()
        return [(desc, (), float(n)) for (desc, _), n in zip(PATTERNS, self._counts, strict=True)]

    def _open(self) -> None:
        for path in self._candidates:
            try:
                self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                continue
            return
        raise NoDataError("no kernel log can be read")

    def _follow(self) -> None:
        """Count what is new; /dev/kmsg gives a message a read, and EPIPE where messages were overwritten."""
        left = MAX_BYTES
        while left > 0:
            try:
                data = os.read(self._fd, MAX_MESSAGE)
            except BrokenPipeError:
                continue
            except BlockingIOError:
                return
            if not data:
                return
            left -= len(data)
            lines, newline, rest = (self._rest + data).rpartition(b"\n")
            self._rest = rest[-MAX_MESSAGE:]
            if newline:
                self._counts = [a + b for a, b in zip(self._counts, count(lines), strict=True)]
