"""Fast parsing of one target's scrapes: a line that is as it was costs a comparison, a new value a float besides.

Same results and errors as `parse.py`, to which every unusual line goes (escapes, exemplars, timestamps, odd blanks).
"""

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
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
    label_set,
    normal_float,
)
from common.labels import NAME, Labels
from common.sample import MetricMeta, MetricType

MAX_CACHED_SERIES = 200_000
"""Series texts remembered for one target; beyond, the memory of them is emptied and filled anew."""

RELEARN = 500
"""Scrapes after which it is learnt anew which values of a target change."""
MAX_SHARED = 8_192
"""Series and comments remembered for all targets."""
LONGEST_SHARED = 1_024
"""Bytes of what is remembered for all targets; what is longer is not."""

_SIMPLE = re.compile(
    rb'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_][a-zA-Z0-9_]*="[^"\\\n]*"(?:,(?!\})|(?=\})))*)\})?\Z'
)
_PAIR = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="([^"]*)"')
_PLAIN_FLOAT = re.compile(rb"[+-]?[0-9]{1,200}(?:\.[0-9]+)?(?:e[+-]?[0-9]{1,2})?\Z|NaN\Z|[+-]Inf\Z")
_NO_HEAD = b"\n"
"""What no line begins with."""
_PLAIN_FLOATS = re.compile(rb"(?:(?:[+-]?[0-9]{1,200}(?:\.[0-9]+)?(?:e[+-]?[0-9]{1,2})?|NaN|[+-]Inf)\n)*\Z")


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

    def only(self, rows: NDArray[np.intp], labels: Sequence[Labels]) -> "Exposed":
        """Of the samples those at some places; `labels` are theirs, the same object as long as the places stay."""
        stamps = self.timestamps
        return replace(
            self,
            labels=labels,
            values=self.values[rows],
            timestamps=None if stamps is None else [stamps[at] for at in rows.tolist()],
            starts=None if self.starts is None else self.starts[rows],
        )


