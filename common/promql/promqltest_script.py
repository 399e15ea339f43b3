"""The promqltest language: scripts as commands (`load`, `clear`, `eval` with what is expected of it)."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from common.errors import BrambleError
from common.histogram import FloatHistogram, ResetHint, side
from common.labels import Labels
from common.promql.ast import StringLiteral
from common.promql.errors import ParseError
from common.promql.parser import parse as parse_query
from common.promql.promqltest_series import HistogramLiteral, HistogramRun, SeriesDescription, parse_series
from common.units import parse_duration

_COMMAND = re.compile(
    r"eval(?P<mod>_fail|_warn|_ordered|_info)?\s+"
    r"(?:instant(?:\s+at\s+(?P<at>\S+))?|range\s+from\s+(?P<start>\S+)\s+to\s+(?P<end>\S+)\s+step\s+(?P<step>\S+))"
    r"\s+(?P<query>.+)\Z"
)
_LOAD = re.compile(r"(load|load_with_nhcb)\s+(\S+)\s*\Z")
_EXPECT = re.compile(r"expect\s+(fail|warn|no_warn|info|no_info|ordered|string|range vector)\b\s*(.*)\Z")
_RANGE_VECTOR = re.compile(r"from\s+(\S+)\s+to\s+(\S+)\s+step\s+(\S+)\Z")
_NUMBER = r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[iI]nf|[nN]a[nN])"
_START = re.compile(r"(?P<first>[+-]?[0-9a-z]+?)(?P<delta>[+-][0-9a-z]+?)?(?:x(?P<times>\d+))?\Z")

_WITH_STARTS = re.compile(r"(.*?)@st\b(.*)\Z")

Cell = float | FloatHistogram | None
"""A sample's value, or None where there is none."""


class ScriptError(BrambleError, AssertionError):
    """A script that cannot be read, or a query whose result is not the expected one; the text names the line."""


@dataclass(frozen=True, slots=True)
class Clear:
    """Forget everything."""


@dataclass(frozen=True, slots=True)
class Load:
    """Add `series` (one value an interval, from time 0); `starts` are relative start timestamps, ms."""

    line: int
    interval: int
    series: tuple[SeriesDescription, ...]
    starts: dict[Labels, tuple[int | None, ...]]
    with_nhcb: bool = False


@dataclass(frozen=True, slots=True)
class Note:
    """An expected error or annotation; neither text nor pattern: any."""

    text: str | None = None
    pattern: str | None = None

    def matches(self, actual: str) -> bool:
        """Whether `actual` is what was expected."""
        if self.text is not None:
            return actual == self.text
        return self.pattern is None or re.search(self.pattern, actual) is not None


@dataclass(slots=True)
class Eval:
    """One query with all that is expected of it; times in ms."""

    line: int
    query: str
    start: int
    end: int
    step: int
    is_range: bool
    ordered: bool = False
    fails: Note | None = None
    warns: list[Note] = field(default_factory=list)
    infos: list[Note] = field(default_factory=list)
    no_warn: bool = False
    no_info: bool = False
    string: str | None = None
    range_vector: tuple[int, int, int] | None = None
    scalar: Cell = None
    series: list[tuple[Labels, tuple[Cell, ...]]] = field(default_factory=list)


Command = Clear | Load | Eval


def fail(line: int, text: str) -> NoReturn:
    raise ScriptError(f"line {line}: {text}")


def _time(text: str, line: int) -> int:
    sign = -1 if text.startswith("-") else 1
    try:
        return sign * parse_duration(text.lstrip("-"))
    except ValueError as err:
        fail(line, str(err))


def _series(text: str, line: int) -> SeriesDescription:
    try:
        return parse_series(text)
    except ParseError as err:
        fail(line, f"{text}: {err}")


def cells_of(described: SeriesDescription) -> tuple[Cell, ...]:
    """The values of a description, one an interval."""
    out: list[Cell] = []
    for item in described.items:
        if not isinstance(item, HistogramRun):
            out.append(item)
            continue
        current = _histogram(item.base)
        step = None if item.step is None else _histogram(item.step)
        out.append(current)
        for _ in range(item.times):
            if step is not None:
                current = current.plus(step, float(item.sign)).histogram
            out.append(current)
    return tuple(out)


def _histogram(literal: HistogramLiteral) -> FloatHistogram:
    hint = ResetHint.UNKNOWN if literal.hint is None else ResetHint[literal.hint.name]
    return FloatHistogram(
        schema=literal.schema,
        count=literal.count,
        sum=literal.sum,
        zero_count=literal.zero_count,
        zero_threshold=literal.zero_threshold,
        positive=side(literal.offset, literal.buckets),
        negative=side(literal.negative_offset, literal.negative_buckets),
        custom=literal.custom_values,
        hint=hint,
    )


