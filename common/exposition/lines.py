"""Fast parsing of one target's scrapes: a line that is as it was costs a comparison, a new value a float besides.

Same results and errors as `parse.py`, to which every unusual line goes (escapes, exemplars, timestamps, odd blanks).
"""

import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, compress

import numpy as np
from numpy.typing import NDArray

from common.errors import FormatError
from common.exposition.native import NativeSeries
from common.exposition.parse import (
    Format,
    Help,
    OpenMetricsReader,
    Reader,
    Series,
    TextReader,
    Type,
    Unit,
    normal_float,
)
from common.labels import NAME, Labels
from common.sample import MetricMeta, MetricType

MAX_CACHED_SERIES = 200_000
"""Series texts remembered for one target; beyond, the memory of them is emptied and filled anew."""

_SIMPLE = re.compile(
    rb'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_][a-zA-Z0-9_]*="[^"\\\n]*"(?:,(?!\})|(?=\})))*)\})?\Z'
)
_PAIR = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="([^"]*)"')
_PLAIN_FLOAT = re.compile(rb"[+-]?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]{1,2})?\Z|NaN\Z|[+-]Inf\Z")
_PLAIN_FLOATS = re.compile(rb"(?:(?:[+-]?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]{1,2})?|NaN|[+-]Inf)\n)*\Z")


@dataclass(frozen=True, slots=True)
class Exposed:
    """One scrape: `labels[i]` has `values[i]` (float64), at `timestamps[i]` (ms) if the target gave one.

    Label sets are unique unless timestamps differ; `labels` and `meta` are the same objects as long as the target's
    series and their order stay, so that work on label sets can be kept. `duplicates` counts samples dropped for an
    earlier one.
    Native `histograms` come from protobuf only. `starts` are start timestamps, ms, 0 for none, None where no sample has
    one or nobody looked for them.
    """

    labels: Sequence[Labels]
    values: NDArray[np.float64]
    timestamps: Sequence[int | None] | None
    meta: Sequence[MetricMeta]
    duplicates: int = 0
    histograms: Sequence[NativeSeries] = ()
    starts: NDArray[np.int64] | None = None


@dataclass(slots=True)
class _Shape:
    """The last scrape, by lines."""

    form: Format
    lines: list[bytes]
    ends: list[int]
    """Where the value of each line begins; 0 for lines without a sample."""
    places: list[int]
    """Which sample each line is, in order of lines."""
    values: NDArray[np.float64]
    """Of all samples."""
    first: NDArray[np.bool_] | None
    """Whether a sample is the first of its label set; None if all are."""
    exposed: Exposed

    def again(self, lines: list[bytes]) -> Exposed | None:
        """What these lines say if only values differ from the last ones, which they then replace; else None."""
        last, ends, places = self.lines, self.ends, self.places
        texts: list[bytes] = []
        changed: list[int] = []
        for at in compress(range(len(lines)), map(operator.ne, lines, last)):
            line, end = lines[at], ends[at]
            if not end or line[:end] != last[at][:end]:
                return None
            texts.append(line[end:])
            changed.append(places[at])
        if texts:
            texts.append(b"")
            if not _PLAIN_FLOATS.match(b"\n".join(texts)):
                return None
            texts.pop()
            self.values = self.values.copy()
            self.values[changed] = list(map(float, texts))
        self.lines = lines
        known = self.exposed
        values = self.values if self.first is None else self.values[self.first]
        return Exposed(known.labels, values, None, known.meta, known.duplicates)


