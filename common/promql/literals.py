"""Values of PromQL's literals: numbers, durations, strings; errors are ValueErrors worded as Go's and Prometheus's."""

import math
import re

from common.promql.gotext import quote

_INT64_MAX = 2**63 - 1
_SIMPLE_ESCAPES = {
    b"a": b"\a",
    b"b": b"\b",
    b"f": b"\f",
    b"n": b"\n",
    b"r": b"\r",
    b"t": b"\t",
    b"v": b"\v",
}
_ESCAPE = re.compile(rb"\\(?:([0-7]{3})|x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL)
_DURATION_PART = re.compile(r"([0-9]+)([^0-9]+)")
_UNITS = {
    unit: (place, factor * 1_000_000)
    for place, (unit, factor) in enumerate(
        {
            "y": 31_536_000_000,
            "w": 604_800_000,
            "d": 86_400_000,
            "h": 3_600_000,
            "m": 60_000,
            "s": 1000,
            "ms": 1,
        }.items()
    )
}
MAX_DURATION_SECONDS = 2**63 / 1e9
"""What fits a duration of 64-bit nanoseconds, about 292 years."""


def parse_number(text: str) -> float:
    """The value of a number token: decimal, hexadecimal, octal with a leading 0, with underscores, Inf, NaN."""
    try:
        value = _parse_integer(text)
    except ValueError:
        value = None
    if value is not None and value <= _INT64_MAX:
        return float(value)
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"error parsing number: strconv.ParseFloat: parsing {quote(text)}: invalid syntax") from None
    if math.isinf(number) and text.lower() != "inf":
        raise ValueError(
            f"error parsing number: strconv.ParseFloat: parsing {quote(text)}: value out of range"
        ) from None
    return number


def _parse_integer(text: str) -> int | None:
    lower = text.lower()
    if lower.startswith("0x"):
        return int(text, 16)
    if len(text) > 1 and text[0] == "0":
        return int(text, 8)
    # Longer ones don't fit 64 bits, and Python refuses to convert very long ones.
    return int(text) if len(text) <= 25 else None


def parse_duration(text: str) -> int:
    """Nanoseconds of a duration like `1h30m`: units from large to small, each once."""
    total = 0
    last = -1
    at = 0
    while at < len(text):
        match = _DURATION_PART.match(text, at)
        if match is None:
            raise ValueError(f"not a valid duration string: {quote(text)}")
        count, unit = match.groups()
        known = _UNITS.get(unit)
        too_long = len(count.lstrip("0")) > 20
        if known is None and not too_long:
            raise ValueError(f"unknown unit {quote(unit)} in duration {quote(text)}")
        if known is None or too_long or known[0] <= last:
            raise ValueError(f"not a valid duration string: {quote(text)}")
        last = known[0]
        total += int(count) * known[1]
        if total > _INT64_MAX:
            raise ValueError("duration out of range")
        at = match.end()
    return total


def unquote(token: bytes) -> str:
    """What a string token stands for; bytes that are not UTF-8 (from escapes) become lone surrogates (PEP 383)."""
    body = token[1:-1]
    if token[:1] != b"`" and b"\\" in body:
        body = _ESCAPE.sub(_unescape, body)
    return body.decode(errors="surrogateescape")


def is_utf8(text: str) -> bool:
    """Whether an unquoted text has no bytes that are not UTF-8."""
    return text.isascii() or text.encode(errors="replace").decode() == text


def _unescape(match: re.Match[bytes]) -> bytes:
    octal, byte, short, long, char = match.groups()
    if char is not None:
        return _SIMPLE_ESCAPES.get(char, char)
    if octal is not None or byte is not None:
        return bytes((int(octal, 8) if octal is not None else int(byte, 16),))
    return chr(int(short or long, 16)).encode()


def seconds_to_ms(seconds: float) -> int:
    """Whole milliseconds of a duration, as Prometheus gets them: rounded to nanoseconds, then cut."""
    nanoseconds = math.floor(abs(seconds) * 1e9 + 0.5)
    return int(math.copysign(1, seconds)) * (nanoseconds // 1_000_000)


def seconds_to_timestamp(seconds: float) -> int:
    """Milliseconds, rounded half away from zero, within 64 bits; `seconds` is finite."""
    ms = int(math.copysign(math.floor(abs(seconds) * 1000 + 0.5), seconds))
    return max(-_INT64_MAX - 1, min(ms, _INT64_MAX))