def parse_starts(text: str, line: int = 0) -> tuple[int | None, ...]:
    """Start timestamps relative to their samples, ms: `_ -1m-30sx3`."""
    out: list[int | None] = []
    for word in text.split():
        if word == "_" or word.startswith("_x"):
            out.extend([None] * (int(word[2:]) if word != "_" else 1))
            continue
        match = _START.match(word)
        if match is None:
            fail(line, f"expected a start timestamp like -1m, got {word!r}")
        value = _time(match["first"].lstrip("+"), line)
        delta = _time(match["delta"].lstrip("+"), line) if match["delta"] else 0
        out.extend(value + delta * number for number in range(int(match["times"] or 0) + 1))
    return tuple(out)


def parse_script(text: str) -> list[Command]:
    """The commands of a script."""
    commands: list[Command] = []
    lines = [raw.strip() for raw in text.splitlines()]
    at = 0
    while at < len(lines):
        line = lines[at]
        number = at + 1
        at += 1
        if not line or line.startswith("#"):
            continue
        body: list[tuple[int, str]] = []
        if line != "clear":
            while at < len(lines) and lines[at] and not lines[at].startswith("#"):
                body.append((at + 1, lines[at]))
                at += 1
        if line == "clear":
            commands.append(Clear())
        elif line.startswith("load"):
            commands.append(_parse_load(line, number, body))
        elif line.startswith("eval"):
            commands.append(_parse_eval(line, number, body))
        else:
            fail(number, f"unknown command {line!r}")
    return commands


def _parse_load(line: str, number: int, body: Sequence[tuple[int, str]]) -> Load:
    match = _LOAD.match(line)
    if match is None:
        fail(number, f"expected `load INTERVAL`, got {line!r}")
    # Of two lines for one series the last holds.
    series: dict[Labels, SeriesDescription] = {}
    starts: dict[Labels, tuple[int | None, ...]] = {}
    for at, text in body:
        if found := _WITH_STARTS.match(text):
            starts[_series(found[1], at).labels] = parse_starts(found[2], at)
        else:
            described = _series(text, at)
            series[described.labels] = described
    interval = _time(match[2], number)
    return Load(number, interval, tuple(series.values()), starts, match[1] == "load_with_nhcb")


def _parse_eval(line: str, number: int, body: Sequence[tuple[int, str]]) -> Eval:
    match = _COMMAND.match(line)
    if match is None:
        fail(number, f"expected `eval instant at TIME QUERY` or `eval range ...`, got {line!r}")
    is_range = match["start"] is not None
    start = _time(match["start"] if is_range else match["at"] or "0", number)
    end = _time(match["end"], number) if is_range else start
    out = Eval(number, match["query"], start, end, _time(match["step"], number) if is_range else 0, is_range)
    match match["mod"]:
        case "_fail":
            out.fails = Note()
        case "_warn":
            out.warns.append(Note())
        case "_info":
            out.infos.append(Note())
        case "_ordered":
            out.ordered = True
    for at, text in body:
        if text.startswith("expected_fail_message"):
            out.fails = Note(text=text.removeprefix("expected_fail_message").strip())
        elif text.startswith("expected_fail_regexp"):
            out.fails = Note(pattern=text.removeprefix("expected_fail_regexp").strip())
        elif found := _EXPECT.match(text):
            _parse_expect(out, found[1], found[2], at)
        elif re.match(rf"{_NUMBER}\Z", text):
            out.scalar = float(text)
        else:
            described = _series(text, at)
            out.series.append((described.labels, cells_of(described)))
    return out


def _parse_expect(out: Eval, what: str, rest: str, line: int) -> None:
    note = Note()
    if rest.startswith("msg:"):
        note = Note(text=rest.removeprefix("msg:").strip())
    elif rest.startswith("regex:"):
        note = Note(pattern=rest.removeprefix("regex:").strip())
    match what:
        case "fail":
            out.fails = note
        case "warn":
            out.warns.append(note)
        case "info":
            out.infos.append(note)
        case "no_warn":
            out.no_warn = True
        case "no_info":
            out.no_info = True
        case "ordered":
            out.ordered = True
        case "string":
            expr = parse_query(rest)
            if not isinstance(expr, StringLiteral):
                fail(line, f"expected a string, got {rest!r}")
            out.string = expr.value
        case "range vector":
            found = _RANGE_VECTOR.match(rest)
            if found is None:
                fail(line, f"expected `from TIME to TIME step TIME`, got {rest!r}")
            out.range_vector = (_time(found[1], line), _time(found[2], line), _time(found[3], line))


def pieces(text: str) -> Iterator[tuple[int, list[Command]]]:
    """A script cut at each `clear`: (line, commands) of each scope that evaluates something."""
    scope: list[Command] = []
    for command in parse_script(text):
        if isinstance(command, Clear):
            if any(isinstance(x, Eval) for x in scope):
                yield _first_line(scope), scope
            scope = []
        scope.append(command)
    if any(isinstance(x, Eval) for x in scope):
        yield _first_line(scope), scope


def _first_line(scope: Sequence[Command]) -> int:
    return next(x.line for x in scope if not isinstance(x, Clear))
