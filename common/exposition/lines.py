"""Fast parsing of one target's scrapes: what looks as it did last time costs a prefix comparison and a float.

Same results and errors as `parse.py`, to which every unusual line goes (escapes, exemplars, timestamps, odd blanks).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress

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
    """One scrape: `labels[i]` has `values[i]`, at `timestamps[i]` (ms) if the target gave one.

    Label sets are unique unless timestamps differ; `labels` is the same object as long as the target's series and
    their order stay, so that work on label sets can be kept. `duplicates` counts samples dropped for an earlier one.
    Native `histograms` come from protobuf only.
    """

    labels: Sequence[Labels]
    values: Sequence[float]
    timestamps: Sequence[int | None] | None
    meta: Sequence[MetricMeta]
    duplicates: int = 0
    histograms: Sequence[NativeSeries] = ()


@dataclass(slots=True)
class _Shape:
    """The lines of the last scrape without their values."""

    form: Format
    keys: list[bytes]
    is_sample: list[bool]
    is_other: list[bool]
    is_first: list[bool]
    """For each sample, whether no earlier one has its label set."""
    fixed: int
    exposed: Exposed


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
        if shape is not None and shape.form is form and len(shape.keys) == len(lines):
            rests = [line.removeprefix(key) for line, key in zip(lines, shape.keys, strict=True)]
            texts = list(compress(rests, shape.is_sample))
            # Every prefix was there exactly if together they and the values are the whole body.
            same = not any(compress(rests, shape.is_other))
            same = same and sum(map(len, texts)) + shape.fixed + len(lines) - 1 == len(body)
            if same and _PLAIN_FLOATS.match(b"\n".join([*texts, b""])):
                last = shape.exposed
                values = list(map(float, texts))
                if last.duplicates:
                    values = list(compress(values, shape.is_first))
                return Exposed(last.labels, values, None, last.meta, last.duplicates)
        return self._all(body, lines, form)

    def _all(self, body: bytes, lines: list[bytes], form: Format) -> Exposed:
        reader: Reader = TextReader(body) if form is Format.TEXT else OpenMetricsReader(body)
        labels: list[Labels] = []
        values: list[float] = []
        timestamps: list[int | None] = []
        seen: set[tuple[Labels, int | None]] = set()
        meta: dict[str, MetricMeta] = {}
        keys: list[bytes] | None = []
        is_sample: list[bool] = []
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
                key = text + b" "
            else:
                reader.offset = offset
                entry = reader.entry()
                if entry is None:
                    if keys is not None:
                        keys.extend(lines[index:])
                        is_sample.extend([False] * (len(lines) - index))
                    break
                next_offset = reader.offset
                next_index = index + body.count(b"\n", offset, next_offset)
                if next_offset > len(body):
                    next_index = len(lines)
                if isinstance(entry, Series):
                    # No shape is kept for what a prefix and a plain float can't reproduce.
                    keys = None
                    found, sample, timestamp = entry.labels, entry.value, entry.timestamp
                else:
                    if isinstance(entry, Type):
                        special = {MetricType.HISTOGRAM: "le", MetricType.SUMMARY: "quantile"}.get(entry.type, "")
                    if isinstance(entry, Help | Type | Unit):
                        note(meta, entry)
                    if keys is not None:
                        keys.extend(lines[index:next_index])
                        is_sample.extend([False] * (next_index - index))
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
            if keys is not None:
                keys.append(key)
                is_sample.append(True)
                is_first.append(fresh)
            offset, index = next_offset, next_index
        if form is Format.OPENMETRICS and index >= len(lines):
            reader.offset = len(body)
            reader.entry()
        stamped = timestamps if any(t is not None for t in timestamps) else None
        exposed = Exposed(labels, values, stamped, list(meta.values()), duplicates)
        self._shape = None
        if keys is not None and len(keys) == len(lines):
            is_other = [not sample for sample in is_sample]
            self._shape = _Shape(form, keys, is_sample, is_other, is_first, sum(map(len, keys)), exposed)
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
