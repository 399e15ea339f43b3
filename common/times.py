"""Times and durations of requests, read and converted as Prometheus on a 64-bit machine does; RFC 3339 text.

Prometheus holds a time as int64 seconds and nanoseconds. A query's time in ms is made from int64 nanoseconds (years
1677 to 2262), the window of a metadata request from int64 milliseconds; both wrap around beyond, so that a time given
in milliseconds by mistake is some other time, and never an error.
"""

import math
import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

from common.sample import Millis
from common.units import parse_duration

_TO_INTERNAL = 62_135_596_800
"""Seconds from year 1 to 1970: Go orders times by int64 seconds since year 1."""

_LEAST, _MOST = -(2**63), 2**63 - 1
MIN_TIME = Millis(_LEAST // 1_000_000 + 1)
MAX_TIME = Millis(_MOST // 1_000_000)
"""Where windows of metadata requests are cut, in ms; no sample is outside."""

_DIGITS = r"[0-9](?:_?[0-9])*"
_HEX = r"[0-9a-f](?:_?[0-9a-f])*"
_ANY_CASE = re.ASCII | re.IGNORECASE
_DECIMAL = re.compile(rf"[+-]?(?:{_DIGITS}\.?(?:{_DIGITS})?|\.{_DIGITS})(?:e[+-]?{_DIGITS})?\Z", _ANY_CASE)
_HEXADECIMAL = re.compile(rf"[+-]?0x_?(?:{_HEX}\.?(?:{_HEX})?|\.{_HEX})p[+-]?{_DIGITS}\Z", _ANY_CASE)
_SPECIAL = re.compile(r"(?:[+-]?inf(?:inity)?|nan)\Z", _ANY_CASE)
_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T(\d\d?):(\d\d):(\d\d)(?:[.,](\d+))?(Z|[+-]\d\d:\d\d)\Z",
    re.ASCII,
)
_MAX_NUMBER = 400


def _wrapped(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def _int64(value: float) -> int:
    """Go's conversion on amd64: what int64 can't hold, NaN too, is the smallest one."""
    return int(value) if -(2.0**63) <= value < 2.0**63 else _LEAST


def _quotient(value: int, divisor: int) -> int:
    return -(-value // divisor) if value < 0 else value // divisor


class Moment(NamedTuple):
    """A time as Go's time.Time: int64 seconds since 1970, and 0 to 999,999,999 nanoseconds."""

    seconds: int
    nanos: int

    @classmethod
    def of(cls, seconds: int, nanos: int) -> "Moment":
        """As Go's time.Unix: nanoseconds may be any int64."""
        more, nanos = divmod(nanos, 1_000_000_000)
        return cls(_wrapped(seconds + more), nanos)

    @classmethod
    def at(cls, ms: int) -> "Moment":
        """The moment of a timestamp in ms."""
        return cls.of(ms // 1000, ms % 1000 * 1_000_000)

    @property
    def query_ms(self) -> Millis:
        """The time of a query's sample in ms."""
        return Millis(_quotient(_wrapped(self.seconds * 1_000_000_000 + self.nanos), 1_000_000))

    @property
    def window_ms(self) -> Millis:
        """An end of a metadata request's window in ms, cut to MIN_TIME and MAX_TIME."""
        ms = _wrapped(self.seconds * 1000 + self.nanos // 1_000_000)
        return Millis(max(MIN_TIME, min(MAX_TIME, ms)))

    def _internal(self) -> int:
        return _wrapped(self.seconds + _TO_INTERNAL)

    def before(self, other: "Moment") -> bool:
        """Whether this is earlier, in Go's order."""
        return (self._internal(), self.nanos) < (other._internal(), other.nanos)

    def since(self, other: "Moment") -> int:
        """Nanoseconds from `other` to this, saturating as int64."""
        nanos = (self._internal() - other._internal()) * 1_000_000_000 + self.nanos - other.nanos
        return max(_LEAST, min(_MOST, nanos))


FIRST = Moment(_quotient(_LEAST, 1000) + _TO_INTERNAL + 1, 0)
LAST = Moment(_MOST // 1000 - _TO_INTERNAL - 1, 999_999_999)
"""What the windows of metadata requests are without `start` and `end`."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NEVER = "0001-01-01T00:00:00Z"
"""Go's zero time, which Prometheus's API shows for "not yet"."""


def rfc3339(ms: int | None) -> str:
    """UTC with up to three digits of fraction, as Go prints it; NEVER for None or beyond year 9999."""
    if ms is None:
        return NEVER
    text = rfc3339_millis(ms)
    return text if text == NEVER else text.removesuffix("Z").rstrip("0").rstrip(".") + "Z"


def rfc3339_millis(ms: int) -> str:
    """UTC with three digits of fraction; NEVER beyond year 9999."""
    try:
        moment = _EPOCH + timedelta(milliseconds=ms)
    except OverflowError:
        return NEVER
    text = moment.strftime("%m-%dT%H:%M:%S")
    return f"{moment.year:04d}-{text}.{ms % 1000:03d}Z"


_NAMED = {"-292273086-05-16T16:47:06Z": FIRST, "292277025-08-18T07:12:54.999999999Z": LAST}


def parse_float(text: str) -> float:
    """A number as Go's strconv.ParseFloat reads it: underscores, hexadecimal with exponent, Inf and NaN; ValueError."""
    if len(text) <= _MAX_NUMBER:
        if _SPECIAL.match(text):
            return float(text)
        try:
            if _HEXADECIMAL.match(text):
                return float.fromhex(text.replace("_", ""))
            if _DECIMAL.match(text):
                number = float(text)
                if math.isfinite(number):
                    return number
        except OverflowError:
            pass
    raise ValueError(f'strconv.ParseFloat: parsing "{text}": invalid syntax')


@lru_cache(maxsize=256)
def parse_time(text: str) -> Moment:
    """Unix seconds with fraction or RFC 3339; ValueError otherwise."""
    try:
        number = parse_float(text)
    except ValueError:
        return _parse_date(text)
    part, whole = math.modf(number) if math.isfinite(number) else (math.nan, number)
    # As Go's Modf and Round: the fraction alone is rounded to ms, half away from zero.
    fraction = math.copysign(math.floor(abs(part * 1000) + 0.5), part) / 1000 if part == part else part
    return Moment.of(_int64(whole), _int64(fraction * 1e9))


def _parse_date(text: str) -> Moment:
    if text in _NAMED:
        return _NAMED[text]
    match = _RFC3339.match(text)
    if match is None:
        raise ValueError(f'cannot parse "{text}" to a valid timestamp')
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    try:
        # Year 0 is a leap year, as 4 is; Python's calendar begins with year 1.
        moment = datetime(year or 4, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        raise ValueError(f'cannot parse "{text}" to a valid timestamp') from None
    offset = timedelta()
    if match.group(8) != "Z":
        sign, hours, minutes = match.group(8)[0], int(match.group(8)[1:3]), int(match.group(8)[4:])
        if hours > 24 or minutes > 60:
            raise ValueError(f'cannot parse "{text}" to a valid timestamp')
        offset = timedelta(hours=hours, minutes=minutes) * (-1 if sign == "-" else 1)
    seconds = (moment - _EPOCH - offset) // timedelta(seconds=1)
    if not year:
        seconds -= 1461 * 86_400
    return Moment(seconds, int((match.group(7) or "")[:9].ljust(9, "0")))


@lru_cache(maxsize=256)
def parse_span(text: str) -> int:
    """Nanoseconds of a number of seconds or a Prometheus duration; ValueError otherwise. May be negative."""
    try:
        nanos = parse_float(text) * 1e9
    except ValueError:
        try:
            return parse_duration(text) * 1_000_000
        except ValueError:
            raise ValueError(f'cannot parse "{text}" to a valid duration') from None
    if nanos > 2.0**63 or nanos < -(2.0**63):
        raise ValueError(f'cannot parse "{text}" to a valid duration. It overflows int64')
    return _int64(nanos)
