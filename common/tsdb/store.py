"""The hub's store: frames in, rows out. The write-ahead log makes them durable, the head makes them readable."""

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.clock import Clock
from common.errors import FormatError, FrameError, LimitError, StorageError
from common.files import SYSTEM_FILES, DirectoryLock, Files, explain, write_atomic
from common.frames.codec import Frame, decode
from common.frames.model import (
    ABSENT,
    Correction,
    Epoch,
    Flags,
    FrameHeader,
    SchemaHash,
    SourceId,
    decode_schema,
    read_header,
)
from common.frames.ranges import Have, format_have, parse_have
from common.frames.varint import Reader, put_text
from common.labels import Labels, Matcher
from common.sample import MetricMeta, Millis
from common.tsdb.block import Block
from common.tsdb.blocks import Blocks, block_pieces
from common.tsdb.build import Shape
from common.tsdb.cache import DecodeCache
from common.tsdb.cardinality import Cardinality, cardinality
from common.tsdb.clocks import decode_correction, encode_correction
from common.tsdb.cut import HeadOrigin, due, ranges
from common.tsdb.head import SLOTS, Chunk, View, pieces
from common.tsdb.index import LabelCache, RowIndex, Target
from common.tsdb.join import Piece, join
from common.tsdb.options import Appended, Outcome, StoreOptions, StoreStats
from common.tsdb.querier import Budget, RowBatch, SelectHints
from common.tsdb.registry import Schemas, Selection, Selector, Source, StoredSchema, Strand
from common.tsdb.wal import NO_TIME, RecordType, Wal

_HOUR = 3600.0


