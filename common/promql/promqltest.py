"""Runner of the promqltest language: load samples, evaluate queries, compare with what the script expects.

The language is Prometheus's (promql/promqltest); `load`, `load_with_nhcb`, `clear`, `eval`, `eval_fail`, `eval_warn`,
`eval_ordered`, `expect ...`. A script stops at its first failure, a ScriptError with the line.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from common.errors import BrambleError, QueryError
from common.labels import EMPTY, NAME, Labels
from common.promql.ast import ValueType
from common.promql.engine import Engine, Result
from common.promql.matrix import Matrix
from common.sample import STALE_NAN
from common.tsdb.memory import MemoryQuerier
from common.units import parse_duration

TOLERANCE = 1e-6
_MIN_NORMAL = 2.2250738585072014e-308
_RECHECK_MS = 60_000
_OF_QUERY = re.compile(r"\b(start|end|step|range)\(\)", re.IGNORECASE)

_COMMAND = re.compile(
    r"eval(?P<mod>_fail|_warn|_ordered|_info)?\s+"
    r"(?:instant(?:\s+at\s+(?P<at>\S+))?|range\s+from\s+(?P<start>\S+)\s+to\s+(?P<end>\S+)\s+step\s+(?P<step>\S+))"
    r"\s+(?P<query>.+)\Z"
)
_LOAD = re.compile(r"(load|load_with_nhcb)\s+(\S+)\s*\Z")
_EXPECT = re.compile(r"expect\s+(fail|warn|no_warn|info|no_info|ordered|string|range vector)\b\s*(.*)\Z")
_RANGE_VECTOR = re.compile(r"from\s+(\S+)\s+to\s+(\S+)\s+step\s+(\S+)\Z")
_NUMBER = r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[iI]nf|[nN]a[nN])"
_VALUE = re.compile(rf"(?P<first>{_NUMBER})(?:(?P<sign>[+-])(?P<delta>{_NUMBER}))?(?:x(?P<times>\d+))?\Z")
_NAME_START = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}

Cell = float | None
"""A sample's value, or None where there is none."""


class ScriptError(BrambleError, AssertionError):
    """A script that cannot be read, or a query whose result is not the expected one; the text names the line."""


@dataclass(frozen=True, slots=True)
class Clear:
    """Forget everything."""


@dataclass(frozen=True, slots=True)
class Load:
    """Add `series` (labels, one cell an interval, from time 0)."""

    line: int
    interval: int
    series: tuple[tuple[Labels, tuple[Cell, ...]], ...]
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


def _fail(line: int, text: str) -> NoReturn:
    raise ScriptError(f"line {line}: {text}")


def _time(text: str, line: int) -> int:
    sign = -1 if text.startswith("-") else 1
    try:
        return sign * parse_duration(text.lstrip("-"))
    except ValueError as err:
        _fail(line, str(err))


def _unquote(text: str, at: int, line: int) -> tuple[str, int]:
    """The string that begins with a quote at `at`, and where it ends."""
    quote = text[at]
    if quote == "`":
        end = text.index("`", at + 1)
        return text[at + 1 : end], end + 1
    out: list[str] = []
    at += 1
    while at < len(text) and text[at] != quote:
        if text[at] != "\\":
            out.append(text[at])
            at += 1
        elif text[at + 1] == "x":
            code = int(text[at + 2 : at + 4], 16)
            out.append(chr(code) if code < 0x80 else chr(0xDC00 + code))
            at += 4
        elif text[at + 1] in "uU":
            size = 4 if text[at + 1] == "u" else 8
            out.append(chr(int(text[at + 2 : at + 2 + size], 16)))
            at += 2 + size
        else:
            out.append(_ESCAPES[text[at + 1]])
            at += 2
    if at >= len(text):
        _fail(line, f"unterminated string in {text!r}")
    return "".join(out), at + 1


def parse_metric(text: str, line: int = 0) -> tuple[Labels, str]:
    """The label set that `text` begins with, and the rest."""
    pairs: list[tuple[str, str]] = []
    name = _NAME_START.match(text)
    at = 0
    if name:
        pairs.append((NAME, name[0]))
        at = name.end()
    if at < len(text) and text[at] == "{":
        at += 1
        while True:
            while text[at] in " \t,":
                at += 1
            if text[at] == "}":
                at += 1
                break
            if text[at] in "\"'`":
                key, at = _unquote(text, at, line)
            else:
                match = _LABEL_NAME.match(text, at)
                if match is None:
                    _fail(line, f"expected a label name at {text[at:]!r}")
                key, at = match[0], match.end()
            while text[at] in " \t":
                at += 1
            if text[at] != "=":
                pairs.append((NAME, key))
                continue
            at += 1
            while text[at] in " \t":
                at += 1
            value, at = _unquote(text, at, line)
            pairs.append((key, value))
    elif not name:
        _fail(line, f"expected a series, got {text!r}")
    return Labels(pairs), text[at:]


