"""Series descriptions of the promqltest language (and of promtool's unit tests): `up{job="a"} 0+1x5 _ stale`."""

import math
import re
from dataclasses import dataclass
from enum import StrEnum

from common.labels import Labels
from common.promql.errors import ParseError, Problem
from common.promql.parser import parse_metric_prefix
from common.sample import STALE_NAN

MAX_VALUES = 10_000_000
"""Values that one description may expand to."""

_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = r"(?:[0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?|[iI]nf|[nN]a[nN])"
_BLANK = re.compile(r"_(?:x(\d+))?(?![^ \t\r\n])")
_FLOATS = re.compile(rf"([+-]?{_NUMBER})(?:([+-]{_NUMBER})?x(\d+))?(?![^ \t\r\n])")
_STALE = re.compile(r"stale(?:x(\d+))?(?![^ \t\r\n])")
_HISTOGRAM = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_TIMES = re.compile(r"x(\d+)(?![^ \t\r\n])")
_END = re.compile(r"(?![^ \t\r\n])")
_FIELD = re.compile(rf"([a-z_]+):(\[[^\]]*\]|[+-]?{_NUMBER}|[a-z_]+)(?![^ \t\r\n])")
_SIGNED = re.compile(rf"[+-]?{_NUMBER}\Z")
_INT = re.compile(r"-?\d+\Z")


class ResetHint(StrEnum):
    """What a histogram says about counter resets before it."""

    UNKNOWN = "unknown"
    RESET = "reset"
    NOT_RESET = "not_reset"
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True)
class HistogramLiteral:
    """A native histogram as written; counts are per bucket (not cumulative), buckets from `offset` on without gaps.

    `hint` is None where none was written.
    """

    schema: int = 0
    sum: float = 0.0
    count: float = 0.0
    zero_count: float = 0.0
    zero_threshold: float = 0.0
    buckets: tuple[float, ...] = ()
    offset: int = 0
    negative_buckets: tuple[float, ...] = ()
    negative_offset: int = 0
    custom_values: tuple[float, ...] = ()
    hint: ResetHint | None = None


@dataclass(frozen=True, slots=True)
class HistogramRun:
    """`base`, then `times` more, each by `step` (times `sign`) more than the one before; the same without `step`."""

    base: HistogramLiteral
    step: HistogramLiteral | None = None
    sign: int = 1
    times: int = 0


Item = float | None | HistogramRun
"""A float (STALE_NAN for `stale`), None for no sample, or histograms."""


@dataclass(frozen=True, slots=True)
class SeriesDescription:
    """A metric and its values, one per interval; a HistogramRun stands for 1 + times of them."""

    labels: Labels
    items: tuple[Item, ...]

    @property
    def length(self) -> int:
        """How many intervals the values take."""
        return sum(1 + item.times if isinstance(item, HistogramRun) else 1 for item in self.items)


def parse_series(text: str) -> SeriesDescription:
    """A series description; raises ParseError."""
    labels, at = parse_metric_prefix(text)
    return SeriesDescription(labels, parse_values(text, at))


def parse_values(text: str, start: int = 0) -> tuple[Item, ...]:
    """The values from character `start` on, separated by blanks; raises ParseError."""
    items: list[Item] = []
    at = start
    while True:
        space = _SPACE.match(text, at)
        assert space is not None
        if space.end() == len(text):
            return tuple(items)
        if space.end() == at and at:
            raise _error(text, at, "values must be separated by blanks")
        at = _value(text, space.end(), items)


def _error(text: str, at: int, message: str) -> ParseError:
    source = text.encode()
    return ParseError(source, (Problem(len(text[:at].encode()), len(source), f"{message} in series values"),))


def _count(text: str, at: int, digits: str | None, items: list[Item]) -> int:
    count = int(digits) if digits is not None and len(digits) < 10 else MAX_VALUES
    if count + len(items) >= MAX_VALUES:
        raise _error(text, at, f"more than {MAX_VALUES} values")
    return count


