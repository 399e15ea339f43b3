"""Runner of the promqltest language: load samples, evaluate queries, compare with what the script expects.

The language is Prometheus's (promql/promqltest); `load`, `load_with_nhcb`, `clear`, `eval`, `eval_fail`, `eval_warn`,
`eval_ordered`, `expect ...`. A script stops at its first failure, a ScriptError with the line.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from common.errors import BrambleError, QueryError
from common.histogram import CUSTOM_SCHEMA, FloatHistogram, ResetHint, aligned, detected_hints, numbers, side
from common.labels import EMPTY, NAME, Labels, Matcher, match_all
from common.promql.ast import StringLiteral, ValueType
from common.promql.engine import Engine, Result
from common.promql.errors import ParseError
from common.promql.gonumber import almost_equal, parse
from common.promql.matrix import Matrix
from common.promql.parser import parse as parse_query
from common.promql.promqltest_series import HistogramLiteral, HistogramRun, SeriesDescription, parse_series
from common.sample import Millis
from common.tsdb.memory import MemoryQuerier
from common.tsdb.querier import Budget, RowBatch, SelectHints, Timeline, ValueKind
from common.units import parse_duration

TOLERANCE = 1e-6
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


def _fail(line: int, text: str) -> NoReturn:
    raise ScriptError(f"line {line}: {text}")


def _time(text: str, line: int) -> int:
    sign = -1 if text.startswith("-") else 1
    try:
        return sign * parse_duration(text.lstrip("-"))
    except ValueError as err:
        _fail(line, str(err))


def _series(text: str, line: int) -> SeriesDescription:
    try:
        return parse_series(text)
    except ParseError as err:
        _fail(line, f"{text}: {err}")


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
            _fail(line, f"expected a start timestamp like -1m, got {word!r}")
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
            _fail(number, f"unknown command {line!r}")
    return commands


def _parse_load(line: str, number: int, body: Sequence[tuple[int, str]]) -> Load:
    match = _LOAD.match(line)
    if match is None:
        _fail(number, f"expected `load INTERVAL`, got {line!r}")
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
                _fail(line, f"expected a string, got {rest!r}")
            out.string = expr.value
        case "range vector":
            found = _RANGE_VECTOR.match(rest)
            if found is None:
                _fail(line, f"expected `from TIME to TIME step TIME`, got {rest!r}")
            out.range_vector = (_time(found[1], line), _time(found[2], line), _time(found[3], line))


def custom_histograms(series: Mapping[Labels, tuple[Cell, ...]]) -> dict[Labels, tuple[Cell, ...]]:
    """The classic histograms among `series` (`_bucket`, `_count`, `_sum`) as native ones with custom buckets."""
    found: dict[Labels, dict[str, tuple[Cell, ...]]] = {}
    for labels, cells in series.items():
        for suffix in ("_bucket", "_count", "_sum"):
            if labels.name.endswith(suffix):
                key = labels.drop(("le",)).merge({NAME: labels.name.removesuffix(suffix)})
                part = f"le={labels.get('le')}" if suffix == "_bucket" else suffix
                found.setdefault(key, {})[part] = cells
    out: dict[Labels, tuple[Cell, ...]] = {}
    for key, parts in found.items():
        uppers = sorted((parse(name[3:]), name) for name in parts if name.startswith("le=") and len(name) > 3)
        if not uppers:
            continue
        length = max(len(cells) for cells in parts.values())
        out[key] = tuple(_custom(parts, uppers, slot) for slot in range(length))
    return out


def _custom(parts: Mapping[str, tuple[Cell, ...]], uppers: Sequence[tuple[float, str]], slot: int) -> Cell:
    def value(name: str) -> float | None:
        cell = parts[name][slot] if name in parts and slot < len(parts[name]) else None
        return cell if isinstance(cell, float | int) else None

    counts = [value(name) for _, name in uppers]
    if all(count is None for count in counts):
        return None
    cumulative = np.array([0.0 if count is None else count for count in counts])
    bounds = tuple(upper for upper, _ in uppers if upper != float("inf"))
    total = value("_count")
    if total is None:
        total = float(cumulative[-1])
    if len(bounds) == len(uppers):
        cumulative = np.append(cumulative, total)
    return FloatHistogram(
        schema=CUSTOM_SCHEMA,
        count=total,
        sum=value("_sum") or 0.0,
        positive=side(0, np.diff(cumulative, prepend=0.0)),
        custom=bounds,
    )


class ScriptStore(MemoryQuerier):
    """The dictionary model with native histograms and start timestamps."""

    def __init__(self, rows_per_batch: int = 4096) -> None:
        super().__init__(rows_per_batch)
        self._starts: dict[Labels, dict[int, int]] = {}
        self._histograms: dict[Labels, dict[int, FloatHistogram]] = {}

    def add_histogram(self, labels: Labels, timestamp: int, value: FloatHistogram) -> None:
        """Store one histogram (ms); the first at a timestamp wins."""
        self._histograms.setdefault(labels, {}).setdefault(timestamp, value)

    def set_start(self, labels: Labels, timestamp: int, start: int) -> None:
        """Say when the counter behind a sample began, ms."""
        self._starts.setdefault(labels, {})[timestamp] = start

    def select(
        self,
        matchers: Sequence[Matcher],
        start: Millis,
        end: Millis,
        hints: SelectHints | None = None,
        budget: Budget | None = None,
    ) -> Iterator[RowBatch]:
        """As Querier.select."""
        for labels, samples in self._hinted().items():
            inside = sorted(time for time in samples if start <= time <= end)
            if inside and match_all(matchers, labels):
                cells = np.array([samples[time] for time in inside] + [None], dtype=object)[None, :-1]
                yield RowBatch(
                    [labels],
                    np.zeros(cells.shape),
                    [Timeline(np.array(inside, dtype=np.int64))],
                    np.zeros(1, dtype=np.intp),
                    ValueKind.HISTOGRAM,
                    self._known_starts([labels], [inside]),
                    cells,
                )
        for batch in super().select(matchers, start, end, hints, budget):
            if not any(labels in self._starts for labels in batch.labels):
                yield batch
                continue
            times = [batch.timelines[of].timestamps.tolist() for of in batch.timeline_of]
            yield replace(batch, starts=self._known_starts(batch.labels, times))

    def _hinted(self) -> dict[Labels, dict[int, FloatHistogram]]:
        """All histograms with hints as a storage answers them."""
        out: dict[Labels, dict[int, FloatHistogram]] = {}
        for labels, samples in self._histograms.items():
            times = sorted({*samples, *self._series.get(labels, ())})
            hinted = detected_hints([samples.get(time) for time in times])
            out[labels] = {time: sample for time, sample in zip(times, hinted, strict=True) if sample is not None}
        return out

    def _known_starts(self, labels: Sequence[Labels], times: Sequence[Sequence[int]]) -> NDArray[np.int64]:
        starts = np.zeros((len(labels), max(len(line) for line in times)), dtype=np.int64)
        for row, (one, line) in enumerate(zip(labels, times, strict=True)):
            known = self._starts.get(one, {})
            starts[row, : len(line)] = [known.get(time, 0) for time in line]
        return starts


class Runner:
    """Runs commands against an engine and a store of its own."""

    def __init__(self, engine: Engine, make_store: Callable[[], ScriptStore] = ScriptStore) -> None:
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
        series = {described.labels: cells_of(described) for described in command.series}
        if command.with_nhcb:
            series.update(custom_histograms(series))
        for labels, cells in series.items():
            starts = command.starts.get(labels, ())
            for slot, cell in enumerate(cells):
                if cell is None:
                    continue
                time = slot * command.interval
                if isinstance(cell, FloatHistogram):
                    self.store.add_histogram(labels, time, cell)
                else:
                    self.store.add(labels, time, cell)
                relative = starts[slot] if slot < len(starts) else None
                if relative is not None:
                    self.store.set_start(labels, time, time + relative)

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
            if command.scalar is None or not same_cell(command.scalar, result.scalar):
                _fail(command.line, f"{command.query}: expected {command.scalar}, got the scalar {result.scalar}")
        elif result.type is ValueType.MATRIX:
            if command.range_vector is None:
                _fail(command.line, f"{command.query}: unexpected range vector")
            start, _, step = command.range_vector
            actual = []
            for series in result.series:
                cells: list[Cell] = [None] * ((int(series.timestamps[-1]) - start) // step + 1)
                found: list[Cell] = series.values.tolist()
                if series.histograms is not None:
                    found = [v if h is None else h for v, h in zip(found, series.histograms, strict=True)]
                for time, value in zip(series.timestamps.tolist(), found, strict=True):
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
        if matrix.histograms is not None:
            for step, histogram in enumerate(matrix.histograms[row]):
                if histogram is not None and matrix.presence[row, step]:
                    cells[step] = histogram
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


def same_cell(expected: Cell, actual: Cell) -> bool:
    """Equal within the tolerance; a counter reset hint counts only where one is expected."""
    if isinstance(expected, FloatHistogram) and isinstance(actual, FloatHistogram):
        if expected.hint not in (ResetHint.UNKNOWN, actual.hint):
            return False
        if (expected.schema, expected.custom) != (actual.schema, actual.custom):
            return False
        if not almost_equal(expected.zero_threshold, actual.zero_threshold, TOLERANCE):
            return False
        left, right, _ = aligned(expected, actual)
        return all(
            almost_equal(a, b, TOLERANCE) for a, b in zip(numbers(left).tolist(), numbers(right).tolist(), strict=True)
        )
    if isinstance(expected, FloatHistogram) or isinstance(actual, FloatHistogram):
        return False
    if expected is None or actual is None:
        return expected is actual
    return almost_equal(expected, actual, TOLERANCE)


def _check_cells(
    command: Eval, labels: Labels, expected: tuple[Cell, ...], actual: tuple[Cell, ...], where: str
) -> None:
    width = max(len(expected), len(actual))
    left = (*expected, *([None] * (width - len(expected))))
    right = (*actual, *([None] * (width - len(actual))))
    for one, other in zip(left, right, strict=True):
        if not same_cell(one, other):
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
