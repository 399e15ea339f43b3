"""Time: the one place that reads clocks and sleeps. Everything else takes a `Clock`."""

import asyncio
import ctypes
import time
from pathlib import Path
from typing import Protocol

from common.sample import Millis

_STA_UNSYNC = 0x0040
_TIME_ERROR = 5


class Clock(Protocol):
    """Wall time for stamps, monotonic time for intervals."""

    def now(self) -> Millis:
        """Wall time, milliseconds since 1970 UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run backwards; only differences mean something."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait at least `seconds` (0 or less: yield once)."""
        ...

    def synced(self) -> bool:
        """Whether the kernel holds the wall clock to be synchronised (adjtimex(2), STA_UNSYNC)."""
        ...

    def boot_id(self) -> str:
        """The kernel's random id of this boot, 32 hex digits (proc(5), random/boot_id)."""
        ...


class _Timex(ctypes.Structure):
    """struct timex of adjtimex(2), as far as `status`; the rest is room for the kernel to write."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    )


class SystemClock:
    """The machine's clocks."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._adjtimex = libc.adjtimex

    def now(self) -> Millis:
        return Millis(time.time_ns() // 1_000_000)

    # Queries ask for it dozens of times.
    monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))

    def synced(self) -> bool:
        timex = _Timex()
        state = self._adjtimex(ctypes.byref(timex))
        return state not in (-1, _TIME_ERROR) and not timex.status & _STA_UNSYNC

    def boot_id(self) -> str:
        try:
            text = Path("/proc/sys/kernel/random/boot_id").read_text("ascii")
        except OSError:
            return "0" * 32
        return text.strip().replace("-", "")