class Store:
    """A directory of samples. All methods block, may be called from any thread, and see each other's effects at once.

    Implements `common.tsdb.querier.Querier`. What `append_frame` took is readable at once and durable after `commit`.
    """

    def __init__(self, path: Path, options: StoreOptions, clock: Clock, files: Files) -> None:
        """Use `Store.open`."""
        self.path = path
        self._options = options
        self._clock = clock
        self._disk = files
        self._lock = threading.RLock()
        self._schemas = Schemas()
        self._sources: dict[SourceId, Source] = {}
        self._selector = Selector()
        self._label_cache = LabelCache()
        self._meta: dict[str, dict[MetricMeta, None]] = {}
        self._arrival = 0
        self._unsettled: list[tuple[Source, Epoch, int]] = []
        self._paused = ""
        self._frames: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._directory_lock: DirectoryLock | None = None
        self._maintenance = threading.Lock()
        self._blocks = Blocks(path / "blocks", files, self._lock, DecodeCache(options.cache_bytes))
        self._wal = Wal(path / "wal", files, options.wal_segment_bytes, self._lock, self._had)

    @classmethod
    def open(cls, path: Path, options: StoreOptions, clock: Clock, files: Files = SYSTEM_FILES) -> "Store":
        """Open or create the store in `path`; StorageError if it can't be used or another process has it.

        Damaged records never stop it: they are quarantined or cut off, and `stats().loss` says how much.
        """
        store = cls(path, options, clock, files)
        try:
            for folder in (path, path / "wal", path / "blocks", path / "quarantine"):
                files.mkdir(folder)
            store._directory_lock = DirectoryLock(path, "hub")
            try:
                store._recover()
            except BaseException:
                store._directory_lock.close()
                raise
        except StorageError:
            raise
        except OSError as err:
            raise explain(err, path, "--storage.tsdb.path") from err
        return store

    # Recovery

    def _recover(self) -> None:
        self._blocks.open(self.path / "quarantine")
        for block in self._blocks.current:
            self._learn(block.meta())
        for segment, oldest, kind, body in self._wal.recover(self._quarantine):
            try:
                last = self._replay(segment.number, kind, body, oldest)
                segment.last = max(segment.last, last)
            except FormatError:
                # The checksum holds, so these are the bytes that were written: a later version's, or a bug's.
                self._quarantine(f"{segment.path.name}.record", bytes(body))
                self._wal.loss.damaged_records += 1
                self._wal.loss.damaged_bytes += len(body)
        for source, epoch, seq in self._unsettled:
            source.ledger.settle(epoch, seq)
        self._unsettled.clear()

    def _replay(self, segment: int, kind: int, body: memoryview, oldest: bool) -> int:
        if kind == RecordType.FRAME:
            header = read_header(body)
            source = self._source(header.source)
            if (header.epoch, header.seq) in source.ledger:
                return NO_TIME
            last = header.last if header.slots else NO_TIME
            if Flags.PROVISIONAL in header.flags:
                # It may stand elsewhere by now than its header says: taking it again costs a repeat at worst.
                covered: list[tuple[int, int]] = []
                last = max(last, self._clock.now())
            else:
                covered = self._blocks.covers(segment, header.first, header.last)
            if any(low <= header.first and header.last <= high for low, high in covered):
                self._note(source, header)
                return last
            frame = decode(body)
            schema = self._schemas.get(header.schema)
            if schema is None and header.rows:
                raise FrameError(f"frame of unknown schema {header.schema.hex()}")
            for low, high in covered:
                frame = _outside(frame, low, high)
            self._note(source, header)
            self._take(source, schema, frame)
            return last
        if kind == RecordType.SCHEMA:
            encoded = bytes(body)
            self._keep_schema(encoded)
        elif kind == RecordType.TARGET:
            self._source(SourceId(bytes(body[:16]))).set_target(_unpack_labels(bytes(body[16:])))
        elif kind == RecordType.CORRECTION:
            self._correct(self._source(SourceId(bytes(body[:16]))), decode_correction(bytes(body[16:])))
        elif kind == RecordType.HAVE and oldest:
            # Later segments repeat what the records before them say; were one of those lost, the sender still has it.
            self._source(SourceId(bytes(body[:16]))).ledger.restore(parse_have(bytes(body[16:]).decode("ascii")))
        return NO_TIME

    def _quarantine(self, name: str, data: bytes) -> None:
        folder = self.path / "quarantine"
        files = sorted(folder.iterdir(), key=lambda p: p.stat().st_mtime_ns)
        room = self._options.max_quarantine_bytes - len(data)
        total = sum(p.stat().st_size for p in files)
        for path in files:
            if total <= room:
                break
            total -= path.stat().st_size
            self._disk.unlink(path)
        if room >= 0:
            write_atomic(folder / name, data, self._disk)

    def _had(self) -> list[tuple[bytes, bytes]]:
        """Keys and bodies of HAVE records: which frames the log took before, durable once these are."""
        out: list[tuple[bytes, bytes]] = []
        for source in self._sources.values():
            have = source.ledger.taken()
            if have:
                out.append((source.id, source.id + format_have(have).encode("ascii")))
        return out

    # Writing

    def _source(self, key: SourceId) -> Source:
        source = self._sources.get(key)
        if source is None:
            source = self._sources[key] = Source(key)
        return source

    def set_target(self, source: SourceId, labels: Labels) -> None:
        """Give frames of `source` that come from now on these target labels; durable with the next commit."""
        with self._lock:
            entry = self._source(source)
            if entry.set_target(labels):
                self._log_target(entry, again=True)

    def target(self, source: SourceId) -> Labels:
        """The target labels that hold now."""
        with self._lock:
            entry = self._sources.get(source)
            return entry.target.labels if entry is not None else Labels()

    def _log_target(self, source: Source, again: bool = False) -> None:
        self._wal.begin()
        self._wal.state(RecordType.TARGET, source.id, source.id + _pack_labels(source.target.labels), again)

    def has_schema(self, key: SchemaHash) -> bool:
        """Whether frames of that schema can be appended."""
        with self._lock:
            return key in self._schemas

    def add_schema(self, encoded: bytes) -> SchemaHash:
        """Keep a schema; FrameError if it isn't one, LimitError if a label set exceeds a limit."""
        schema = decode_schema(encoded)
        limits = self._options
        for labels in schema.labels():
            if len(labels) > limits.max_labels:
                raise self._over("max_labels", f"{labels} has {len(labels)} labels; at most {limits.max_labels}")
            for name, value in labels.pairs:
                if len(name) > limits.max_label_name_bytes:
                    text = f"label name {name[:40]!r}... is longer than {limits.max_label_name_bytes} bytes"
                    raise self._over("max_label_name_bytes", text)
                if len(value) > limits.max_label_value_bytes:
                    text = f"value of label {name!r} is longer than {limits.max_label_value_bytes} bytes"
                    raise self._over("max_label_value_bytes", text)
        with self._lock:
            return self._keep_schema(encoded)

    def _over(self, reason: str, text: str) -> LimitError:
        self._refused[reason] += 1
        return LimitError(f"{text} (limit {reason})")

    def _learn(self, metas: Iterable[MetricMeta]) -> None:
        for meta in metas:
            self._meta.setdefault(meta.name, {})[meta] = None

    def _keep_schema(self, encoded: bytes) -> SchemaHash:
        schema = decode_schema(encoded)
        self._learn(schema.meta())
        stored = self._schemas.add(schema, encoded)
        stored.used = self._clock.monotonic()
        return stored.hash

    def append_frame(self, data: bytes) -> Appended:
        """Take one frame. A repeat is a duplicate; the same key with other bytes, or damage, is quarantined."""
        with self._lock:
            result = self._append(data)
            self._frames[result.outcome] += 1
            if result.outcome is Outcome.REFUSED:
                self._refused[result.reason] += 1
            return result

    def _append(self, data: bytes) -> Appended:
        try:
            header = read_header(data)
        except FrameError as err:
            return self._reject("damaged", f"damaged-{self._arrival}.frame", data, str(err))
        source = self._source(header.source)
        if (header.epoch, header.seq) in source.ledger:
            crc = source.ledger.checksum(header.epoch, header.seq)
            if crc is None or crc == header.crc:
                return Appended(Outcome.DUPLICATE)
            name = f"{header.source.hex()}-{header.epoch:016x}-{header.seq}.frame"
            return self._reject("clash", name, data, "another frame with this source, epoch and number was taken")
        if self._paused:
            return Appended(Outcome.REFUSED, "paused", self._paused)
        if self._wal.pending + len(data) > self._options.max_pending_bytes:
            limit = f"{self._options.max_pending_bytes} bytes wait for a commit"
            return Appended(Outcome.REFUSED, "max_pending_bytes", limit)
        schema = self._schemas.get(header.schema)
        if schema is None and header.rows:
            return Appended(Outcome.REFUSED, "unknown_schema", header.schema.hex())
        try:
            frame = decode(data)
            if schema is not None and schema.rows != header.rows:
                raise FrameError(f"frame has {header.rows} rows, its schema {schema.rows}")
        except FrameError as err:
            return self._reject("damaged", f"damaged-{self._arrival}.frame", data, str(err))
        if schema is not None and schema.hash not in source.schemas:
            refusal = self._admit(source, schema)
            if refusal is not None:
                return refusal
        self._log_target(source)
        if schema is not None:
            self._wal.state(RecordType.SCHEMA, schema.hash, schema.encoded)
        last = header.last if header.slots else NO_TIME
        if frame.provisional is not None:
            known = source.clock.corrections.get(frame.provisional.boot_id)
            if known is not None:
                body = source.id + encode_correction(known)
                self._wal.state(RecordType.CORRECTION, source.id + known.boot_id, body)
            # Its samples may move, up to now: the segment is needed until a block holds them there.
            last = max(last, self._clock.now())
        self._wal.append(RecordType.FRAME, bytes(data), last)
        self._note(source, header)
        samples = self._take(source, schema, frame)
        return Appended(Outcome.ACCEPTED, samples=samples)

    def _reject(self, reason: str, name: str, data: bytes, detail: str) -> Appended:
        try:
            self._quarantine(name, bytes(data))
        except OSError as err:
            detail = f"{detail}; not kept for inspection: {err}"
        return Appended(Outcome.QUARANTINED, reason, detail)

    def _admit(self, source: Source, schema: StoredSchema) -> Appended | None:
        """Count a schema that is new to the source; a refusal if that goes over a limit."""
        limits, now = self._options, self._clock.monotonic()
        source.schema_times = [at for at in source.schema_times if now - at < _HOUR]
        if len(source.schema_times) >= limits.max_schemas_per_hour:
            text = f"{len(source.schema_times)} new schemas within an hour"
            return Appended(Outcome.REFUSED, "max_schemas_per_hour", text)
        prints = source.series_with(schema)
        if len(prints) > limits.max_series_per_source:
            return Appended(Outcome.REFUSED, "max_series_per_source", f"{len(prints)} series of one source")
        total = self._counts["series"] + len(prints) - len(source.prints)
        if total > limits.max_series:
            return Appended(Outcome.REFUSED, "max_series", f"{total} series")
        source.schema_times.append(now)
        self._adopt(source, schema)
        return None

    def _adopt(self, source: Source, schema: StoredSchema) -> None:
        prints = source.series_with(schema)
        self._counts["series"] += len(prints) - len(source.prints)
        source.prints = prints
        source.schemas.add(schema.hash)

    def _note(self, source: Source, header: FrameHeader) -> None:
        source.ledger.take(header.epoch, header.seq, header.crc)
        self._unsettled.append((source, header.epoch, header.seq))

    def _take(self, source: Source, schema: StoredSchema | None, frame: Frame) -> int:
        """Put a decoded frame into the head; the samples in it."""
        if frame.correction is not None:
            self._correct(source, frame.correction)
        frame, estimated = source.clock.correct(frame), frame
        header, slots = frame.header, len(frame.timestamps)
        if schema is None or not slots:
            return 0
        if schema.hash not in source.schemas:
            self._adopt(source, schema)
        key = (header.lane, schema.hash, source.target.serial)
        strand = source.strands.get(key)
        if strand is None:
            strand = source.strands[key] = Strand(header.lane, schema, source.target)
        if not strand.chunks or strand.chunks[-1].slots + slots > max(SLOTS, slots):
            strand.chunks.append(Chunk(schema.rows))
        chunk = strand.chunks[-1]
        if chunk.slots and frame.timestamps[0] <= chunk.last:
            self._counts["late"] += slots
        chunk.append(frame.timestamps, frame.values, frame.presence, self._arrival)
        if frame.provisional is not None and frame is estimated:
            source.clock.wait(frame.provisional, self._arrival, slots, int(frame.timestamps[0]))
        self._arrival += slots
        samples = frame.values.size
        if frame.presence is not None:
            samples -= int(np.count_nonzero(frame.presence == ABSENT))
        self._counts["samples"] += samples
        return samples

    def _correct(self, source: Source, correction: Correction) -> None:
        """Take a correction, and move what waited for it in the head."""
        for waiting, shift in source.clock.learn(correction):
            for strand in source.strands.values():
                for chunk in strand.chunks:
                    chunk.move(waiting.arrival, waiting.slots, shift)

    def commit(self) -> None:
        """Make everything durable that was appended before: one write and one fsync a segment.

        StorageError if the disk refuses: appends are then refused as `paused` until a later commit succeeds, what was
        appended stays readable and is written again by it.
        """
        with self._lock:
            unsettled = self._unsettled[:]
        try:
            self._wal.commit()
        except StorageError as err:
            with self._lock:
                self._paused = str(err)
                self._counts["failed_commits"] += 1
            raise
        with self._lock:
            for source, epoch, seq in unsettled:
                source.ledger.settle(epoch, seq)
            del self._unsettled[: len(unsettled)]
            self._paused = ""
            self._counts["commits"] += 1

    def have(self, source: SourceId) -> Have:
        """Frames of `source` that are durable here."""
        with self._lock:
            entry = self._sources.get(source)
            return dict(entry.ledger.durable) if entry is not None else {}

    def maintain(self) -> None:
        """Cut, compact and drop what is due; call it every minute or so. Long, but others may go on meanwhile.

        StorageError if the disk fails; nothing is lost then, and the next call tries again.
        """
        with self._maintenance:
            try:
                bounds = self._bounds()
                if bounds:
                    newest = min(max(last for _, last in bounds), self._clock.now())
                    before = due(newest, min(first for first, _ in bounds))
                    if before is not None:
                        self._cut(before)
                newest = max(
                    [newest for _, newest in self._bounds()] + [b.max for b in self._blocks.current], default=0
                )
                newest = min(newest, self._clock.now())
                while self._blocks.compact(newest, self._meta_of):
                    pass
                self._retain(newest)
            except StorageError:
                raise
            except OSError as err:
                raise explain(err, self.path, "--storage.tsdb.path") from err

    def cut(self, before: int) -> None:
        """Move all samples below `before` (ms) from the head to blocks. StorageError as `maintain`."""
        with self._maintenance:
            try:
                self._cut(before)
            except StorageError:
                raise
            except OSError as err:
                raise explain(err, self.path, "--storage.tsdb.path") from err

    def _cut(self, before: int) -> None:
        with self._lock:
            mark = self._wal.roll()
            arrival = self._arrival
            strands = [
                (strand.schema, strand.target, [c.view() for c in strand.chunks if c.slots and c.first < before])
                for source in self._sources.values()
                for strand in source.strands.values()
            ]
        strands = [each for each in strands if each[2]]
        self.commit()
        log = mark()
        paths: list[Path] = []
        for start, end in ranges([view for _, _, views in strands for view in views], before):
            origin = HeadOrigin(strands, start, min(end, before - 1))
            paths += self._blocks.write([origin], self._meta_of, log=log, shape=Shape())
        self._blocks.swap(paths, (), lambda: self._trim(before, arrival))
        self._wal.drop(lambda segment: segment.number < log and segment.last < before)

    def _trim(self, before: int, arrival: int) -> None:
        for source in self._sources.values():
            for strand in source.strands.values():
                rest = [chunk.without(before, arrival) for chunk in strand.chunks]
                strand.chunks = [chunk for chunk in rest if chunk is not None]
        self._forget()

    def _meta_of(self, metric: str) -> list[MetricMeta]:
        with self._lock:
            return list(self._meta.get(metric, {}))

    def _retain(self, newest: int) -> None:
        options = self._options
        if options.retention_ms:
            horizon = newest - options.retention_ms
            self._blocks.drop(lambda block: block.max < horizon)
            with self._lock:
                self._trim(horizon, self._arrival)
            self._wal.drop(lambda segment: segment.last < horizon)
        if options.retention_bytes:
            # The log comes first: what is in it is in no block yet.
            over = self._wal.size + self._blocks.size - options.retention_bytes
            for block in sorted(self._blocks.current, key=lambda block: block.max):
                if over <= 0:
                    break
                over -= block.size
                self._blocks.drop(lambda each, block=block: each is block)  # type: ignore[misc]

    def _forget(self) -> None:
        """Drop strands without chunks and schemas without strands."""
        for source in self._sources.values():
            dead = [key for key, strand in source.strands.items() if not strand.chunks]
            for key in dead:
                del source.strands[key]
            if dead:
                self._recount(source)
        now = self._clock.monotonic()
        for source in self._sources.values():
            for strand in source.strands.values():
                strand.schema.used = now
        self._schemas.discard([schema.hash for schema in self._schemas if now - schema.used > _HOUR])

    def _recount(self, source: Source) -> None:
        before = len(source.prints)
        source.schemas = {strand.schema.hash for strand in source.strands.values()}
        each = [strand.schema.prints(strand.target) for strand in source.strands.values()]
        source.prints = np.unique(np.concatenate(each)) if each else source.prints[:0]
        self._counts["series"] += len(source.prints) - before

    def close(self) -> None:
        """Commit, then release files and lock. Idempotent."""
        lock, self._directory_lock = self._directory_lock, None
        if lock is None:
            return
        try:
            self.commit()
        finally:
            self._wal.close()
            self._blocks.close()
            lock.close()

    # Reading

    def _strands(self, start: int, end: int) -> list[tuple[Strand, list[View]]]:
        """Strands with samples between the times, and views of those chunks."""
        out = []
        with self._lock:
            for source in self._sources.values():
                for strand in source.strands.values():
                    views = [c.view() for c in strand.chunks if c.slots and c.first <= end and c.last >= start]
                    if views:
                        out.append((strand, views))
        return out

    def _chosen(
        self, matchers: Sequence[Matcher], start: int, end: int
    ) -> Iterator[tuple[Strand, Selection, list[View]]]:
        key = tuple(matchers)
        for strand, views in self._strands(start, end):
            with self._lock:
                selection = self._selector.select(strand.schema, key, strand.target)
            if selection is not None:
                yield strand, selection, views

    def select(
        self,
        matchers: Sequence[Matcher],
        start: Millis,
        end: Millis,
        hints: SelectHints | None = None,
        budget: Budget | None = None,
    ) -> Iterator[RowBatch]:
        """As Querier.select."""
        with self._lock:
            # Both at one instant: a cut moves samples from the head to a block.
            blocks = self._blocks_between(start, end)
            chosen = list(self._chosen(matchers, start, end))
        found: list[Piece[Labels]] = []
        for block in blocks:
            found.extend(block_pieces(block, matchers, start, end, self._blocks.labels, self._lock))
        for strand, selection, views in chosen:
            found.extend(self._pieces(strand, selection, views, start, end))
        return join(found, budget)

    def _pieces(
        self, strand: Strand, selection: Selection, views: list[View], start: int, end: int
    ) -> Iterator[Piece[Labels]]:
        prints = selection.prints(strand.target)
        for view in views:
            yield from pieces(
                view,
                selection.columns,
                prints,
                lambda rows: self._labels(strand, selection, rows),
                start,
                end,
            )

    def _labels(self, strand: Strand, selection: Selection, rows: NDArray[np.intp]) -> list[Labels]:
        with self._lock:
            return selection.labels(rows, strand.target, self._label_cache)

    def label_names(self, matchers: Sequence[Sequence[Matcher]], start: Millis, end: Millis) -> list[str]:
        """As Querier.label_names."""
        names: set[str] = set()
        seen: dict[int, Selection] = {}
        for each in matchers or ((),):
            for strand, selection, _ in self._chosen(each, start, end):
                names |= strand.target.names
                if seen.setdefault(id(selection), selection) is selection:
                    for index, rows in selection.parts:
                        names.update(name for row in rows.tolist() for name, _ in index.rows[row].pairs)
            for block in self._blocks_between(start, end):
                names |= block.label_names(each)
        return sorted(names)

    def label_values(self, name: str, matchers: Sequence[Sequence[Matcher]], start: Millis, end: Millis) -> list[str]:
        """As Querier.label_values."""
        values: set[str] = set()
        seen: dict[int, tuple[Selection, bool]] = {}
        for each in matchers or ((),):
            for strand, selection, _ in self._chosen(each, start, end):
                if id(selection) not in seen:
                    mine = {index.rows[row].get(name) for index, rows in selection.parts for row in rows.tolist()}
                    values |= mine
                    seen[id(selection)] = selection, "" in mine
                if seen[id(selection)][1]:
                    values.add(strand.target.values.get(name, ""))
            for block in self._blocks_between(start, end):
                values |= block.label_values(name, each)
        values.discard("")
        return sorted(values)

    def series(self, matchers: Sequence[Sequence[Matcher]], start: Millis, end: Millis) -> list[Labels]:
        """As Querier.series."""
        found: set[Labels] = set()
        for each in matchers or ((),):
            for strand, selection, _ in self._chosen(each, start, end):
                found.update(self._labels(strand, selection, np.arange(len(selection.columns))))
            for block in self._blocks_between(start, end):
                for metric, series in block.match(each):
                    with self._lock:
                        found.update(block.labels(metric, series, self._blocks.labels))
        return sorted(found)

    def _blocks_between(self, start: int, end: int) -> list[Block]:
        return [block for block in self._blocks.current if block.min <= end and block.max >= start]

    def empty_cache(self) -> None:
        """Forget decoded row groups, so that the next query reads from the disk."""
        self._blocks.cache.clear()

    def metadata(self, name: str = "") -> dict[str, list[MetricMeta]]:
        """As Querier.metadata."""
        with self._lock:
            if name:
                return {name: list(self._meta[name])} if name in self._meta else {}
            return {key: list(metas) for key, metas in self._meta.items()}

    # About itself

    def cardinality(self, limit: int = 10) -> Cardinality:
        """Where the series of the head come from, `limit` lines a list."""
        with self._lock:
            counts: Counter[tuple[RowIndex, Target]] = Counter()
            for source in self._sources.values():
                for strand in source.strands.values():
                    for part in strand.schema.parts:
                        counts[part, strand.target] = 1
            series = self._counts["series"]
        return cardinality(list(counts), series, limit)

    def _bounds(self) -> list[tuple[int, int]]:
        with self._lock:
            return [
                (chunk.first, chunk.last)
                for source in self._sources.values()
                for strand in source.strands.values()
                for chunk in strand.chunks
                if chunk.slots
            ]

    def stats(self) -> StoreStats:
        """Counters and gauges as of now."""
        with self._lock:
            chunks = [c for s in self._sources.values() for strand in s.strands.values() for c in strand.chunks]
            return StoreStats(
                series=self._counts["series"],
                sources=len(self._sources),
                schemas=len(self._schemas),
                chunks=len(chunks),
                head_bytes=sum(chunk.size for chunk in chunks),
                first=min([c.first for c in chunks] + [b.min for b in self._blocks.current], default=None),
                last=max([c.last for c in chunks] + [b.max for b in self._blocks.current], default=None),
                samples=self._counts["samples"],
                frames={str(outcome): self._frames[outcome] for outcome in Outcome},
                refused=dict(self._refused),
                duplicate_samples=self._counts["duplicates"],
                late_slots=self._counts["late"],
                blocks=len(self._blocks.current),
                block_bytes=self._blocks.size,
                cache_bytes=self._blocks.cache.size,
                cache_hits=self._blocks.cache.hits,
                cache_misses=self._blocks.cache.misses,
                wal_segments=len(self._wal.segments),
                wal_bytes=self._wal.size,
                wal_pending_bytes=self._wal.pending,
                bytes_written=self._wal.bytes_written + self._blocks.bytes_written,
                commits=self._counts["commits"],
                failed_commits=self._counts["failed_commits"],
                paused=self._paused,
                loss=self._wal.loss,
            )


def _outside(frame: Frame, low: int, high: int) -> Frame:
    """The slots of a frame that are not between the two times (inclusive)."""
    keep = np.flatnonzero((frame.timestamps < low) | (frame.timestamps > high))
    presence = None if frame.presence is None else frame.presence[:, keep]
    return Frame(frame.header, frame.timestamps[keep], frame.values[:, keep], presence)


def _pack_labels(labels: Labels) -> bytes:
    out = bytearray()
    for pair in labels.pairs:
        for text in pair:
            put_text(out, text)
    return bytes(out)


def _unpack_labels(data: bytes) -> Labels:
    reader = Reader(data)
    pairs = []
    while reader.at < len(data):
        pairs.append((reader.text(), reader.text()))
    return Labels(pairs)
