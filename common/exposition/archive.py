"""Reads long texts of samples with timestamps line by line: OpenMetrics and the text format. Pure.

Same grammar and errors as `parse.py`, which reads every line that is not plain. Two differences serve archives: a raw
line break inside a label value ends the line, and a timestamp in seconds is cut to milliseconds by its digits, so that
`1.001` is 1001 (Prometheus's float product gives 1000).
"""

import re
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal

from common.errors import ExpositionError
from common.exposition.lines import note, simple_series
from common.exposition.parse import (
    FAMILY_LABEL,
    Format,
    Help,
    OpenMetricsReader,
    Reader,
    Series,
    TextReader,
    Type,
    Unit,
)
from common.labels import Labels
from common.sample import MetricMeta, MetricType

MAX_CACHED_SERIES = 200_000
"""Series texts remembered; beyond, the memory of them is emptied and filled anew."""

_VALUE = rb"([+-]?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]{1,2})?|NaN|[+-]Inf)"
_PLAIN = {
    Format.OPENMETRICS: re.compile(rb"(.+) " + _VALUE + rb" ([0-9]+)(?:\.([0-9]+))?"),
    Format.TEXT: re.compile(rb"(.+) " + _VALUE + rb" ([0-9]+)()"),
}
_BLANK = re.compile(rb"[ \t]*\Z")


class LineError(ExpositionError):
    """A line that can't be taken; `line` counts from 1."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line


@dataclass(slots=True)
class Columns:
    """Samples read: sample i is of `labels[rows[i]]`; times in ms. `meta` has families in the order of their lines."""

    labels: list[Labels] = field(default_factory=list)
    rows: "array[int]" = field(default_factory=lambda: array("q"))
    times: "array[int]" = field(default_factory=lambda: array("q"))
    values: "array[float]" = field(default_factory=lambda: array("d"))
    meta: dict[str, MetricMeta] = field(default_factory=dict)


class Archive:
    """Takes lines, gives columns. `exemplars` counts those left out, `line` the lines taken."""

    def __init__(self, form: Format, latest: int) -> None:
        """`latest` is the last time (ms) that a sample may have: what is later was meant in another unit."""
        self.form = form
        self.line = 0
        self.exemplars = 0
        self.ended = False
        """Whether `# EOF` was read."""
        self._latest = latest
        self._plain = _PLAIN[form]
        self._type = MetricType.UNKNOWN
        self._meta: dict[str, MetricMeta] = {}
        self._known: dict[tuple[str, bytes], Labels] = {}
        self._columns = Columns()
        self._bound = ""
        self._open = ""
        """The family of which more may be said: no sample stands below its last line yet."""
        self._numbers: dict[bytes, int] = {}

    def feed(self, lines: Iterable[bytes]) -> None:
        """Take lines without their line breaks; LineError at the first that is wrong: those before it are taken."""
        columns = self._columns
        rows, times, values = columns.rows.append, columns.times.append, columns.values.append
        plain, numbers, latest = self._plain.fullmatch, self._numbers, self._latest
        for line in lines:
            self.line += 1
            match = plain(line)
            if match is not None and not self.ended:
                text, value, whole, part = match.groups()
                number = numbers.get(text)
                if number is None:
                    number = self._number(text)
                if number is not None:
                    at = int(whole)
                    if self.form is Format.OPENMETRICS:
                        at = 1000 * at + (int(part[:3].ljust(3, b"0")) if part else 0)
                    if at > latest:
                        raise LineError(self.line, self._future(at))
                    rows(number)
                    times(at)
                    values(float(value))
                    continue
            try:
                self._exact(line)
            except LineError:
                raise
            except ExpositionError as err:
                raise LineError(self.line, str(err)) from None
            numbers = self._numbers

    def end(self) -> None:
        """Say that no line follows; LineError if the text is not whole."""
        if self.form is Format.OPENMETRICS and not self.ended:
            raise LineError(
                self.line + 1,
                "the text ends without # EOF: is it whole? Text of Prometheus's own format, with milliseconds, "
                "needs --format prom",
            )
        self._open = ""

    def take(self) -> Columns:
        """What was read since the last call."""
        columns, self._columns = self._columns, Columns()
        held = {self._open: self._meta.pop(self._open)} if self._open else {}
        columns.meta, self._meta = self._meta, held
        self._numbers.clear()
        return columns

    @property
    def waiting(self) -> int:
        """Samples that `take` would give."""
        return len(self._columns.times)

    def _number(self, text: bytes) -> int | None:
        """The row of a series by its text, or None where only the exact parser can tell."""
        labels = self._known.get((self._bound, text)) or simple_series(text, self._bound)
        return None if labels is None else self._add(text, labels)

    def _add(self, text: bytes, labels: Labels) -> int:
        if len(self._known) >= MAX_CACHED_SERIES:
            self._known.clear()
        self._known[self._bound, text] = labels
        self._open = ""
        number = self._numbers[text] = len(self._columns.labels)
        self._columns.labels.append(labels)
        return number

    def _exact(self, line: bytes) -> None:
        if self.ended:
            raise LineError(self.line, "unexpected data after # EOF")
        if self.form is Format.TEXT and _BLANK.match(line):
            return
        reader: Reader = TextReader(line + b"\n") if self.form is Format.TEXT else OpenMetricsReader(line + b"\n")
        reader.type = self._type
        entry = reader.entry()
        match entry:
            case None:
                self.ended = True
            case Series():
                self._sample(line.lstrip(), entry)
            case Help() | Type() | Unit():
                note(self._meta, entry)
                self._open = entry.metric
                if isinstance(entry, Type):
                    self._type = entry.type
                    bound = FAMILY_LABEL.get(entry.type, "")
                    if bound != self._bound:
                        self._bound, self._numbers = bound, {}
            case _:
                pass

    def _sample(self, line: bytes, entry: Series) -> None:
        if entry.timestamp is None:
            raise LineError(
                self.line, "sample without a timestamp: nothing says when it was; each line needs one behind the value"
            )
        at = entry.timestamp
        if self.form is Format.OPENMETRICS:
            at = int(Decimal(line[len(entry.text) :].split(b" ")[2].decode("ascii")) * 1000)
        if at > self._latest:
            raise LineError(self.line, self._future(at))
        if at < 0:
            raise LineError(self.line, f"timestamp {at / 1000} s: samples before 1970 are not stored")
        number = self._numbers.get(entry.text)
        if number is None and not (entry.labels.name and entry.labels.pairs[0][0]):
            raise LineError(self.line, f"a series without a name, or with a label that has none: {entry.labels}")
        self.exemplars += entry.exemplar is not None
        columns = self._columns
        columns.rows.append(self._add(entry.text, entry.labels) if number is None else number)
        columns.times.append(at)
        columns.values.append(entry.value)

    def _future(self, at: int) -> str:
        unit = "seconds in OpenMetrics" if self.form is Format.OPENMETRICS else "milliseconds in the text format"
        return f"timestamp {at / 1000:.3f} s lies in the future: timestamps are {unit}"
