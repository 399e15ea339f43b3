"""PromQL's view of the edge's log. Needs numpy: import it only where local rules or queries are asked for."""

from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from common.edgelog.reader import FrameSource, Pending
from common.errors import FrameError
from common.frames.codec import decode
from common.frames.model import Correction, Provisional, Schema, SchemaHash, decode_schema, read_header
from common.labels import EMPTY, Labels, Matcher
from common.logs import EventLog
from common.sample import MetricMeta, Millis
from common.tsdb.head import Chunk, pieces
from common.tsdb.index import RowIndex, Target
from common.tsdb.join import Piece, join
from common.tsdb.querier import Budget, RowBatch, SelectHints

MAX_SCHEMAS: Final = 64
_ALWAYS = (-(2**63), 2**63 - 1)
_log = EventLog("log")


@dataclass(frozen=True, slots=True, eq=False)
class _Known:
    schema: Schema
    index: RowIndex


class LogQuerier:
    """A Querier over a log. Provisional samples stand at their corrected time where a correction is known.

    `target` is set under every row's labels, as a hub would (`instance`, `job`).
    """

    def __init__(self, log: FrameSource, target: Labels = EMPTY) -> None:
        self._source = log
        self._target = Target(target)
        self._known: OrderedDict[SchemaHash, _Known] = OrderedDict()

    def select(
        self,
        matchers: Sequence[Matcher],
        start: Millis,
        end: Millis,
        hints: SelectHints | None = None,
        budget: Budget | None = None,
    ) -> Iterator[RowBatch]:
        """As Querier.select; of two samples at one time the one stored first is kept."""
        frames, pending = self._source.between(start, end)
        return self._select(frames, pending, self._source.corrections(), tuple(matchers), start, end, budget)

    def _select(
        self,
        frames: Iterator[bytes],
        pending: list[Pending],
        corrections: dict[bytes, Correction],
        matchers: tuple[Matcher, ...],
        start: int,
        end: int,
        budget: Budget | None,
    ) -> Iterator[RowBatch]:
        outcomes = self._target.outcomes(matchers)
        chunks: dict[tuple[int, SchemaHash], tuple[_Known, NDArray[np.intp], Chunk]] = {}
        arrival = 0

        def add(
            lane: int,
            schema: SchemaHash | Schema,
            times: NDArray[np.int64],
            values: NDArray[np.float64],
            cells: NDArray[np.uint8] | None,
            provisional: Provisional | None,
        ) -> None:
            nonlocal arrival
            digest = schema.hash if isinstance(schema, Schema) else schema
            place = chunks.get((lane, digest))
            if place is None:
                known = self._schema(schema)
                if known is None:
                    return
                rows = known.index.match(matchers, outcomes)
                place = chunks[lane, digest] = (known, rows, Chunk(len(rows)))
            _, rows, chunk = place
            times = _corrected(times, provisional, corrections)
            inside = (times >= start) & (times <= end)
            if not len(rows) or not inside.any():
                return
            picked = None if cells is None else cells[np.ix_(rows, inside)]
            chunk.append(times[inside], values[np.ix_(rows, inside)], picked, arrival)
            arrival += len(times)

        for data in frames:
            frame = decode(data)
            if frame.header.rows:
                add(
                    frame.header.lane, frame.header.schema, frame.timestamps, frame.values, frame.presence,
                    frame.provisional,
                )  # fmt: skip
        for slots in pending:
            times = np.array(slots.timestamps, np.int64)
            values = np.stack([np.frombuffer(column, np.float64) for column in slots.columns], axis=1)
            add(-1, slots.schema, times, values, _cells(slots), slots.provisional)
        found: list[Piece[Labels]] = []
        for known, rows, chunk in chunks.values():
            if chunk.slots:
                found += self._pieces(known, rows, chunk, start, end)
        yield from join(found, budget)

    def _pieces(
        self, known: _Known, rows: NDArray[np.intp], chunk: Chunk, start: int, end: int
    ) -> Iterator[Piece[Labels]]:
        def labels(some: NDArray[np.intp]) -> list[Labels]:
            return [known.index.labels(row, self._target) for row in rows[some].tolist()]

        prints = known.index.prints(self._target)[rows]
        return pieces(chunk.view(), np.arange(len(rows)), prints, labels, start, end)

    def _schema(self, schema: SchemaHash | Schema) -> _Known | None:
        digest = schema.hash if isinstance(schema, Schema) else schema
        known = self._known.get(digest)
        if known is None:
            if not isinstance(schema, Schema):
                data = self._source.schema(digest)
                if data is None:
                    _log.warn("samples without a schema are left out", schema=digest.hex())
                    return None
                try:
                    schema = decode_schema(data)
                except FrameError as err:
                    _log.warn("samples with a damaged schema are left out", schema=digest.hex(), error=err)
                    return None
            known = self._known[digest] = _Known(schema, RowIndex(tuple(schema.labels())))
            while len(self._known) > MAX_SCHEMAS:
                self._known.popitem(last=False)
        return known

    def _schemas(self, start: int, end: int) -> Iterator[_Known]:
        for digest in self._source.schemas_between(start, end):
            known = self._schema(digest)
            if known is not None:
                yield known

    def series(self, matchers: Sequence[Sequence[Matcher]], start: Millis, end: Millis) -> list[Labels]:
        """As Querier.series: the rows of every schema used around the range."""
        found: set[Labels] = set()
        for known in self._schemas(start, end):
            for each in matchers or [()]:
                rows = known.index.match(each, self._target.outcomes(each))
                found.update(known.index.labels(row, self._target) for row in rows.tolist())
        return sorted(found)

    def label_names(self, matchers: Sequence[Sequence[Matcher]], start: Millis, end: Millis) -> list[str]:
        """As Querier.label_names."""
        return sorted({name for labels in self.series(matchers, start, end) for name, _ in labels})

    def label_values(self, name: str, matchers: Sequence[Sequence[Matcher]], start: Millis, end: Millis) -> list[str]:
        """As Querier.label_values."""
        return sorted({labels.get(name) for labels in self.series(matchers, start, end)} - {""})

    def cells(self) -> Counter[str]:
        """A bound of the samples that are stored in frames, by metric name."""
        slots: Counter[SchemaHash] = Counter()
        for data in self._source.between(*_ALWAYS)[0]:
            header = read_header(data)
            slots[header.schema] += header.slots if header.rows else 0
        cells: Counter[str] = Counter()
        for digest, count in slots.items():
            known = self._schema(digest) if count else None
            if known is not None:
                for labels in known.schema.labels():
                    cells[labels.name] += count
        return cells

    def metadata(self, name: str = "") -> dict[str, list[MetricMeta]]:
        """As Querier.metadata."""
        found: dict[str, list[MetricMeta]] = {}
        for known in self._schemas(*_ALWAYS):
            for meta in known.schema.meta():
                if (not name or meta.name == name) and meta not in found.setdefault(meta.name, []):
                    found[meta.name].append(meta)
        return found


def _corrected(
    times: NDArray[np.int64], provisional: Provisional | None, corrections: dict[bytes, Correction]
) -> NDArray[np.int64]:
    if provisional is None:
        return times
    correction = corrections.get(provisional.boot_id)
    shift = correction.shift(provisional, int(times[0])) if correction is not None else None
    return times if shift is None else times + shift


def _cells(slots: Pending) -> NDArray[np.uint8] | None:
    if all(p is None for p in slots.presences):
        return None
    full = bytes([1]) * slots.schema.rows
    return np.stack([np.frombuffer(full if p is None else p, np.uint8) for p in slots.presences], axis=1)
