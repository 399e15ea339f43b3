"""Parameters of API requests: times, durations, limits, selectors, label names; errors in Prometheus's words."""

import asyncio
import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, unquote_to_bytes

from aiohttp import web
from multidict import MultiDict

from common.errors import FormatError, QueryError
from common.labels import Matcher
from common.promql.parser import parse_selector
from common.sample import Millis
from common.units import parse_duration
from hub.api.envelope import ApiError, ErrorType, bad, bad_parameter

MIN_TIME = Millis(-((2**63 - 1) // 1_000_000))
MAX_TIME = Millis((2**63 - 1) // 1_000_000)
"""What a time may be in ms: what int64 nanoseconds hold, years 1677 to 2262."""

UNLIMITED = 2**62
MAX_SELECTORS = 100
MAX_FIELDS = 1_000
BODY_SECONDS = 30.0
"""How long a client may take to send its form."""

_EARLIEST = "-292273086-05-16T16:47:06Z"
_LATEST = "292277025-08-18T07:12:54.999999999Z"
_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[T](\d\d):(\d\d):(\d\d)(?:[.,](\d+))?(Z|[+-]\d\d:\d\d)\Z",
    re.ASCII,
)
_FLOAT = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\Z", re.ASCII)
_NOT_FINITE = re.compile(r"[+-]?(?:inf|infinity|nan)\Z", re.ASCII | re.IGNORECASE)
_INTEGER = re.compile(r"[+-]?\d{1,18}\Z", re.ASCII)

Form = MultiDict[str]


async def read_form(request: web.Request) -> Form:
    """Parameters of the URL, and before them those of a POST's form body."""
    form: Form = MultiDict()
    if request.method == "POST" and request.content_type == "application/x-www-form-urlencoded":
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await request.read()
        except TimeoutError:
            raise web.HTTPRequestTimeout(text=f"no complete body within {BODY_SECONDS:.0f} s\n") from None
        try:
            form.extend(parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=MAX_FIELDS))
        except ValueError as err:
            raise bad(f"error parsing form values: {err}") from None
    form.extend(request.query)
    return form


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


def time_param(form: Form, name: str, default: Millis | None = None) -> Millis:
    """The time in parameter `name`; required without a default."""
    text = form.get(name, "")
    if not text and default is not None:
        return default
    try:
        return parse_time(text)
    except ValueError as err:
        raise bad_parameter(name, err if default is None else f"invalid time value for '{name}': {err}") from None


def span_param(form: Form, name: str) -> int | None:
    """The duration in parameter `name` in ms, or None if absent."""
    text = form.get(name, "")
    if not text:
        return None
    try:
        return parse_span(text)
    except ValueError as err:
        raise bad_parameter(name, err) from None


def integer(text: str) -> int:
    """A decimal integer; ValueError in Go's words."""
    if not _INTEGER.match(text):
        raise ValueError(f'strconv.Atoi: parsing "{text}": invalid syntax')
    return int(text)


def limit_param(form: Form, name: str = "limit") -> int:
    """A non-negative limit; absent or 0 means UNLIMITED."""
    text = form.get(name, "")
    if not text:
        return UNLIMITED
    try:
        limit = integer(text)
        if limit < 0:
            raise ValueError(f"{name} must be non-negative")
    except ValueError as err:
        raise bad_parameter(name, err) from None
    return limit or UNLIMITED


def match_params(form: Form, required: bool = False, named: bool = True) -> list[Sequence[Matcher]]:
    """The matcher sets of all `match[]` parameters; errors name the parameter if `named`, as only some endpoints do."""
    texts = form.getall("match[]", [])
    if required and not texts:
        raise bad("no match[] parameter provided")
    if len(texts) > MAX_SELECTORS:
        raise bad_parameter("match[]", f"more than {MAX_SELECTORS} selectors")
    sets: list[Sequence[Matcher]] = []
    for text in texts:
        try:
            matchers = parse_selector(text)
        except (QueryError, FormatError) as err:
            raise (bad_parameter("match[]", err) if named else bad(str(err))) from None
        if all(matcher.matches_empty for matcher in matchers):
            problem = "match[] must contain at least one non-empty matcher"
            raise bad_parameter("match[]", problem) if named else bad(problem)
        sets.append(matchers)
    return sets


def unescape_label(name: str) -> str:
    """A label name from a path: `U__` marks the values escaping of Prometheus's UTF-8 names (`_2e_` is a dot)."""
    if not name.startswith("U__"):
        return name
    out: list[str] = []
    at, text = 0, name[3:]
    while at < len(text):
        if text[at] != "_":
            out.append(text[at])
            at += 1
        elif text.startswith("__", at):
            out.append("_")
            at += 2
        else:
            stop = text.find("_", at + 1)
            digits = text[at + 1 : stop] if stop > 0 else ""
            if not re.fullmatch(r"[0-9a-fA-F]{1,6}", digits):
                return name
            code = int(digits, 16)
            if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
                return name
            out.append(chr(code))
            at = stop + 1
    return "".join(out)


def label_name(raw: str) -> str:
    """A label name from a path as it came (percent-encoded), unescaped and checked: any non-empty UTF-8."""
    try:
        plain = unescape_label(unquote_to_bytes(raw).decode("utf-8"))
        plain.encode("utf-8")
    except UnicodeError:
        shown = unquote_to_bytes(raw).decode("utf-8", "backslashreplace")
        raise bad(f'invalid label name: "{shown}"') from None
    if not plain:
        raise bad('invalid label name: ""')
    return plain


def check_points(start: int, end: int, step: int, most: int) -> None:
    """Prometheus's refusals of a range query's parameters (ms)."""
    if end < start:
        raise bad_parameter("end", "end timestamp must not be before start time")
    if step <= 0:
        raise bad_parameter(
            "step", "zero or negative query resolution step widths are not accepted. Try a positive integer"
        )
    if (end - start) // step > most:
        raise ApiError(
            ErrorType.BAD_DATA,
            f"exceeded maximum resolution of {most:,} points per timeseries."
            " Try decreasing the query resolution (?step=XX)",
        )