def parse_values(text: str, line: int = 0) -> tuple[Cell, ...]:
    """Values of a series as the language writes them (`0+10x3 _ stale`)."""
    out: list[Cell] = []
    for word in text.split():
        if word == "stale":
            out.append(STALE_NAN)
            continue
        if word == "_" or word.startswith("_x"):
            out.extend([None] * (int(word[2:]) if word != "_" else 1))
            continue
        match = _VALUE.match(word)
        if match is None:
            _fail(line, f"expected a value, got {word!r}")
        first = float(match["first"])
        delta = float(match["delta"]) * (-1 if match["sign"] == "-" else 1) if match["delta"] else 0.0
        times = int(match["times"] or 0)
        value = first
        out.append(value)
        for _ in range(times):
            value += delta
            out.append(value)
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
            _fail(number, f"unknown command {line!r}")
    return commands


def _parse_load(line: str, number: int, body: Sequence[tuple[int, str]]) -> Load:
    match = _LOAD.match(line)
    if match is None:
        _fail(number, f"expected `load INTERVAL`, got {line!r}")
    # Of two lines for one series the last holds.
    series: dict[Labels, tuple[Cell, ...]] = {}
    for at, text in body:
        labels, rest = parse_metric(text, at)
        series[labels] = parse_values(rest, at)
    return Load(number, _time(match[2], number), tuple(series.items()), match[1] == "load_with_nhcb")


def _parse_eval(line: str, number: int, body: Sequence[tuple[int, str]]) -> Eval:
    match = _COMMAND.match(line)
    if match is None:
        _fail(number, f"expected `eval instant at TIME QUERY` or `eval range ...`, got {line!r}")
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
            labels, rest = parse_metric(text, at)
            out.series.append((labels, parse_values(rest, at)))
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
            out.string = _unquote(rest, 0, line)[0]
        case "range vector":
            found = _RANGE_VECTOR.match(rest)
            if found is None:
                _fail(line, f"expected `from TIME to TIME step TIME`, got {rest!r}")
            out.range_vector = (_time(found[1], line), _time(found[2], line), _time(found[3], line))


def almost_equal(left: float, right: float) -> bool:
    """Equal as the language has it: both NaN, or a relative difference below 1e-6."""
    if math.isnan(left) or math.isnan(right):
        return math.isnan(left) and math.isnan(right)
    if left == right:
        return True
    gap = abs(left - right)
    size = abs(left) + abs(right)
    if left == 0 or right == 0 or size < _MIN_NORMAL:
        return gap < TOLERANCE * _MIN_NORMAL
    return gap / min(size, 1.7976931348623157e308) < TOLERANCE


