"""Everything that the head holds: lanes of all sources, loose samples, schemas, metadata. The caller locks."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.clock import Clock
from common.frames.codec import Frame, Slot
from common.frames.model import ABSENT, Correction, Schema, SchemaHash, SourceId
from common.labels import Labels, Matcher
from common.sample import MetricMeta
from common.tsdb.bank import SLOTS, Bank, Banks
from common.tsdb.banked import Banked, Look, Part
from common.tsdb.changes import ALWAYS, Changes
from common.tsdb.deletion import Deletion
from common.tsdb.head import Chunk, View, pieces, stacked
from common.tsdb.histograms import Histograms, HistogramView
from common.tsdb.index import LabelCache, Name, RowIndex, Target
from common.tsdb.join import Piece
from common.tsdb.kinds import Pool
from common.tsdb.loose import NOBODY, SERIES_BYTES, Loose, LooseView
from common.tsdb.options import StoreOptions
from common.tsdb.registry import Held, Schemas, Selection, Selector, Source, StoredSchema, Strand
from common.tsdb.wal import NO_TIME

HOUR_SECONDS = 3600.0
MAX_PLANS = 1024
MAX_PLANNED = 2_000_000
"""Sets of matchers whose rows in the head are remembered, and rows of all; beyond, what was used longest ago goes."""
PART_ROWS = 4
"""Rows that take as much memory as what is remembered of a chunk."""


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """What a set of matchers chooses while the head keeps its shape: rows in banks, and chunks to read one by one."""

    banked: Sequence[Banked]
    rest: Sequence[tuple[Strand, Selection, Sequence[Chunk]]]
    answers: dict[tuple[SchemaHash, int], Selection | None]
    """What the matchers choose from each schema under a target (serial), as far as it was asked for."""

    @property
    def size(self) -> int:
        """About how many rows it takes the memory of."""
        return sum(each.rows + PART_ROWS * len(each.parts) for each in self.banked) + PART_ROWS * len(self.rest)


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """What a query reads from the head: rows of strands with their views, rows in banks, and the loose samples."""

    strands: Sequence[tuple[Strand, Selection, Sequence[View]]]
    loose: LooseView | None
    histograms: HistogramView | None = None
    banked: Sequence[Look] = ()

    def _selections(self) -> list[tuple[Strand, Selection]]:
        found = [(part.strand, part.selection) for look in self.banked for part in look.parts()]
        return found + [(strand, selection) for strand, selection, _ in self.strands]

    def label_names(self, matchers: Sequence[Matcher]) -> set[str]:
        """Names of labels of what was chosen."""
        names: set[str] = set()
        chosen = self._selections()
        for selection in {id(selection): selection for _, selection in chosen}.values():
            for index, rows in selection.parts:
                names.update(name for row in rows.tolist() for name, _ in index.rows[row].pairs)
        for target in {strand.target for strand, _ in chosen}:
            names |= target.names
        for index, rows in self._loose_rows(matchers):
            names.update(name for row in rows.tolist() for name, _ in index.rows[row].pairs)
        return names

    def label_values(self, name: str, matchers: Sequence[Matcher]) -> set[str]:
        """Values of a label of what was chosen ('' where it is missing)."""
        values: set[str] = set()
        open_selections: dict[int, bool] = {}
        for strand, selection in self._selections():
            if id(selection) not in open_selections:
                mine = {index.rows[row].get(name) for index, rows in selection.parts for row in rows.tolist()}
                values |= mine
                open_selections[id(selection)] = "" in mine
            if open_selections[id(selection)]:
                values.add(strand.target.values.get(name, ""))
        for index, rows in self._loose_rows(matchers):
            values.update(index.rows[row].get(name) for row in rows.tolist())
        return values

    def series(self, matchers: Sequence[Matcher], cache: LabelCache) -> set[Labels]:
        """Label sets of what was chosen."""
        found: set[Labels] = set()
        for strand, selection in self._selections():
            found.update(selection.labels(np.arange(len(selection.columns)), strand.target, cache))
        for index, rows in self._loose_rows(matchers):
            found.update(index.rows[row] for row in rows.tolist())
        return found

    def _loose_rows(self, matchers: Sequence[Matcher]) -> Iterator[tuple[RowIndex, NDArray[np.intp]]]:
        # Both number the same label sets.
        view = self.histograms.loose if self.loose is None and self.histograms is not None else self.loose
        if view is not None:
            for _, index, rows in view.match(matchers):
                yield index, rows


class Lanes:
    """The head. Not thread-safe; what it hands out stays as it is."""

    def __init__(self, clock: Clock, moved: Callable[[int, int], None] = lambda segment, last: None) -> None:
        """`moved` is told where in the log samples begin that a correction moved, and up to what time they go now."""
        self._clock = clock
        self._moved = moved
        self.sources: dict[SourceId, Source] = {}
        self.schemas = Schemas()
        self.loose = Loose()
        self.histograms = Histograms(self.loose.table)
        self.meta: dict[str, dict[MetricMeta, None]] = {}
        self.arrival = 0
        """Number of the next slot to arrive."""
        self.series = 0
        self.samples = 0
        self.native = 0
        """Of `samples`, native histograms."""
        self.late = 0
        self.given_up = 0
        """Slots that keep an estimated time since no correction came in time."""
        self.changes = Changes()
        self._selector = Selector()
        self._banks = Banks()
        self._plans: OrderedDict[tuple[Matcher, ...], _Plan] = OrderedDict()
        self._planned = 0

    # What is known

    def source(self, key: SourceId) -> Source:
        """The source with that id, new if need be."""
        found = self.sources.get(key)
        if found is None:
            found = self.sources[key] = Source(key)
        return found

    def learn(self, metas: Iterable[MetricMeta]) -> None:
        """Keep metadata."""
        for meta in metas:
            self.meta.setdefault(meta.name, {})[meta] = None

    def keep(self, schema: Schema, encoded: bytes) -> StoredSchema:
        """Keep a schema, for an hour at least."""
        self.learn(schema.meta())
        stored = self.schemas.add(schema, encoded)
        stored.used = self._clock.monotonic()
        return stored

    def refusal(self, source: Source, schema: StoredSchema, limits: StoreOptions) -> tuple[str, str] | None:
        """Limit and reason why a source may not have a schema that is new to it; otherwise it has it from now on."""
        now = self._clock.monotonic()
        source.schema_times = [at for at in source.schema_times if now - at < HOUR_SECONDS]
        if len(source.schema_times) >= limits.max_schemas_per_hour:
            return "max_schemas_per_hour", f"{len(source.schema_times)} new schemas within an hour"
        prints = source.series_with(schema)
        if len(prints) > limits.max_series_per_source:
            return "max_series_per_source", f"{len(prints)} series of one source"
        total = self.total + len(prints) - len(source.prints)
        if total > limits.max_series:
            return "max_series", f"{total} series"
        source.schema_times.append(now)
        self._adopt(source, schema, prints)
        return None

    @property
    def total(self) -> int:
        """Series of sources and loose ones."""
        return self.series + len(self.loose.table)

    def _adopt(self, source: Source, schema: StoredSchema, prints: NDArray[np.uint64]) -> None:
        self.series += len(prints) - len(source.prints)
        source.prints = prints
        source.schemas.add(schema.hash)

    # Samples in

    def take(
        self,
        source: Source,
        schema: StoredSchema | None,
        frame: Frame,
        place: Callable[[], int] = lambda: 0,
        waited: float = 0.0,
    ) -> tuple[int, int]:
        """Put a frame's slots into their chunk, at their corrected times; how many samples, and the newest's time.

        `place()` is the number of the log's segment that has the frame, `waited` how many seconds ago it came.
        """
        if frame.correction is not None:
            self.correct(source, frame.correction)
        frame, boot = source.clock.correct(frame)
        slots = len(frame.timestamps)
        if schema is None or not slots:
            return 0, NO_TIME
        if schema.hash not in source.schemas:
            self._adopt(source, schema, source.series_with(schema))
        key = (frame.header.lane, schema.hash, source.target.serial, boot)
        strand = source.strands.get(key)
        if strand is None:
            held = Held(boot, self._clock.monotonic() - waited, place) if boot else None
            strand = source.strands[key] = Strand(frame.header.lane, schema, source.target, held)
        chunk = self._open_chunk(strand, slots)
        if chunk.slots and frame.timestamps[0] <= chunk.last:
            self.late += slots
        shape = chunk.shape
        chunk.append(frame.timestamps, frame.values, frame.presence, self.arrival)
        if chunk.shape != shape:
            self._reshaped(strand, chunk, *shape)
        strand.newest = max(strand.newest, chunk.last)
        self.changes.mark(int(frame.timestamps.min()), int(frame.timestamps.max()))
        if frame.provisional is not None and boot:
            source.clock.wait(frame.provisional, self.arrival, slots, int(frame.timestamps[0]))
        self.arrival += slots
        samples = frame.values.size
        if frame.presence is not None:
            samples -= int(np.count_nonzero(frame.presence == ABSENT))
        self.samples += samples
        return samples, int(frame.timestamps[-1])

    def _open_chunk(self, strand: Strand, slots: int) -> Chunk:
        """The strand's newest chunk, or a new one where that has no room for so many slots more."""
        if not strand.chunks or strand.chunks[-1].closed or strand.chunks[-1].slots + slots > max(SLOTS, slots):
            if strand.chunks:
                strand.chunks[-1].close()
            # What waits for a correction will move, and may stay long: it doesn't hold a bank.
            alone = slots > SLOTS or strand.held is not None
            strand.chunks.append(Chunk(strand.schema.rows, None if alone else self._banks.place(strand.schema.rows)))
            self._unplan(strand)
        return strand.chunks[-1]

    def take_slot(self, source: Source, schema: StoredSchema, slot: Slot) -> int:
        """Put one slot into its chunk; how many samples."""
        if schema.hash not in source.schemas:
            self._adopt(source, schema, source.series_with(schema))
        key = (slot.key.lane, schema.hash, source.target.serial, b"")
        strand = source.strands.get(key)
        if strand is None:
            strand = source.strands[key] = Strand(slot.key.lane, schema, source.target)
        chunk = self._open_chunk(strand, 1)
        if chunk.slots and slot.timestamp <= chunk.last:
            self.late += 1
        shape = chunk.shape
        chunk.add(slot.timestamp, slot.values, slot.presence, self.arrival)
        if chunk.shape != shape:
            self._reshaped(strand, chunk, *shape)
        strand.newest = max(strand.newest, chunk.last)
        self.changes.mark(slot.timestamp, slot.timestamp)
        self.arrival += 1
        samples = len(slot.values)
        if slot.presence is not None:
            samples -= int(np.count_nonzero(slot.presence == ABSENT))
        self.samples += samples
        return samples

    def correct(self, source: Source, correction: Correction) -> None:
        """Take a correction, and move what waited for it."""
        self._unplan_all()
        moves = source.clock.learn(correction)
        for strand in source.strands.values():
            if strand.held is not None and strand.held.boot == correction.boot_id:
                for chunk in strand.chunks:
                    for waiting, shift in moves:
                        chunk.move(waiting.arrival, waiting.slots, shift)
                self._moved(strand.held.place(), max(chunk.last for chunk in strand.chunks))
        self._settle(source, correction.boot_id)

    def release(self, source: Source, boot: bytes) -> None:
        """Let what waits for the correction of a boot keep its estimated time, for ever."""
        self.given_up += source.clock.give_up(boot)
        self._settle(source, boot)

    def _settle(self, source: Source, boot: bytes) -> None:
        """Have samples that stood apart among the others, as if they came now: a cut under way has not seen them."""
        self._unplan_all()
        for key in [key for key in source.strands if key[3] == boot and boot]:
            strand = source.strands.pop(key)
            rest = source.strands.setdefault((*key[:3], b""), Strand(strand.lane, strand.schema, strand.target))
            for chunk in strand.chunks:
                chunk.close()
                chunk.arrival = np.arange(self.arrival, self.arrival + len(chunk.arrival), dtype=np.int64)
                self.arrival += len(chunk.arrival)
            rest.chunks[:0] = strand.chunks
            rest.newest = max([rest.newest, *(chunk.last for chunk in strand.chunks)])
            # They stood at other times before, or came before others of their time.
            self.changes.mark(*ALWAYS)

    def overdue(self, seconds: float) -> list[tuple[Source, bytes]]:
        """Boots whose correction some samples have waited for longer than that, or too many of them."""
        latest = self._clock.monotonic() - seconds
        found: dict[tuple[SourceId, bytes], tuple[Source, bytes]] = {}
        for source in self.sources.values():
            for strand in source.strands.values():
                if strand.held is not None and strand.held.since < latest:
                    found[source.id, strand.held.boot] = source, strand.held.boot
            surplus = source.clock.surplus()
            if surplus is not None:
                found[source.id, surplus] = source, surplus
        return list(found.values())

    def held_from(self) -> int | None:
        """The first segment of the log with samples that wait for a correction."""
        strands = [strand for source in self.sources.values() for strand in source.strands.values()]
        return min((strand.held.place() for strand in strands if strand.held is not None), default=None)

    @property
    def waiting(self) -> int:
        """Slots that wait for a correction."""
        return sum(source.clock.waiting for source in self.sources.values())

    def take_loose(self, rows: NDArray[np.int32], times: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        """Add loose samples of series that `loose.table` numbers."""
        self.loose.append(rows, times, values, self.arrival)
        self.changes.mark_times(times)
        self.arrival += 1
        self.samples += len(rows)

    def take_histograms(self, rows: NDArray[np.int32], times: NDArray[np.int64], encoded: Sequence[bytes]) -> None:
        """Add encoded histograms (STALE for a marker) of series that `loose.table` numbers."""
        for row, time, each in zip(rows.tolist(), times.tolist(), encoded, strict=True):
            self.histograms.note(row, time, each)
        self.histograms.append(rows, times, encoded, self.arrival)
        self.changes.mark_times(times)
        self.arrival += 1
        self.samples += len(rows)
        self.native += len(rows)

    # Samples out

    def views(self, start: int, end: int) -> list[tuple[Strand, list[View]]]:
        """Strands with settled samples between the times (inclusive), and views of those chunks."""
        out = []
        for source in self.sources.values():
            for strand in source.strands.values():
                if strand.held is not None:
                    continue
                views = [c.view() for c in strand.chunks if c.slots and c.first <= end and c.last >= start]
                if views:
                    out.append((strand, views))
        return out

    def choose(self, matchers: Sequence[Matcher], start: int, end: int) -> Chosen:
        """What matchers choose between two times (inclusive)."""
        plan = self._plan(tuple(matchers))
        found = []
        for strand, selection, chunks in plan.rest:
            views = [c.view() for c in chunks if c.first <= end and c.last >= start]
            if views:
                found.append((strand, selection, views))
        banked = [look for each in plan.banked if (look := each.look(start, end)) is not None]
        inside = _meets(self.loose.bounds, start, end)
        native = self.histograms.view() if _meets(self.histograms.bounds, start, end) else None
        return Chosen(found, self.loose.view() if inside else None, native, banked)

    def _plan(self, matchers: tuple[Matcher, ...]) -> _Plan:
        """What the matchers choose now, remembered until the head has other chunks or other kinds of them."""
        plan = self._plans.get(matchers)
        if plan is not None:
            self._plans.move_to_end(matchers)
            return plan
        answers = self._selector.answers(matchers)
        parts: dict[tuple[Bank, bool], list[Part]] = {}
        rest: list[tuple[Strand, Selection, Sequence[Chunk]]] = []
        for source in self.sources.values():
            for strand in source.strands.values():
                if not strand.chunks:
                    continue
                mark = strand.schema.hash, strand.target.serial
                if mark in answers:
                    selection = answers[mark]
                else:
                    selection = answers[mark] = self._selector.select(strand.schema, matchers, strand.target)
                if selection is None:
                    continue
                apart = []
                for chunk in strand.chunks:
                    if chunk.place is None or not chunk.ordered:
                        apart.append(chunk)
                        continue
                    gaps = chunk.gaps()[selection.columns]
                    for ragged in (False, True):
                        some = selection.only(gaps == ragged)
                        if some is not None:
                            place = chunk.place
                            parts.setdefault((place.bank, ragged), []).append(Part(strand, some, place))
                if apart:
                    rest.append((strand, selection, apart))
        plan = _Plan([Banked(bank, each, ragged) for (bank, ragged), each in parts.items()], rest, answers)
        self._plans[matchers] = plan
        self._planned += plan.size
        while len(self._plans) > MAX_PLANS or (self._planned > MAX_PLANNED and len(self._plans) > 1):
            self._planned -= self._plans.popitem(last=False)[1].size
        return plan

    def _reshaped(self, strand: Strand, chunk: Chunk, ordered: bool, patterns: int) -> None:
        """Forget plans that a chunk's new slots are not as they took for granted; its shape before is given."""
        if chunk.ordered != ordered:
            self._unplan(strand)
        elif chunk.place is not None:
            self._unplan(strand, chunk.gaps() & ~chunk.gaps(patterns))

    def _unplan(self, strand: Strand, columns: NDArray[np.bool_] | None = None) -> None:
        """Forget plans with rows of a strand: any, or of these columns (bool [rows])."""
        if columns is not None and not columns.any():
            return
        mark = strand.schema.hash, strand.target.serial
        for matchers, plan in list(self._plans.items()):
            if mark not in plan.answers:
                plan.answers[mark] = self._selector.select(strand.schema, matchers, strand.target)
            selection = plan.answers[mark]
            if selection is not None and (columns is None or columns[selection.columns].any()):
                del self._plans[matchers]
                self._planned -= plan.size

    def _unplan_all(self) -> None:
        self._plans.clear()
        self._planned = 0

    def drop(self, before: int, arrival: int) -> None:
        """Let go of settled samples below `before` that came before `arrival`; their series stay known."""
        left = False
        for source in self.sources.values():
            for strand in source.strands.values():
                if strand.held is None:
                    rest = [chunk.without(before, arrival) for chunk in strand.chunks]
                    left |= any(new is not old for new, old in zip(rest, strand.chunks, strict=True))
                    strand.chunks = [chunk for chunk in rest if chunk is not None]
        if left:
            self._unplan_all()
            self._tidy()
        self.loose.drop(before, arrival)
        self.histograms.drop(before, arrival)

    def _tidy(self) -> None:
        """Let go of banks that hold little any more, and have all chunks in banks that may be."""
        strands = [strand for source in self.sources.values() for strand in source.strands.values()]
        placed = [chunk for strand in strands for chunk in strand.chunks if chunk.place is not None]
        for bank in {chunk.place.bank for chunk in placed if chunk.place is not None}:
            bank.live = sum(c.rows for c in placed if c.place is not None and c.place.bank is bank)
        self._banks.left(sum(chunk.rows for chunk in placed))
        for strand in strands:
            if strand.held is None:
                strand.chunks = [self._housed(chunk) for chunk in strand.chunks]

    def _housed(self, chunk: Chunk) -> Chunk:
        if chunk.slots > SLOTS or (chunk.place is not None and not chunk.place.bank.sparse):
            return chunk
        return chunk.housed(self._banks.place(chunk.rows))

    def forget(self, before: int, gone: float = 0.5) -> bool:
        """Forget series without samples here whose newest was below `before`; True if loose series got new numbers.

        Loose ones wait until they are more than that part (`gone`) of all.
        """
        self._forget(before)
        return self._renumber(before, gone)

    def _renumber(self, before: int, gone: float) -> bool:
        old = self.loose.table
        keep = old.seen >= before
        keep[self.loose.series] = True
        keep[self.histograms.series] = True
        used = np.flatnonzero(keep)
        if len(used) >= (1 - gone) * len(old):
            return False
        table = old.only(used)
        self.loose.renumber(table, used)
        self.histograms.renumber(table, used)
        return True

    def _forget(self, before: int) -> None:
        """Drop strands without chunks and with nothing newer, and schemas without strands."""
        now = self._clock.monotonic()
        for source in self.sources.values():
            dead = [key for key, each in source.strands.items() if not each.chunks and each.newest < before]
            for key in dead:
                del source.strands[key]
            if dead:
                self._unplan_all()
                self._recount(source)
            for strand in source.strands.values():
                strand.schema.used = now
        unused = [schema.hash for schema in self.schemas if now - schema.used > HOUR_SECONDS]
        if unused:
            self.schemas.discard(unused)

    def _recount(self, source: Source) -> None:
        before = len(source.prints)
        source.schemas = {strand.schema.hash for strand in source.strands.values()}
        each = [strand.schema.prints(strand.target) for strand in source.strands.values()]
        source.prints = np.unique(np.concatenate(each)) if each else source.prints[:0]
        self.series += len(source.prints) - before

    def delete(self, deletion: Deletion) -> None:
        """Drop what a deletion concerns."""
        self._unplan_all()
        for source in self.sources.values():
            for strand in source.strands.values():
                selection = self._selector.select(strand.schema, deletion.matchers, strand.target)
                if selection is not None:
                    strand.chunks = [
                        chunk.punched(selection.columns, deletion.start, deletion.end) for chunk in strand.chunks
                    ]
        self.loose.delete(deletion.matchers, deletion.start, deletion.end)
        self.histograms.delete(deletion.matchers, deletion.start, deletion.end)
        self.changes.mark(deletion.start, deletion.end)

    # About itself

    def chunks(self) -> list[Chunk]:
        """All chunks."""
        return [c for source in self.sources.values() for strand in source.strands.values() for c in strand.chunks]

    @property
    def size(self) -> int:
        """Bytes of samples."""
        return sum(chunk.size for chunk in self.chunks()) + self.loose.size + self.histograms.size

    @property
    def label_size(self) -> int:
        """Bytes of loose label sets with their indexes, about."""
        return SERIES_BYTES * len(self.loose.table)

    @property
    def settled_size(self) -> int:
        """Bytes of samples that wait for no correction."""
        strands = [strand for source in self.sources.values() for strand in source.strands.values()]
        chunks = sum(chunk.size for strand in strands if strand.held is None for chunk in strand.chunks)
        return chunks + self.loose.size + self.histograms.size

    def bounds(self, settled: bool = False) -> tuple[int, int] | None:
        """Lowest and highest timestamp, of those samples only that wait for no correction if `settled`."""
        bounds = [
            (chunk.first, chunk.last)
            for source in self.sources.values()
            for strand in source.strands.values()
            if strand.held is None or not settled
            for chunk in strand.chunks
            if chunk.slots
        ]
        bounds += [each for each in (self.loose.bounds, self.histograms.bounds) if each is not None]
        return (min(low for low, _ in bounds), max(high for _, high in bounds)) if bounds else None

    def parts(self) -> list[tuple[RowIndex, Target]]:
        """Indexes in use and the targets under which they are."""
        counts: Counter[tuple[RowIndex, Target]] = Counter()
        for source in self.sources.values():
            for strand in source.strands.values():
                for part in strand.schema.parts:
                    counts[part, strand.target] = 1
        for _, index in self.loose.table.parts():
            counts[index, NOBODY] = 1
        return list(counts)


def _meets(bounds: tuple[int, int] | None, start: int, end: int) -> bool:
    return bounds is not None and bounds[0] <= end and bounds[1] >= start


def chosen_pieces(
    chosen: Chosen, matchers: Sequence[Matcher], start: int, end: int, cache: LabelCache, newest: bool = False
) -> Iterator[Piece[Labels]]:
    """The pieces of what was chosen, named by label sets; `newest` as in SelectHints."""
    for look in chosen.banked:
        yield from look.pieces(cache, newest)
    for strand, selection, views in chosen.strands:
        prints = selection.prints(strand.target)
        labels = _StrandLabels(selection, strand.target, cache).read
        for view in stacked(views):
            yield from pieces(view, selection.columns, prints, labels, start, end)
    if chosen.loose is not None:
        for first, index, rows in chosen.loose.match(matchers):
            for piece in chosen.loose.pieces(first, index, rows, start, end):
                yield labelled(piece, cache)


def chosen_histograms(
    chosen: Chosen, matchers: Sequence[Matcher], start: int, end: int, cache: LabelCache, pool: Pool
) -> Iterator[Piece[Labels]]:
    """The pieces of native histograms of what was chosen, numbered by `pool`."""
    view = chosen.histograms
    if view is not None:
        for first, index, rows in view.loose.match(matchers):
            for piece in view.pieces(first, index, rows, start, end, pool):
                yield labelled(piece, cache)


def labelled(piece: Piece[Name], cache: LabelCache) -> Piece[Labels]:
    """The piece with its rows named by label sets."""
    return Piece(piece.prints, piece.lines, piece.line_of, piece.values, lambda rows: cache.many(piece.labels(rows)))


@dataclass(frozen=True, slots=True, eq=False)
class _StrandLabels:
    selection: Selection
    target: Target
    cache: LabelCache

    def read(self, rows: NDArray[np.intp]) -> list[Labels]:
        return self.selection.labels(rows, self.target, self.cache)