class _Shape:
    """What a target's scrapes have in common: all of it but the values that changed lately.

    A scrape is read by stepping over what stays, from one such value to the next: few objects are made, and little is
    touched that the processor's caches have lost meanwhile.
    """

    __slots__ = (
        "_changing", "_exposed", "_first", "_heads", "_left", "_lengths", "_places",
        "_samples", "_shared", "_stays", "_values", "form",
    )  # fmt: skip

    def __init__(
        self,
        shared: "Shared",
        form: Format,
        lines: list[bytes],
        heads: list[bytes],
        values: NDArray[np.float64],
        first: NDArray[np.bool_] | None,
        exposed: Exposed,
    ) -> None:
        """`heads` are what stands before the values of the `lines`, _NO_HEAD for lines without a sample.

        `values` are those of all samples; `first` says which are the first of their label set, None if all are.
        """
        self.form = form
        self._shared = shared
        self._heads = heads
        self._places = np.cumsum([head is not _NO_HEAD for head in heads], dtype=np.int32) - 1
        self._values = values
        self._first = first
        self._exposed = exposed
        self._relearn(b"\n".join(lines))

    def _relearn(self, body: bytes) -> None:
        self._left = RELEARN
        self._stays = [body]
        self._lengths = [len(body)]
        self._changing: list[int] = []
        """Lines whose values changed; each stands between two of `_stays`."""
        self._samples = self._places[:0]

    def again(self, body: bytes) -> Exposed | None:
        """What this body says if only values differ from the last one, which it then replaces; else None."""
        texts: list[bytes] = []
        surprises: list[tuple[int, list[bytes], list[int]]] = []
        find, starts, add = body.find, body.startswith, texts.append
        at = 0
        for number, (text, length) in enumerate(zip(self._stays, self._lengths, strict=True)):
            if starts(text, at):
                at += length
            else:
                at = self._surprise(body, at, number, texts, surprises)
                if at < 0:
                    return None
            if (end := find(b"\n", at)) < 0:
                end = len(body)
            add(body[at:end])
            at = end
        # Behind the last of what stays there is nothing more.
        if at != len(body) or texts.pop():
            return None
        if texts:
            values = plain_floats(texts)
            if values is None:
                return None
            if surprises:
                self._cut(surprises)
            self._values = self._values.copy()
            self._values[self._samples] = values
            self._left -= 1
            if not self._left:
                self._relearn(body)
        known = self._exposed
        values = self._values if self._first is None else self._values[self._first]
        return Exposed(known.labels, values, None, known.meta, known.duplicates)

    def _cut(self, surprises: list[tuple[int, list[bytes], list[int]]]) -> None:
        """Have the values of more lines stand for themselves: place, parts and lines of each text that is cut."""
        stays: list[bytes] = []
        changing: list[int] = []
        done = 0
        for place, pieces, lines in surprises:
            stays += self._stays[done:place]
            stays += pieces
            changing += self._changing[done:place]
            changing += lines
            changing += self._changing[place : place + 1]
            done = place + 1
        self._stays = stays + self._stays[done:]
        self._changing = changing + self._changing[done:]
        self._lengths = [len(text) for text in self._stays]
        self._samples = self._places[self._changing]

    def _surprise(
        self,
        body: bytes,
        at: int,
        number: int,
        texts: list[bytes],
        surprises: list[tuple[int, list[bytes], list[int]]],
    ) -> int:
        """Read at `at` what stood in `_stays[number]`, and note the values that changed there; its end, or -1."""
        *whole, part = self._stays[number].split(b"\n")
        first = self._changing[number - 1] if number else 0
        pieces: list[bytes] = []
        lines: list[int] = []
        same: list[bytes] = []
        for line, old in enumerate(whole, first):
            end = body.find(b"\n", at)
            if end < 0:
                return -1
            new = body[at:end]
            if new == old:
                same.append(old)
            else:
                head = self._heads[line]
                if not new.startswith(head):
                    return -1
                texts.append(new[len(head) :])
                lines.append(line)
                pieces.append(b"\n".join([*same, head]))
                same = [b""]
            at = end + 1
        if not body.startswith(part, at):
            return -1
        pieces.append(b"\n".join([*same, part]))
        surprises.append((number, [self._shared.text(text) for text in pieces], lines))
        return at + len(part)


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
    """What parsers of several targets have in common: equal texts and label sets are then the same objects.

    Not thread-safe.
    """

    def __init__(self, most: int = MAX_SHARED) -> None:
        """Remember at least `most` series and comments."""
        self.texts = Pool[bytes, bytes](most // 4)
        """What stands between two values that change."""
        self.series = Pool[tuple[str, bytes], tuple[bytes, Labels]](most)
        """By special label and text: the text and what it means."""
        self.comments = Pool[tuple[Format, bytes], Help | Type | Unit](most)

    def text(self, text: bytes) -> bytes:
        """`text`, or an equal one that was given before."""
        if len(text) > LONGEST_SHARED:
            return text
        return self.texts.get(text) or self.texts.put(text, text)


@dataclass(slots=True)
class LineParser:
    """Parses the scrapes of one target, one after the other; `keep_empty` as `parse.label_set` has it."""

    shared: Shared = field(default_factory=Shared)
    keep_empty: bool = False
    _shape: _Shape | None = None
    _known: dict[str, dict[bytes, tuple[bytes, Labels]]] = field(default_factory=dict)
    _cached: int = 0

    def parse(self, body: bytes, form: Format) -> Exposed:
        """The samples and metadata of `body`; ExpositionError as `parse.parse` has it."""
        shape = self._shape
        if shape is not None and shape.form is form:
            exposed = shape.again(body)
            if exposed is not None:
                return exposed
        return self._all(body, form)

    def _all(self, body: bytes, form: Format) -> Exposed:
        self._shape = None
        lines = body.split(b"\n")
        reader: Reader = TextReader(body) if form is Format.TEXT else OpenMetricsReader(body)
        reader.keep_empty = self.keep_empty
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
                        if next_index == index + 1 and line[:1] == b"#" and len(line) <= LONGEST_SHARED:
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
            first = np.array(is_first, np.bool_) if duplicates else None
            self._shape = _Shape(self.shared, form, lines, heads, np.array(sampled, np.float64), first, exposed)
        return exposed

    def _series(self, special: str, head: bytes) -> tuple[bytes, Labels] | None:
        """The text of a series, its blank included, and its label set; None where only the exact parser can tell."""
        known = self._known.setdefault(special, {})
        if (found := known.get(head)) is not None:
            return found
        found = None if self.keep_empty else self.shared.series.get((special, head))
        if found is None:
            labels = simple_series(head[:-1], special, self.keep_empty)
            if labels is None:
                return None
            found = head, labels
            if len(head) <= LONGEST_SHARED and not self.keep_empty:
                self.shared.series.put((special, head), found)
        if self._cached >= MAX_CACHED_SERIES:
            self._known.clear()
            self._cached = 0
            known = self._known.setdefault(special, {})
        known[found[0]] = found
        self._cached += 1
        return found


def simple_series(text: bytes, special: str, keep_empty: bool = False) -> Labels | None:
    """The label set of a series text without escapes, blanks or quoted names; None for any other.

    The value of the label `special` (`le` of histograms, `quantile` of summaries) becomes a canonical float.
    `keep_empty` as `label_set` has it.
    """
    match = _SIMPLE.match(text)
    if match is None:
        return None
    try:
        pairs = [(NAME, match[1].decode("ascii"))]
        for name, value in _PAIR.findall((match[2] or b"").decode("utf-8")):
            pairs.append((name, normal_float(value) if name == special else value))
        return label_set(pairs, keep_empty)
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