class Runner:
    """Runs commands against an engine and a store of its own."""

    def __init__(self, engine: Engine, make_store: Callable[[], MemoryQuerier] = MemoryQuerier) -> None:
        self._engine = engine
        self._make_store = make_store
        self.store = make_store()

    def run(self, commands: Sequence[Command]) -> None:
        """Run all commands; ScriptError at the first that does not hold."""
        for command in commands:
            match command:
                case Clear():
                    self.store = self._make_store()
                case Load():
                    self._load(command)
                case Eval():
                    self._eval(command)

    def _load(self, command: Load) -> None:
        for labels, cells in command.series:
            for slot, cell in enumerate(cells):
                if cell is not None:
                    self.store.add(labels, slot * command.interval, cell)

    def _eval(self, command: Eval) -> None:
        try:
            if command.is_range:
                result = self._engine.range(self.store, command.query, command.start, command.end, command.step)
            else:
                result = self._engine.instant(self.store, command.query, command.start)
        except QueryError as err:
            if command.fails is None:
                _fail(command.line, f"{command.query}: unexpected error: {err}")
            if not command.fails.matches(str(err)):
                _fail(command.line, f"{command.query}: expected error {command.fails}, got: {err}")
            return
        if command.fails is not None:
            _fail(command.line, f"{command.query}: expected an error, got none")
        self._check_notes(command, result)
        if command.is_range:
            _check_series(command, command.series, _from_matrix(result.matrix), "")
            return
        self._check_instant(command, result)
        if not command.ordered and command.range_vector is None and command.string is None:
            self._recheck(command)

    def _check_notes(self, command: Eval, result: Result) -> None:
        for name, expected, none, actual in (
            ("warning", command.warns, command.no_warn, result.warnings),
            ("info", command.infos, command.no_info, result.infos),
        ):
            if none and actual:
                _fail(command.line, f"{command.query}: expected no {name}, got {actual}")
            if not expected:
                continue
            if not actual:
                _fail(command.line, f"{command.query}: expected a {name}, got none")
            for text in actual:
                if not any(note.matches(text) for note in expected):
                    _fail(command.line, f"{command.query}: unexpected {name} {text!r}, expected {expected}")

    def _check_instant(self, command: Eval, result: Result) -> None:
        if command.string is not None:
            if result.type is not ValueType.STRING or result.string != command.string:
                _fail(command.line, f"{command.query}: expected the string {command.string!r}, got {result}")
        elif result.type is ValueType.SCALAR:
            if command.scalar is None or not almost_equal(command.scalar, result.scalar):
                _fail(command.line, f"{command.query}: expected {command.scalar}, got the scalar {result.scalar}")
        elif result.type is ValueType.MATRIX:
            if command.range_vector is None:
                _fail(command.line, f"{command.query}: unexpected range vector")
            start, _, step = command.range_vector
            actual = []
            for series in result.series:
                cells: list[Cell] = [None] * ((int(series.timestamps[-1]) - start) // step + 1)
                for time, value in zip(series.timestamps.tolist(), series.values.tolist(), strict=True):
                    cells[(time - start) // step] = value
                actual.append((series.labels, tuple(cells)))
            _check_series(command, command.series, actual, "")
        else:
            actual = _from_matrix(result.matrix)
            if command.ordered and [x for x, _ in actual] != [x for x, _ in command.series]:
                order = [str(x) for x, _ in actual]
                _fail(command.line, f"{command.query}: expected another order than {order}")
            _check_series(command, command.series, actual, "")

    def _recheck(self, command: Eval) -> None:
        """An instant query must equal the middle step of a range query around it."""
        if _OF_QUERY.search(command.query):
            return
        start, end = command.start - _RECHECK_MS, command.start + _RECHECK_MS
        try:
            result = self._engine.range(self.store, command.query, start, end, _RECHECK_MS)
        except QueryError as err:
            _fail(command.line, f"{command.query}: unexpected error as a range query: {err}")
        middle = []
        for labels, cells in _from_matrix(result.matrix):
            if len(cells) > 1 and cells[1] is not None:
                middle.append((labels, (cells[1],)))
        expected = command.series
        if command.scalar is not None:
            expected = [(EMPTY, (command.scalar,))]
        _check_series(command, expected, middle, " as the middle of a range query")


def _from_matrix(matrix: Matrix | None) -> list[tuple[Labels, tuple[Cell, ...]]]:
    assert matrix is not None
    out = []
    for row, labels in enumerate(matrix.labels):
        cells: list[Cell] = [
            value if there else None
            for value, there in zip(matrix.values[row].tolist(), matrix.presence[row].tolist(), strict=True)
        ]
        out.append((labels, tuple(cells)))
    return out


def _check_series(
    command: Eval,
    expected: Sequence[tuple[Labels, tuple[Cell, ...]]],
    actual: Sequence[tuple[Labels, tuple[Cell, ...]]],
    where: str,
) -> None:
    found = dict(actual)
    if len(found) < len(actual):
        _fail(command.line, f"{command.query}{where}: a label set occurs twice")
    for labels, cells in expected:
        if all(cell is None for cell in cells) and labels not in found:
            continue
        if labels not in found:
            got = [f"{x} {list(y)}" for x, y in actual]
            _fail(command.line, f"{command.query}{where}: expected {labels} {list(cells)}, got {got}")
        _check_cells(command, labels, cells, found.pop(labels), where)
    for labels, cells in found.items():
        _fail(command.line, f"{command.query}{where}: unexpected series {labels} {list(cells)}")


def _check_cells(
    command: Eval, labels: Labels, expected: tuple[Cell, ...], actual: tuple[Cell, ...], where: str
) -> None:
    width = max(len(expected), len(actual))
    left = (*expected, *([None] * (width - len(expected))))
    right = (*actual, *([None] * (width - len(actual))))
    for one, other in zip(left, right, strict=True):
        if (one is None) != (other is None) or (one is not None and other is not None and not almost_equal(one, other)):
            _fail(command.line, f"{command.query}{where}: {labels}: expected {list(expected)}, got {list(actual)}")


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