@dataclass(slots=True)
class LineParser:
    """Parses the scrapes of one target, one after the other."""

    _shape: _Shape | None = None
    _known: dict[str, dict[bytes, Labels]] = field(default_factory=dict)
    _cached: int = 0

    def parse(self, body: bytes, form: Format) -> Exposed:
        """The samples and metadata of `body`; ExpositionError as `parse.parse` has it."""
        lines = body.split(b"\n")
        shape = self._shape
        if shape is not None and shape.form is form and len(shape.lines) == len(lines):
            exposed = shape.again(lines)
            if exposed is not None:
                return exposed
        return self._all(body, lines, form)

    def _all(self, body: bytes, lines: list[bytes], form: Format) -> Exposed:
        reader: Reader = TextReader(body) if form is Format.TEXT else OpenMetricsReader(body)
        labels: list[Labels] = []
        values: list[float] = []
        timestamps: list[int | None] = []
        seen: set[tuple[Labels, int | None]] = set()
        meta: dict[str, MetricMeta] = {}
        ends: list[int] | None = []
        sampled: list[float] = []
        is_first: list[bool] = []
        duplicates = 0
        special = ""
        offset = index = 0
        while index < len(lines):
            line = lines[index]
            text, _, value = line.rpartition(b" ")
            found = self._series(special, text) if _PLAIN_FLOAT.match(value) else None
            if found is not None:
                sample, timestamp = float(value), None
                next_offset, next_index = offset + len(line) + 1, index + 1
                end = len(text) + 1
            else:
                reader.offset = offset
                entry = reader.entry()
                if entry is None:
                    if ends is not None:
                        ends.extend([0] * (len(lines) - index))
                    break
                next_offset = reader.offset
                next_index = index + body.count(b"\n", offset, next_offset)
                if next_offset > len(body):
                    next_index = len(lines)
                if isinstance(entry, Series):
                    # No shape is kept for what a prefix and a plain float can't reproduce.
                    ends = None
                    found, sample, timestamp = entry.labels, entry.value, entry.timestamp
                else:
                    if isinstance(entry, Type):
                        special = {MetricType.HISTOGRAM: "le", MetricType.SUMMARY: "quantile"}.get(entry.type, "")
                    if isinstance(entry, Help | Type | Unit):
                        note(meta, entry)
                    if ends is not None:
                        ends.extend([0] * (next_index - index))
                    offset, index = next_offset, next_index
                    continue
            fresh = (found, timestamp) not in seen
            if fresh:
                seen.add((found, timestamp))
                labels.append(found)
                values.append(sample)
                timestamps.append(timestamp)
            else:
                duplicates += 1
            if ends is not None:
                ends.append(end)
                sampled.append(sample)
                is_first.append(fresh)
            offset, index = next_offset, next_index
        if form is Format.OPENMETRICS and index >= len(lines):
            reader.offset = len(body)
            reader.entry()
        stamped = timestamps if any(t is not None for t in timestamps) else None
        exposed = Exposed(labels, np.array(values, np.float64), stamped, list(meta.values()), duplicates)
        self._shape = None
        if ends is not None and len(ends) == len(lines):
            places = list(accumulate((end > 0 for end in ends), initial=0))[:-1]
            first = np.array(is_first, np.bool_) if duplicates else None
            self._shape = _Shape(form, lines, ends, places, np.array(sampled, np.float64), first, exposed)
        return exposed

    def _series(self, special: str, text: bytes) -> Labels | None:
        """The label set that `text` means, or None where only the exact parser can tell."""
        known = self._known.setdefault(special, {})
        if (labels := known.get(text)) is not None:
            return labels
        labels = simple_series(text, special)
        if labels is None:
            return None
        if self._cached >= MAX_CACHED_SERIES:
            self._known.clear()
            self._cached = 0
            known = self._known.setdefault(special, {})
        known[text] = labels
        self._cached += 1
        return labels


def simple_series(text: bytes, special: str) -> Labels | None:
    """The label set of a series text without escapes, blanks or quoted names; None for any other.

    The value of the label `special` (`le` of histograms, `quantile` of summaries) becomes a canonical float.
    """
    match = _SIMPLE.match(text)
    if match is None:
        return None
    try:
        pairs = [(NAME, match[1].decode("ascii"))]
        for name, value in _PAIR.findall((match[2] or b"").decode("utf-8")):
            pairs.append((name, normal_float(value) if name == special else value))
        return Labels(pairs)
    except (UnicodeDecodeError, FormatError):
        return None


def note(meta: dict[str, MetricMeta], entry: Help | Type | Unit) -> None:
    """Add what a line says of its family."""
    name = entry.metric
    last = meta.get(name) or MetricMeta(name, MetricType.UNKNOWN)
    match entry:
        case Help(_, text):
            meta[name] = MetricMeta(name, last.type, text, last.unit)
        case Type(_, kind):
            meta[name] = MetricMeta(name, kind, last.help, last.unit)
        case Unit(_, unit):
            meta[name] = MetricMeta(name, last.type, last.help, unit)
