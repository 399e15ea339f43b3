"""Encoded rows of a range query over consecutive steps: cut and joined as text, numbers untouched. Pure."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.labels import Labels
from common.order import in_order
from common.promql.matrix import Matrix
from common.promql.stepnotes import StepNote, put_together
from hub.api import encode

ROW_OVERHEAD = 400
"""Bytes of a row's objects beside its texts, roughly."""


@dataclass(frozen=True, slots=True, eq=False)
class Extent:
    """Rows at `count` steps from `first`, `step` apart (ms), sorted by labels; none is empty.

    `texts[i]` are the row's points, `[time,"value"],…`; `heads[i]` is the JSON before them. `presence` bool [S, count]
    says at which steps a row has a point, None for all.
    """

    first: int
    step: int
    count: int
    labels: Sequence[Labels]
    heads: Sequence[bytes]
    texts: Sequence[bytes]
    presence: NDArray[np.bool_] | None
    note: StepNote | None = None
    """The annotation of these steps."""

    @property
    def last(self) -> int:
        """The last step."""
        return self.first + (self.count - 1) * self.step

    @property
    def nbytes(self) -> int:
        """Memory held, about."""
        held = sum(map(len, self.texts)) + sum(map(len, self.heads)) + ROW_OVERHEAD * len(self.labels)
        return held + (0 if self.presence is None else self.presence.nbytes)

    def cut(self, begin: int, end: int) -> "Extent":
        """The steps `begin` <= i < `end`, rows without a point there left out."""
        if begin == 0 and end == self.count:
            return self
        first = self.first + begin * self.step
        note = None if self.note is None else self.note.cut(begin, end)
        if self.presence is None:
            left = _mark(first) if begin else b""
            right = _mark(self.first + end * self.step) if end < self.count else b""
            early = begin * 2 < self.count
            texts = [_between(text, left, right, early) for text in self.texts]
            return Extent(first, self.step, end - begin, self.labels, self.heads, texts, None, note)
        there = self.presence[:, begin:end]
        rows = np.flatnonzero(np.logical_or.reduce(there, axis=1))
        starts = np.argmax(there[rows], axis=1) + begin
        before = np.logical_or.reduce(self.presence[rows, :begin], axis=1)
        after = self.presence[rows, end:]
        ends = np.where(after.any(axis=1), np.argmax(after, axis=1) + end if after.shape[1] else 0, -1)
        texts = []
        for row, start, some, stop in zip(rows.tolist(), starts.tolist(), before.tolist(), ends.tolist(), strict=True):
            left = _mark(self.first + start * self.step) if some else b""
            right = _mark(self.first + stop * self.step) if stop >= 0 else b""
            texts.append(_between(self.texts[row], left, right, start * 2 < self.count))
        part = there[rows]
        return Extent(
            first,
            self.step,
            end - begin,
            [self.labels[row] for row in rows.tolist()],
            [self.heads[row] for row in rows.tolist()],
            texts,
            None if part.all() else part,
            note,
        )

    @property
    def infos(self) -> list[str]:
        """The annotation as text, if there is one."""
        return [] if self.note is None else [self.note.told(self.first, self.step)]

    def pieces(self, limit: int) -> Iterator[bytes]:
        """The JSON list of at most `limit` rows, in pieces."""
        separator = b"["
        for head, text in zip(self.heads[:limit], self.texts[:limit], strict=True):
            yield separator
            yield head
            yield text
            separator = b"]},"
        yield b"]}]" if separator != b"[" else b"[]"


def _mark(ms: int) -> bytes:
    """How the point of a step begins: a bracket stands nowhere else in a row's text."""
    return b"[%b," % encode.timestamp(ms)


def _between(text: bytes, left: bytes, right: bytes, early: bool) -> bytes:
    begin = (text.find(left) if early else text.rfind(left)) if left else 0
    return text[begin : text.rfind(right) - 1] if right else text[begin:]


def encoded(
    matrix: Matrix, first: int, step: int, note: StepNote | None = None, check: Callable[[], None] = lambda: None
) -> Extent:
    """The rows of a range query's result, which has no histograms; `matrix` is sorted by labels.

    `check` is called before each row and may raise.
    """
    encoder = encode.MatrixEncoder(matrix.timestamps)
    rows = np.flatnonzero(matrix.presence.any(axis=1)).tolist()
    labels = [matrix.labels[row] for row in rows]
    presence = matrix.presence if len(rows) == len(matrix.labels) else matrix.presence[rows]
    values = matrix.values if len(rows) == len(matrix.labels) else matrix.values[rows]
    texts = []
    for text in encoder.rows(values, presence):
        check()
        texts.append(text)
    heads = [b'{"metric":%b,"values":[' % encode.metric(each) for each in labels]
    shown = None if presence.all() else presence
    return Extent(first, step, len(matrix.timestamps), labels, heads, texts, shown, note)


def joined(parts: Sequence[Extent]) -> Extent:
    """Extents that follow each other, as one; their notes are alike."""
    head, *rest = parts
    if not rest:
        return head
    count = sum(part.count for part in parts)
    note = put_together([part.note for part in parts], [part.count for part in parts])
    if all(part.labels == head.labels for part in rest):
        texts = [b",".join(pieces) for pieces in zip(*(part.texts for part in parts), strict=True)]
        presence = None
        if any(part.presence is not None for part in parts):
            presence = np.concatenate([_shown(part) for part in parts], axis=1)
        return Extent(head.first, head.step, count, head.labels, head.heads, texts, presence, note)
    heads: dict[Labels, bytes] = {}
    found: dict[Labels, list[bytes]] = {}
    for part in parts:
        for labels, start, text in zip(part.labels, part.heads, part.texts, strict=True):
            heads.setdefault(labels, start)
            found.setdefault(labels, []).append(text)
    order = in_order(found, key=lambda labels: labels.pairs)
    number = {labels: row for row, labels in enumerate(order)}
    presence = np.zeros((len(order), count), np.bool_)
    at = 0
    for part in parts:
        rows = np.array([number[labels] for labels in part.labels], np.intp)
        presence[rows, at : at + part.count] = _shown(part)
        at += part.count
    return Extent(
        head.first,
        head.step,
        count,
        order,
        [heads[labels] for labels in order],
        [b",".join(found[labels]) for labels in order],
        None if presence.all() else presence,
        note,
    )


def _shown(part: Extent) -> NDArray[np.bool_]:
    if part.presence is not None:
        return part.presence
    return np.ones((len(part.labels), part.count), np.bool_)
