"""Fast parsing of one target's scrapes: a line that is as it was costs a comparison, a new value a float besides.

Same results and errors as `parse.py`, to which every unusual line goes (escapes, exemplars, timestamps, odd blanks).
"""

import operator
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from common.errors import FormatError
from common.exposition.native import NativeSeries
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
    normal_float,
)
from common.labels import NAME, Labels
from common.sample import MetricMeta, MetricType

MAX_CACHED_SERIES = 200_000
"""Series texts remembered for one target; beyond, the memory of them is emptied and filled anew."""

RELEARN = 20
"""Scrapes after which it is learnt anew which lines of a target change from one to the next."""
MAX_SHARED = 16_384
"""Lines, texts and comments remembered for all targets."""

_SIMPLE = re.compile(
    rb'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_][a-zA-Z0-9_]*="[^"\\\n]*"(?:,(?!\})|(?=\})))*)\})?\Z'
)
_PAIR = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="([^"]*)"')
_PLAIN_FLOAT = re.compile(rb"[+-]?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]{1,2})?\Z|NaN\Z|[+-]Inf\Z")
_NO_HEAD = b"\n"
"""What no line begins with."""
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
    """The last scrape, by lines.

    A line that stays keeps its bytes: those of the next scrape are freed at once, while the processor's caches have
    them, and those that were kept may be shared with other targets. A line that changed is not kept at all, but read
    each time.
    """

    form: Format
    lines: list[bytes | None]
    """None where the line changed lately."""
    heads: list[bytes]
    """What stands before the value of each line; for lines without a sample, what no line begins with."""
    places: NDArray[np.int32]
    """Which sample each line is, in order of lines."""
    values: NDArray[np.float64]
    """Of all samples."""
    first: NDArray[np.bool_] | None
    """Whether a sample is the first of its label set; None if all are."""
    exposed: Exposed
    left: int = RELEARN
    """Scrapes until it is learnt anew which lines change."""

    def again(self, lines: list[bytes]) -> Exposed | None:
        """What these lines say if only values differ from the last ones, which they then replace; else None."""
        last, heads = self.lines, self.heads
        changed = list(compress(range(len(lines)), map(operator.ne, lines, last)))
        if changed:
            fresh = [lines[at] for at in changed]
            begins = [heads[at] for at in changed]
            if not all(map(bytes.startswith, fresh, begins)):
                return None
            values = plain_floats([line[len(head) :] for line, head in zip(fresh, begins, strict=True)])
            if values is None:
                return None
            self.values = self.values.copy()
            self.values[self.places[changed]] = values
            self.left -= 1
            for at, line in zip(changed, fresh, strict=True):
                last[at] = None if self.left else line
            self.left = self.left or RELEARN
        known = self.exposed
        found = self.values if self.first is None else self.values[self.first]
        return Exposed(known.labels, found, None, known.meta, known.duplicates)


def plain_floats(texts: list[bytes]) -> NDArray[np.float64] | None:
    """The values of some numbers as exporters write them; None if one is unusual, or none at all."""
    joined = b"\n".join(texts)
    if joined.translate(None, b"0123456789.e+-\n"):
        if not _PLAIN_FLOATS.match(joined + b"\n"):
            return None
        return np.array(list(map(float, texts)))
    # Python's floats are Go's where there is nothing but these characters, but for those beyond the largest.
    try:
        values = np.array(list(map(float, texts)))
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None


