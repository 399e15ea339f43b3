"""Runner of the promqltest language: load samples, evaluate queries, compare with what the script expects.

The language is Prometheus's (promql/promqltest); `load`, `load_with_nhcb`, `clear`, `eval`, `eval_fail`, `eval_warn`,
`eval_ordered`, `expect ...`. A script stops at its first failure, a ScriptError with the line.
"""

import re
from collections.abc import Callable, Sequence

from common.errors import QueryError
from common.histogram import FloatHistogram, ResetHint, aligned, numbers
from common.labels import EMPTY, Labels
from common.promql.ast import ValueType
from common.promql.engine import Engine, Result
from common.promql.gonumber import almost_equal
from common.promql.matrix import Matrix
from common.promql.promqltest_script import Cell, Clear, Command, Eval, Load, cells_of, fail
from common.promql.promqltest_store import ScriptStore, custom_histograms

TOLERANCE = 1e-6
_RECHECK_MS = 60_000
_OF_QUERY = re.compile(r"\b(start|end|step|range)\(\)", re.IGNORECASE)


class Runner:
    """Runs commands against an engine and a store of its own."""

    def __init__(
        self,
        engine: Engine,
        make_store: Callable[[], ScriptStore] = ScriptStore,
        same: Callable[[Cell, Cell], bool] | None = None,
    ) -> None:
        """`same` compares an expected with an actual cell; `same_cell` if none is given."""
        self._same = same or same_cell
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
                fail(command.line, f"{command.query}: unexpected error: {err}")
            if not command.fails.matches(str(err)):
                fail(command.line, f"{command.query}: expected error {command.fails}, got: {err}")
            return
        if command.fails is not None:
            fail(command.line, f"{command.query}: expected an error, got none")
        self._check_notes(command, result)
        if command.is_range:
            self._check_series(command, command.series, cells_of_matrix(result.matrix), "")
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
                fail(command.line, f"{command.query}: expected no {name}, got {actual}")
            if not expected:
                continue
            if not actual:
                fail(command.line, f"{command.query}: expected a {name}, got none")
            for text in actual:
                if not any(note.matches(text) for note in expected):
                    fail(command.line, f"{command.query}: unexpected {name} {text!r}, expected {expected}")

    def _check_instant(self, command: Eval, result: Result) -> None:
        if command.string is not None:
            if result.type is not ValueType.STRING or result.string != command.string:
                fail(command.line, f"{command.query}: expected the string {command.string!r}, got {result}")
        elif result.type is ValueType.SCALAR:
            if command.scalar is None or not self._same(command.scalar, result.scalar):
                fail(command.line, f"{command.query}: expected {command.scalar}, got the scalar {result.scalar}")
        elif result.type is ValueType.MATRIX:
            if command.range_vector is None:
                fail(command.line, f"{command.query}: unexpected range vector")
            start, _, step = command.range_vector
            actual = []
            for series in result.series:
                cells: list[Cell] = [None] * ((int(series.timestamps[-1]) - start) // step + 1)
                found: list[Cell] = series.values.tolist()
                if series.histograms is not None:
                    found = [v if h is None else h for v, h in zip(found, series.histograms.tolist(), strict=True)]
                for time, value in zip(series.timestamps.tolist(), found, strict=True):
                    cells[(time - start) // step] = value
                actual.append((series.labels, tuple(cells)))
            self._check_series(command, command.series, actual, "")
        else:
            actual = cells_of_matrix(result.matrix)
            if command.ordered and [x for x, _ in actual] != [x for x, _ in command.series]:
                order = [str(x) for x, _ in actual]
                fail(command.line, f"{command.query}: expected another order than {order}")
            self._check_series(command, command.series, actual, "")

    def _recheck(self, command: Eval) -> None:
        """An instant query must equal the middle step of a range query around it."""
        if _OF_QUERY.search(command.query):
            return
        start, end = command.start - _RECHECK_MS, command.start + _RECHECK_MS
        try:
            result = self._engine.range(self.store, command.query, start, end, _RECHECK_MS)
        except QueryError as err:
            fail(command.line, f"{command.query}: unexpected error as a range query: {err}")
        middle = []
        for labels, cells in cells_of_matrix(result.matrix):
            if len(cells) > 1 and cells[1] is not None:
                middle.append((labels, (cells[1],)))
        expected = command.series
        if command.scalar is not None:
            expected = [(EMPTY, (command.scalar,))]
        self._check_series(command, expected, middle, " as the middle of a range query")

    def _check_series(
        self,
        command: Eval,
        expected: Sequence[tuple[Labels, tuple[Cell, ...]]],
        actual: Sequence[tuple[Labels, tuple[Cell, ...]]],
        where: str,
    ) -> None:
        found = dict(actual)
        if len(found) < len(actual):
            fail(command.line, f"{command.query}{where}: a label set occurs twice")
        for labels, cells in expected:
            if all(cell is None for cell in cells) and labels not in found:
                continue
            if labels not in found:
                got = [f"{x} {list(y)}" for x, y in actual]
                fail(command.line, f"{command.query}{where}: expected {labels} {list(cells)}, got {got}")
            self._check_cells(command, labels, cells, found.pop(labels), where)
        for labels, cells in found.items():
            fail(command.line, f"{command.query}{where}: unexpected series {labels} {list(cells)}")

    def _check_cells(
        self, command: Eval, labels: Labels, expected: tuple[Cell, ...], actual: tuple[Cell, ...], where: str
    ) -> None:
        width = max(len(expected), len(actual))
        left = (*expected, *([None] * (width - len(expected))))
        right = (*actual, *([None] * (width - len(actual))))
        for one, other in zip(left, right, strict=True):
            if not self._same(one, other):
                fail(command.line, f"{command.query}{where}: {labels}: expected {list(expected)}, got {list(actual)}")


def cells_of_matrix(matrix: Matrix | None) -> list[tuple[Labels, tuple[Cell, ...]]]:
    """The series of a result with one cell a step, None where there is none."""
    assert matrix is not None
    out = []
    for row, labels in enumerate(matrix.labels):
        cells: list[Cell] = [
            value if there else None
            for value, there in zip(matrix.values[row].tolist(), matrix.presence[row].tolist(), strict=True)
        ]
        if matrix.histograms is not None:
            for step, histogram in enumerate(matrix.histograms[row].tolist()):
                if histogram is not None and matrix.presence[row, step]:
                    cells[step] = histogram
        out.append((labels, tuple(cells)))
    return out


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