def _value(text: str, at: int, items: list[Item]) -> int:
    if text.startswith("{{", at):
        run, end = _histograms(text, at, items)
        items.append(run)
        return end
    if match := _BLANK.match(text, at):
        items += [None] * (1 if match[1] is None else _count(text, at, match[1], items))
        return match.end()
    if match := _STALE.match(text, at):
        items += [STALE_NAN] * (1 if match[1] is None else 1 + _count(text, at, match[1], items))
        return match.end()
    match = _FLOATS.match(text, at)
    if match is None:
        raise _error(text, at, f'expected a number, "_", "stale" or a histogram, got "{text[at : at + 20]}"')
    value = _float(text, at, match[1])
    if match[3] is None:
        items.append(value)
        return match.end()
    step = 0.0 if match[2] is None else _float(text, at, match[2])
    for _ in range(1 + _count(text, at, match[3], items)):
        items.append(value)
        value += step
    return match.end()


def _float(text: str, at: int, number: str) -> float:
    try:
        return float(number)
    except ValueError:
        raise _error(text, at, f'bad number "{number}"') from None


def _histograms(text: str, at: int, items: list[Item]) -> tuple[HistogramRun, int]:
    base, end = _histogram(text, at)
    if text.startswith(("+{{", "-{{"), end):
        sign = 1 if text[end] == "+" else -1
        step, end = _histogram(text, end + 1)
        match = _TIMES.match(text, end)
        if match is None:
            raise _error(text, end, "expected a repetition like x5")
        return HistogramRun(base, step, sign, _count(text, at, match[1], items)), match.end()
    if match := _TIMES.match(text, end):
        return HistogramRun(base, times=_count(text, at, match[1], items)), match.end()
    if _END.match(text, end) is None:
        raise _error(text, end, f'unexpected "{text[end : end + 10]}" behind a histogram')
    return HistogramRun(base), end


def _histogram(text: str, at: int) -> tuple[HistogramLiteral, int]:
    match = _HISTOGRAM.match(text, at)
    if match is None:
        raise _error(text, at, "histogram without closing }}")
    body = match[1]
    fields: dict[str, str] = {}
    position = 0
    while True:
        space = _SPACE.match(body, position)
        assert space is not None
        position = space.end()
        if position == len(body):
            break
        field = _FIELD.match(body, position)
        if field is None:
            raise _error(text, at + 2 + position, "expected a histogram field like buckets:[5 10 7]")
        name, value = field.groups()
        if name in fields:
            raise _error(text, at + 2 + position, f'duplicate key "{name}" in histogram')
        fields[name] = value
        position = field.end()
    try:
        return _build(fields), match.end()
    except ValueError as err:
        raise _error(text, at, str(err)) from None


def _build(fields: dict[str, str]) -> HistogramLiteral:
    hint = fields.pop("counter_reset_hint", None)
    literal = HistogramLiteral(
        schema=_integer(fields, "schema"),
        sum=_signed(fields.pop("sum", "0")),
        count=_signed(fields.pop("count", "0")),
        zero_count=_signed(fields.pop("z_bucket", "0")),
        zero_threshold=_signed(fields.pop("z_bucket_w", "0")),
        buckets=_list(fields, "buckets"),
        offset=_integer(fields, "offset"),
        negative_buckets=_list(fields, "n_buckets"),
        negative_offset=_integer(fields, "n_offset"),
        custom_values=_list(fields, "custom_values"),
        hint=None if hint is None else ResetHint(hint),
    )
    if fields:
        raise ValueError(f'bad histogram descriptor found: "{next(iter(fields))}"')
    return literal


def _integer(fields: dict[str, str], name: str) -> int:
    text = fields.pop(name, "0")
    if _INT.match(text) is None or not -(2**31) <= int(text) < 2**31:
        raise ValueError(f'{name} must be an integer, got "{text}"')
    return int(text)


def _signed(text: str) -> float:
    if _SIGNED.match(text) is None:
        raise ValueError(f'expected a number, got "{text}"')
    value = float(text)
    return math.nan if math.isnan(value) else value


def _list(fields: dict[str, str], name: str) -> tuple[float, ...]:
    text = fields.pop(name, "[]")
    if not text.startswith("["):
        raise ValueError(f'{name} must be a list like [5 10 7], got "{text}"')
    return tuple(_signed(part) for part in text[1:-1].split())
