"""The kernel's clock discipline (adjtimex(2))."""

import ctypes
import os

from edge.collectors.base import COUNTER, GAUGE, Collector, Desc, NoDataError, Reading, Skip

STA_UNSYNC = 0x0040
STA_NANO = 0x2000
TIME_ERROR = 5
PPM16 = 1_000_000.0 * 65536.0
"""Frequencies are parts per million with a 16-bit fraction."""

MICRO = 1_000_000.0
NANO = 1_000_000_000.0


class Timex(ctypes.Structure):
    """struct timex of adjtimex(2)."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("constant", ctypes.c_long),
        ("precision", ctypes.c_long),
        ("tolerance", ctypes.c_long),
        ("sec", ctypes.c_long),
        ("usec", ctypes.c_long),
        ("tick", ctypes.c_long),
        ("ppsfreq", ctypes.c_long),
        ("jitter", ctypes.c_long),
        ("shift", ctypes.c_int),
        ("stabil", ctypes.c_long),
        ("jitcnt", ctypes.c_long),
        ("calcnt", ctypes.c_long),
        ("errcnt", ctypes.c_long),
        ("stbcnt", ctypes.c_long),
        ("tai", ctypes.c_int),
        ("reserved", ctypes.c_int * 11),
    )


def _desc(name: str, text: str, counter: bool = False) -> Desc:
    return Desc(f"node_timex_{name}", COUNTER if counter else GAUGE, text)


OFFSET = _desc("offset_seconds", "Time offset in between local system and reference clock.")
FREQUENCY = _desc("frequency_adjustment_ratio", "Local clock frequency adjustment.")
MAXERROR = _desc("maxerror_seconds", "Maximum error in seconds.")
ESTERROR = _desc("estimated_error_seconds", "Estimated error in seconds.")
STATUS = _desc("status", "Value of the status array bits.")
CONSTANT = _desc("loop_time_constant", "Phase-locked loop time constant.")
TICK = _desc("tick_seconds", "Seconds between clock ticks.")
PPS_FREQUENCY = _desc("pps_frequency_hertz", "Pulse per second frequency.")
PPS_JITTER = _desc("pps_jitter_seconds", "Pulse per second jitter.")
PPS_SHIFT = _desc("pps_shift_seconds", "Pulse per second interval duration.")
PPS_STABILITY = _desc("pps_stability_hertz", "Pulse per second stability, average of recent frequency changes.")
PPS_JITTER_TOTAL = _desc("pps_jitter_total", "Pulse per second count of jitter limit exceeded events.", counter=True)
PPS_CALIBRATION = _desc("pps_calibration_total", "Pulse per second count of calibration intervals.", counter=True)
PPS_ERROR = _desc("pps_error_total", "Pulse per second count of calibration errors.", counter=True)
PPS_EXCEEDED = _desc(
    "pps_stability_exceeded_total", "Pulse per second count of stability limit exceeded events.", counter=True
)
TAI = _desc("tai_offset_seconds", "International Atomic Time (TAI) offset.")
SYNC = _desc("sync_status", "Is clock synchronized to a reliable server (1 = yes, 0 = no).")


def timex_readings(state: int, timex: Timex) -> list[Reading]:
    """Readings of adjtimex's return value and structure."""
    divisor = NANO if timex.status & STA_NANO else MICRO
    synced = state != TIME_ERROR and not timex.status & STA_UNSYNC
    values = (
        (SYNC, 1.0 if synced else 0.0),
        (OFFSET, timex.offset / divisor),
        (FREQUENCY, 1.0 + timex.freq / PPM16),
        (MAXERROR, timex.maxerror / MICRO),
        (ESTERROR, timex.esterror / MICRO),
        (STATUS, timex.status),
        (CONSTANT, timex.constant),
        (TICK, timex.tick / MICRO),
        (PPS_FREQUENCY, timex.ppsfreq / PPM16),
        (PPS_JITTER, timex.jitter / divisor),
        (PPS_SHIFT, timex.shift),
        (PPS_STABILITY, timex.stabil / PPM16),
        (PPS_JITTER_TOTAL, timex.jitcnt),
        (PPS_CALIBRATION, timex.calcnt),
        (PPS_ERROR, timex.errcnt),
        (PPS_EXCEEDED, timex.stbcnt),
        (TAI, timex.tai),
    )
    return [(desc, (), float(value)) for desc, value in values]


class TimexCollector(Collector):
    """node_timex_*"""

    name = "timex"
    descs = tuple(reading[0] for reading in timex_readings(0, Timex()))

    def _prepare(self) -> None:
        self._adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex

    def collect(self, skip: Skip) -> list[Reading]:
        timex = Timex()
        state = self._adjtimex(ctypes.byref(timex))
        if state == -1:
            errno = ctypes.get_errno()
            raise NoDataError(f"adjtimex is not allowed here: {os.strerror(errno)}")
        return timex_readings(state, timex)
