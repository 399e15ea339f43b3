"""Points in time and spans as Prometheus's API and tools take them, and RFC 3339 text."""

import math
import re
from datetime import UTC, datetime, timedelta

from common.sample import Millis
from common.units import parse_duration

MIN_TIME = Millis(-((2**63 - 1) // 1_000_000))
MAX_TIME = Millis((2**63 - 1) // 1_000_000)
"""What a time may be in ms: what int64 nanoseconds hold, years 1677 to 2262."""

_EARLIEST = "-292273086-05-16T16:47:06Z"
_LATEST = "292277025-08-18T07:12:54.999999999Z"
_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[T](\d\d):(\d\d):(\d\d)(?:[.,](\d+))?(Z|[+-]\d\d:\d\d)\Z",
    re.ASCII,
)
_FLOAT = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\Z", re.ASCII)
_NOT_FINITE = re.compile(r"[+-]?(?:inf|infinity|nan)\Z", re.ASCII | re.IGNORECASE)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NEVER = "0001-01-01T00:00:00Z"
"""Go's zero time, which Prometheus's API shows for "not yet"."""


def rfc3339(ms: int | None) -> str:
    """UTC with up to three digits of fraction, as Go prints it; NEVER for None or beyond year 9999."""
    if ms is None:
        return NEVER
    try:
        moment = _EPOCH + timedelta(milliseconds=ms)
    except OverflowError:
        return NEVER
    text = moment.strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f".{ms % 1000:03d}".rstrip("0").rstrip(".")
    return f"{moment.year:04d}{text[text.index('-') :]}{fraction}Z"


def parse_time(text: str) -> Millis:
    """Unix seconds with fraction or RFC 3339; ValueError otherwise. Clamped to what int64 nanoseconds hold.

    NaN and infinities are the earliest time, which is what Prometheus's conversion on x86 makes of them.
    """
    if _FLOAT.match(text):
        # As Go's Modf and Round: the fraction alone is rounded, half away from zero.
        part, whole = math.modf(float(text))
        return _clamp(whole * 1000 + math.copysign(math.floor(abs(part * 1000) + 0.5), part))
    if _NOT_FINITE.match(text):
        return MIN_TIME
    match = _RFC3339.match(text)
    if match is not None:
        year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
        fraction = match.group(7)
        try:
            moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        except ValueError:
            raise ValueError(f'cannot parse "{text}" to a valid timestamp') from None
        offset = timedelta()
        if match.group(8) != "Z":
            sign, hours, minutes = match.group(8)[0], int(match.group(8)[1:3]), int(match.group(8)[4:])
            offset = timedelta(hours=hours, minutes=minutes) * (-1 if sign == "-" else 1)
        seconds = (moment - datetime(1970, 1, 1, tzinfo=UTC) - offset) // timedelta(seconds=1)
        return _clamp(seconds * 1000 + (int(fraction[:3].ljust(3, "0")) if fraction else 0))
    if text == _EARLIEST:
        return MIN_TIME
    if text == _LATEST:
        return MAX_TIME
    raise ValueError(f'cannot parse "{text}" to a valid timestamp')


def _clamp(ms: float) -> Millis:
    if ms <= MIN_TIME:
        return MIN_TIME
    if ms >= MAX_TIME:
        return MAX_TIME
    return Millis(int(ms))


def parse_span(text: str) -> int:
    """Milliseconds of a number of seconds or a Prometheus duration; ValueError otherwise. May be negative."""
    if _FLOAT.match(text):
        seconds = float(text)
        if abs(seconds) * 1e9 >= 2**63:
            raise ValueError(f'cannot parse "{text}" to a valid duration. It overflows int64')
        return int(seconds * 1000)
    try:
        return parse_duration(text)
    except ValueError:
        raise ValueError(f'cannot parse "{text}" to a valid duration') from None