K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Pool(Generic[K, V]):
    """A memory of the latest `most` to twice as many values by key."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        """What was put under an equal key, if that is remembered."""
        found = self._young.get(key)
        if found is None and (found := self._old.get(key)) is not None:
            self.put(key, found)
        return found

    def put(self, key: K, value: V) -> V:
        """Remember a value, and give it back."""
        if len(self._young) >= self._most:
            self._old, self._young = self._young, {}
        self._young[key] = value
        return value


class Shared:
    """What parsers of several targets have in common: equal lines, texts and label sets are then the same objects.

    Not thread-safe.
    """

    def __init__(self, most: int = MAX_SHARED) -> None:
        """Remember at least `most` of each."""
        self.lines = Pool[bytes, bytes](most)
        self.series = Pool[tuple[str, bytes], tuple[bytes, Labels]](most)
        """By special label and text: the text and what it means."""
        self.comments = Pool[tuple[Format, bytes], Help | Type | Unit](most)


@dataclass(slots=True)
class LineParser:
    """Parses the scrapes of one target, one after the other."""

    shared: Shared = field(default_factory=Shared)
    _shape: _Shape | None = None
    _known: dict[str, dict[bytes, tuple[bytes, Labels]]] = field(default_factory=dict)
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
        self._shape = None
        reader: Reader = TextReader(body) if form is Format.TEXT else OpenMetricsReader(body)
        labels: list[Labels] = []
        values: list[float] = []
        timestamps: list[int | None] = []
        seen: set[tuple[Labels, int | None]] = set()
        meta: dict[str, MetricMeta] = {}
        heads: list[bytes] | None = []
        sampled: list[float] = []
        is_first: list[bool] = []
        duplicates = 0
        special = ""
        offset = index = 0
        while index < len(lines):
            line = lines[index]
            if line[:1] == b"#" and index < len(lines) - 1:
                comment = self.shared.comments.get((form, line))
                if comment is not None:
                    note(meta, comment)
                    if isinstance(comment, Type):
                        reader.type = comment.type
                        special = FAMILY_LABEL.get(comment.type, "")
                    if heads is not None:
                        heads.append(_NO_HEAD)
                    offset, index = offset + len(line) + 1, index + 1
                    continue
            value = line[line.rfind(b" ") + 1 :]
            text = line[: len(line) - len(value)]
            known = self._series(special, text) if _PLAIN_FLOAT.match(value) else None
            if known is not None:
                head, found = known
                sample, timestamp = float(value), None
                next_offset, next_index = offset + len(line) + 1, index + 1
            else:
                reader.offset = offset
                entry = reader.entry()
                if entry is None:
                    if heads is not None:
                        heads.extend([_NO_HEAD] * (len(lines) - index))
                    break
                next_offset = reader.offset
                next_index = index + body.count(b"\n", offset, next_offset)
                if next_offset > len(body):
                    next_index = len(lines)
                if isinstance(entry, Series):
                    # No shape is kept for what a prefix and a plain float can't reproduce.
                    heads = None
                    found, sample, timestamp = entry.labels, entry.value, entry.timestamp
                else:
                    if isinstance(entry, Type):
                        special = FAMILY_LABEL.get(entry.type, "")
                    if isinstance(entry, Help | Type | Unit):
                        note(meta, entry)
                        if next_index == index + 1 and line[:1] == b"#":
                            self.shared.comments.put((form, line), entry)
                    if heads is not None:
                        heads.extend([_NO_HEAD] * (next_index - index))
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
            if heads is not None:
                heads.append(head)
                sampled.append(sample)
                is_first.append(fresh)
            offset, index = next_offset, next_index
        if form is Format.OPENMETRICS and index >= len(lines):
            reader.offset = len(body)
            reader.entry()
        stamped = timestamps if any(t is not None for t in timestamps) else None
        exposed = Exposed(labels, np.array(values, np.float64), stamped, list(meta.values()), duplicates)
        if heads is not None and len(heads) == len(lines):
            one = self.shared.lines
            kept: list[bytes | None] = [one.get(line) or one.put(line, line) for line in lines]
            places = np.cumsum([head is not _NO_HEAD for head in heads], dtype=np.int32) - 1
            first = np.array(is_first, np.bool_) if duplicates else None
            self._shape = _Shape(form, kept, heads, places, np.array(sampled, np.float64), first, exposed)
        return exposed

    def _series(self, special: str, head: bytes) -> tuple[bytes, Labels] | None:
        """The text of a series, its blank included, and its label set; None where only the exact parser can tell."""
        known = self._known.setdefault(special, {})
        if (found := known.get(head)) is not None:
            return found
        found = self.shared.series.get((special, head))
        if found is None:
            labels = simple_series(head[:-1], special)
            if labels is None:
                return None
            found = self.shared.series.put((special, head), (head, labels))
        if self._cached >= MAX_CACHED_SERIES:
            self._known.clear()
            self._cached = 0
            known = self._known.setdefault(special, {})
        known[found[0]] = found
        self._cached += 1
        return found


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
