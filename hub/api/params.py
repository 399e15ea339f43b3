"""Parameters of API requests: times, limits, selectors, label names; errors in Prometheus's words."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from urllib.parse import unquote_plus, unquote_to_bytes

from aiohttp import web
from multidict import MultiDict

from common.errors import FormatError, QueryError
from common.labels import Matcher
from common.promql.engine import REMEMBERED_LENGTH
from common.promql.parser import parse_selector
from common.times import FIRST, LAST, Moment, parse_span, parse_time
from hub.api.envelope import ApiError, ErrorType, bad, bad_parameter
from hub.api.keys import STATE

UNLIMITED = 2**62
MAX_SELECTORS = 100
MAX_FIELDS = 1_000

_INTEGER = re.compile(r"[+-]?\d+\Z", re.ASCII)
_MAX_DIGITS = 1_000

Form = MultiDict[str]


@asynccontextmanager
async def body_in_time(request: web.Request) -> AsyncIterator[None]:
    """Around receiving a body: 408 and the connection's end if that takes longer than `limits.body_ms`."""
    if request.content.is_eof():
        yield
        return
    seconds = request.app[STATE].limits.body_ms / 1000
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        response = web.HTTPRequestTimeout(text=f"no complete body within {seconds:g} s\n")
        response.force_close()
        raise response from None


async def read_form(request: web.Request) -> Form:
    """Parameters of the URL, and before them those of the form body of a POST or PUT."""
    form: Form = MultiDict()
    if request.method in ("POST", "PUT") and request.content_type == FORM:
        async with body_in_time(request):
            body = await request.read()
        form = parse_form(body)
    if request.query_string:
        form.extend(request.query)
    return form


FORM = "application/x-www-form-urlencoded"


def parse_form(body: bytes) -> Form:
    """The parameters of a form body."""
    try:
        text = body.decode("utf-8")
        if text.count("&") >= MAX_FIELDS:
            raise ValueError("Max number of fields exceeded")
    except ValueError as err:
        raise bad(f"error parsing form values: {err}") from None
    form: Form = MultiDict()
    for field in text.split("&"):
        if field:
            name, _, value = field.partition("=")
            form.add(_plain(name), _plain(value))
    return form


def _plain(text: str) -> str:
    if "%" not in text and "+" not in text:
        return text
    return _unquoted(text) if len(text) <= REMEMBERED_LENGTH else unquote_plus(text)


_unquoted = lru_cache(maxsize=256)(unquote_plus)
"""Most are queries, which repeat themselves."""


def time_param(form: Form, name: str, default: Moment | None = None) -> Moment:
    """The time in parameter `name`; required without a default."""
    text = form.get(name, "")
    if not text and default is not None:
        return default
    try:
        return parse_time(text)
    except ValueError as err:
        raise bad_parameter(name, err if default is None else f"invalid time value for '{name}': {err}") from None


def window_params(form: Form) -> tuple[Moment, Moment]:
    """`start` and `end` of a metadata request; without them all times."""
    return time_param(form, "start", FIRST), time_param(form, "end", LAST)


def span_param(form: Form, name: str) -> int | None:
    """The duration in parameter `name` in ms, or None if absent."""
    text = form.get(name, "")
    if not text:
        return None
    try:
        return parse_span(text) // 1_000_000
    except ValueError as err:
        raise bad_parameter(name, err) from None


def integer(text: str) -> int:
    """A decimal integer; ValueError in Go's words."""
    if not _INTEGER.match(text):
        raise ValueError(f'strconv.Atoi: parsing "{text}": invalid syntax')
    if len(text) > _MAX_DIGITS or not -(2**63) <= int(text) < 2**63:
        raise ValueError(f'strconv.Atoi: parsing "{text}": value out of range')
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


def match_params(
    form: Form, required: bool = False, named: bool = True, empty: bool = False
) -> list[Sequence[Matcher]]:
    """The matcher sets of all `match[]` parameters; errors name the parameter if `named`, as only some endpoints do.

    Selectors that match every series are refused unless `empty`.
    """
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
        if not empty and all(matcher.matches_empty for matcher in matchers):
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


def check_points(start: Moment, end: Moment, step: int, most: int) -> None:
    """Prometheus's refusals of a range query's parameters; `step` in nanoseconds."""
    if end.before(start):
        raise bad_parameter("end", "end timestamp must not be before start time")
    # A step below 1 ms is none for the engine.
    if step < 1_000_000:
        raise bad_parameter(
            "step", "zero or negative query resolution step widths are not accepted. Try a positive integer"
        )
    if end.since(start) // step > most:
        raise ApiError(
            ErrorType.BAD_DATA,
            f"exceeded maximum resolution of {most:,} points per timeseries."
            " Try decreasing the query resolution (?step=XX)",
        )
