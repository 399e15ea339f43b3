"""The hub's store: frames in, rows out. The write-ahead log makes them durable, the head makes them readable."""

import gc
import operator
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.allocator import trim
from common.clock import Clock
from common.errors import BusyError, FormatError, FrameError, LimitError, StorageError
from common.files import SYSTEM_FILES, DirectoryLock, Files, explain
from common.frames.codec import Slot, decode
from common.frames.model import (
    Epoch,
    Flags,
    Schema,
    SchemaHash,
    SourceId,
    SubSchema,
    decode_schema,
    encode_schema,
    read_header,
)
from common.frames.ranges import Have, format_have, parse_have
from common.histogram import FloatHistogram
from common.labels import Labels, Matcher
from common.order import in_order
from common.sample import MetricMeta, Millis
from common.tsdb.block import Block
from common.tsdb.blocks import Blocks
from common.tsdb.cache import DecodeCache
from common.tsdb.cardinality import Cardinality, cardinality
from common.tsdb.changes import Changes
from common.tsdb.clocks import decode_correction, encode_correction
from common.tsdb.cut import HeadOrigin, outside
from common.tsdb.deletion import Deletion
from common.tsdb.index import Interner, LabelCache, RowIndex, Target
from common.tsdb.lanes import Chosen, Lanes
from common.tsdb.loose import SERIES_BYTES
from common.tsdb.native import Stored, check_histogram
from common.tsdb.native import decode as decode_histogram
from common.tsdb.options import Appended, Outcome, StoreOptions, StoreStats
from common.tsdb.packs import Packs
from common.tsdb.quarantine import Quarantine
from common.tsdb.querier import Budget, RowBatch, SelectHints
from common.tsdb.records import (
    pack_histograms,
    pack_loose,
    pack_series,
    pack_target,
    record_parts,
    unpack_histograms,
    unpack_loose,
    unpack_series,
    unpack_target,
)
from common.tsdb.registry import Source
from common.tsdb.room import Room
from common.tsdb.rows_of import rows_of
from common.tsdb.snapshot import copy_store
from common.tsdb.upkeep import LABELS, Upkeep
from common.tsdb.wal import NO_TIME, RecordType, Segment, Wal

PAIRS = operator.attrgetter("pairs")
LOOK_BYTES = 1 << 20
"""Bytes of the log after which recovery looks at how much memory they took."""
MAX_METAS = 10
"""Different metadata of one metric family that is kept if it comes apart from schemas."""


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
        self._head = Lanes(clock, lambda segment, last: self._wal.stretch(segment, last))
        self._label_cache = LabelCache(options.cached_labels)
        self._unsettled: list[tuple[Source, Epoch, int]] = []
        self._paused = ""
        self._room = Room(options.max_head_bytes, clock, lambda: self._upkeep.taken)
        self._quarantine = Quarantine(path / "quarantine", files, options.max_quarantine_bytes)
        self._frames: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._directory_lock: DirectoryLock | None = None
        self._closed_for_good = False
        self._maintenance = threading.Lock()
        cache, interner = DecodeCache(options.cache_bytes), Interner(options.index_bytes)
        self._blocks = Blocks(path / "blocks", files, self._lock, cache, interner)
        self._wal = Wal(path / "wal", files, options.wal_segment_bytes, self._lock, self._had)
        self._packs = Packs(self._blocks.number, cache, interner)
        self._upkeep = Upkeep(self._head, self._packs, self._blocks, self._wal, options, clock, self._lock, self.commit)

    @classmethod
    def open(
        cls, path: Path, options: StoreOptions, clock: Clock, files: Files = SYSTEM_FILES, *, exclusive: bool = True
    ) -> "Store":
        """Open or create the store in `path`; StorageError if it can't be used or another process has it.

        Damaged records never stop it: they are quarantined or cut off, and `stats().loss` says how much. Not
        `exclusive`, it asks nobody for leave: see `common.tsdb.frozen`.
        """
        store = cls(path, options, clock, files)
        try:
            for folder in (path, path / "wal", path / "blocks", path / "quarantine"):
                files.mkdir(folder)
            if exclusive:
                store._directory_lock = DirectoryLock(path, "hub")
            collecting = gc.isenabled()
            # What recovery makes stays: looking for garbage among it, again and again, took a third of the time.
            gc.disable()
            try:
                store._recover()
                trim()
            except BaseException:
                store._let_go()
                raise
            finally:
                if collecting:
                    gc.enable()
        except StorageError:
            raise
        except OSError as err:
            raise explain(err, path, "--storage.tsdb.path") from err
        return store

    @property
    def changes(self) -> Changes:
        """Which times changed since when: every append, deletion, correction and retention is told there."""
        return self._head.changes

    # Recovery

    def _recover(self) -> None:
        self._blocks.open(self.path / "quarantine")
        self._wal.loss.quarantined += self._blocks.quarantined
        for block in self._blocks.current:
            self._head.learn(block.meta())
            if block.has_histograms:
                self._head.histograms.settle(block.max + 1)
        before, numbers = -1, dict[int, int]()
        often, fresh = min(LOOK_BYTES, self._options.seal_bytes), 0
        # Blocks tell by its number whether they hold what is in a segment: that must be true if the log was lost, too.
        least = max((block.footer.log for block in self._blocks.current), default=1) - 1
        for segment, oldest, kind, body in self._wal.recover(self._set_aside, least):
            fresh += len(body)
            if fresh > often:
                fresh = 0
                if self._upkeep.tight:
                    self._upkeep.pack()
            if segment.number != before:
                before, numbers = segment.number, {}
            try:
                last = self._replay(segment, kind, body, oldest, numbers)
                segment.last = max(segment.last, last)
            except FormatError:
                # The checksum holds, so these are the bytes that were written: a later version's, or a bug's.
                self._set_aside(f"{segment.path.name}.record", bytes(body))
                self._wal.loss.damaged_records += 1
                self._wal.loss.damaged_bytes += len(body)
        for source, epoch, seq in self._unsettled:
            source.ledger.settle(epoch, seq)
        self._unsettled.clear()

    def _set_aside(self, name: str, data: bytes) -> bool:
        """Keep damaged bytes for inspection; False where the disk takes none: a start goes on all the same."""
        try:
            self._quarantine.put(name, data)
        except OSError:
            return False
        return True

    def _replay(self, segment: Segment, kind: int, body: memoryview, oldest: bool, numbers: dict[int, int]) -> int:
        """Take one record again; its newest timestamp. `numbers` are the series of this segment's loose samples."""
        head = self._head
        match kind:
            case RecordType.FRAME:
                return self._replay_frame(segment, body)
            case RecordType.SCHEMA:
                encoded = bytes(body)
                head.keep(decode_schema(encoded), encoded)
            case RecordType.TARGET:
                source, labels = unpack_target(bytes(body))
                head.source(source).set_target(labels)
            case RecordType.CORRECTION:
                head.correct(head.source(SourceId(bytes(body[:16]))), decode_correction(bytes(body[16:])))
            case RecordType.RELEASE:
                head.release(head.source(SourceId(bytes(body[:16]))), bytes(body[16:32]))
            case RecordType.HAVE if oldest:
                # Later segments repeat what records before them say; were one of those lost, its sender still has it.
                have = parse_have(bytes(body[16:]).decode("ascii"))
                head.source(SourceId(bytes(body[:16]))).ledger.restore(have)
            case RecordType.SERIES:
                numbers.update((number, head.loose.table.add(labels)) for number, labels in unpack_series(bytes(body)))
            case RecordType.LOOSE:
                rows, times, values = unpack_loose(bytes(body))
                mapped, keep, last = self._uncovered(segment, rows, times, numbers)
                head.take_loose(mapped[keep], times[keep], values[keep])
                return last
            case RecordType.HISTOGRAMS:
                return self._replay_histograms(segment, body, numbers)
            case RecordType.DELETE:
                deletion = Deletion.unpack(bytes(body))
                self._upkeep.apply(deletion)
        return NO_TIME

    def _replay_histograms(self, segment: Segment, body: memoryview, numbers: dict[int, int]) -> int:
        rows, times, encoded = unpack_histograms(bytes(body))
        for each in filter(None, encoded):
            decode_histogram(each)
        mapped, keep, last = self._uncovered(segment, rows, times, numbers)
        kept = [each for each, wanted in zip(encoded, keep.tolist(), strict=True) if wanted]
        self._head.take_histograms(mapped[keep], times[keep], kept)
        return last

    def _uncovered(
        self, segment: Segment, rows: NDArray[np.int64], times: NDArray[np.int64], numbers: dict[int, int]
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_], int]:
        """Series of loose samples, which of these no block holds, and the newest timestamp of all."""
        try:
            mapped = np.array([numbers[row] for row in rows.tolist()], np.int32)
        except KeyError as err:
            raise FormatError(f"loose sample of unknown series {err}") from None
        keep = np.ones(len(times), np.bool_)
        if not len(times):
            return mapped, keep, NO_TIME
        last = int(times.max())
        for low, high in self._blocks.covers(segment.number, int(times.min()), last):
            keep &= (times < low) | (times > high)
        return mapped, keep, last

    def _replay_frame(self, segment: Segment, body: memoryview) -> int:
        header = read_header(body)
        source = self._head.source(header.source)
        if (header.epoch, header.seq) in source.ledger:
            return NO_TIME
        last = header.last if header.slots else NO_TIME
        if Flags.PROVISIONAL in header.flags or not header.slots:
            # It may stand elsewhere by now than its header says: taking it again costs a repeat at worst. A frame
            # without slots may bring a correction, which no block has.
            covered: list[tuple[int, int]] = []
        else:
            covered = self._blocks.covers(segment.number, header.first, header.last)
        if any(low <= header.first and header.last <= high for low, high in covered):
            self._note(source, header.epoch, header.seq, header.crc)
            return last
        frame = decode(body)
        schema = self._head.schemas.get(header.schema)
        if schema is None and header.rows:
            raise FrameError(f"frame of unknown schema {header.schema.hex()}")
        if not source.targets:
            raise FrameError("frame of a source whose target labels are lost")
        for low, high in covered:
            frame = outside(frame, low, high)
        self._note(source, header.epoch, header.seq, header.crc)
        waited = max(0, self._clock.now() - segment.written) / 1000
        return max(last, self._head.take(source, schema, frame, lambda: segment.number, waited)[1])

    def _had(self) -> list[tuple[bytes, bytes]]:
        """Keys and bodies of HAVE records: which frames the log took before, durable once these are."""
        out: list[tuple[bytes, bytes]] = []
        for source in self._head.sources.values():
            have = source.ledger.taken()
            if have:
                out.append((source.id, source.id + format_have(have).encode("ascii")))
        return out

    # Writing

    def set_target(self, source: SourceId, labels: Labels) -> None:
        """Give frames of `source` that come from now on these target labels; durable with the next commit."""
        with self._lock:
            entry = self._head.source(source)
            if entry.set_target(labels):
                self._log_target(entry, again=True)

    def target(self, source: SourceId) -> Labels:
        """The target labels that hold now."""
        with self._lock:
            entry = self._head.sources.get(source)
            return entry.target.labels if entry is not None else Labels()

    def _log_target(self, source: Source, again: bool = False) -> None:
        self._wal.begin()
        if again or not self._wal.stated(RecordType.TARGET, source.id):
            self._wal.state(RecordType.TARGET, source.id, pack_target(source.id, source.target.labels), again)

    def has_schema(self, key: SchemaHash) -> bool:
        """Whether frames of that schema can be appended."""
        # Without the lock, since event loops ask this: looking into a dict takes none.
        return key in self._head.schemas

    def add_schema(self, encoded: bytes) -> SchemaHash:
        """Keep a schema; FrameError if it isn't one, LimitError if a label set exceeds a limit."""
        schema = decode_schema(encoded)
        self._keep(schema, encoded)
        return schema.hash

    def add_own_schema(self, schema: Schema) -> None:
        """Keep a schema that was made here; LimitError if a label set exceeds a limit."""
        self._keep(schema, encode_schema(schema))

    def _keep(self, schema: Schema, encoded: bytes) -> None:
        for labels in schema.labels():
            self._check(labels)
        with self._lock:
            self._head.keep(schema, encoded)

    def _check(self, labels: Labels) -> None:
        limits = self._options
        if len(labels) > limits.max_labels:
            raise self._over("max_labels", f"{labels} has {len(labels)} labels; at most {limits.max_labels}")
        for name, value in labels.pairs:
            if len(name) > limits.max_label_name_bytes:
                text = f"label name {name[:40]!r}... is longer than {limits.max_label_name_bytes} bytes"
                raise self._over("max_label_name_bytes", text)
            if len(value) > limits.max_label_value_bytes:
                text = f"value of label {name!r} is longer than {limits.max_label_value_bytes} bytes"
                raise self._over("max_label_value_bytes", text)

    def _over(self, reason: str, text: str) -> LimitError:
        self._refused[reason] += 1
        return LimitError(f"{text} (limit {reason})")

    def append_frame(self, data: bytes) -> Appended:
        """Take one frame. A repeat is a duplicate; the same key with other bytes, or damage, is quarantined."""
        with self._lock:
            return self._counted(self._append(data))

    def append_slot(self, slot: Slot) -> Appended:
        """Take what will be a frame when the log is written, of a source of this program's own.

        The caller sees to it that the key is new, and gives the arrays away.
        """
        with self._lock:
            return self._counted(self._append_slot(slot))

    def _counted(self, result: Appended) -> Appended:
        self._frames[result.outcome] += 1
        if result.outcome is Outcome.REFUSED:
            self._refused[result.reason] += 1
        return result

    def _append_slot(self, slot: Slot) -> Appended:
        rows = len(slot.values)
        source = self._head.source(slot.key.source)
        refusal = self._closed(len(slot), 8 * rows)
        if refusal is not None:
            return Appended(Outcome.REFUSED, *refusal)
        schema = self._head.schemas.get(slot.key.schema)
        if schema is None:
            return Appended(Outcome.REFUSED, "unknown_schema", slot.key.schema.hex())
        assert schema.rows == rows
        if schema.hash not in source.schemas:
            refusal = self._head.refusal(source, schema, self._options)
            if refusal is not None:
                return Appended(Outcome.REFUSED, *refusal)
        self._log_target(source)
        self._wal.state(RecordType.SCHEMA, schema.hash, schema.encoded)
        samples = self._head.take_slot(source, schema, slot)
        self._wal.append(RecordType.FRAME, slot, slot.timestamp)
        self._note(source, slot.key.epoch, slot.key.seq, None)
        return Appended(Outcome.ACCEPTED, samples=samples)

    def _append(self, data: bytes) -> Appended:
        try:
            header = read_header(data)
        except FrameError as err:
            return self._reject("damaged", f"damaged-{self._head.arrival}.frame", data, str(err))
        source = self._head.source(header.source)
        if (header.epoch, header.seq) in source.ledger:
            crc = source.ledger.checksum(header.epoch, header.seq)
            if crc is None or crc == header.crc:
                return Appended(Outcome.DUPLICATE)
            name = f"{header.source.hex()}-{header.epoch:016x}-{header.seq}.frame"
            return self._reject("clash", name, data, "another frame with this source, epoch and number was taken")
        refusal = self._closed(len(data), 8 * header.rows * header.slots)
        if refusal is not None:
            return Appended(Outcome.REFUSED, *refusal)
        schema = self._head.schemas.get(header.schema)
        if schema is None and header.rows:
            return Appended(Outcome.REFUSED, "unknown_schema", header.schema.hex())
        try:
            frame = decode(data)
            if schema is not None and schema.rows != header.rows:
                raise FrameError(f"frame has {header.rows} rows, its schema {schema.rows}")
        except FrameError as err:
            return self._reject("damaged", f"damaged-{self._head.arrival}.frame", data, str(err))
        if schema is not None and schema.hash not in source.schemas:
            refusal = self._head.refusal(source, schema, self._options)
            if refusal is not None:
                return Appended(Outcome.REFUSED, *refusal)
        self._log_target(source)
        if schema is not None:
            self._wal.state(RecordType.SCHEMA, schema.hash, schema.encoded)
        if frame.provisional is not None:
            known = source.clock.corrections.get(frame.provisional.boot_id)
            if known is not None:
                body = source.id + encode_correction(known)
                self._wal.state(RecordType.CORRECTION, source.id + known.boot_id, body)
        samples, last = self._head.take(source, schema, frame, self._wal.place())
        self._wal.append(RecordType.FRAME, bytes(data), last)
        self._note(source, header.epoch, header.seq, header.crc)
        return Appended(Outcome.ACCEPTED, samples=samples)

    def _reject(self, reason: str, name: str, data: bytes, detail: str) -> Appended:
        try:
            self._quarantine.put(name, bytes(data))
        except OSError as err:
            detail = f"{detail}; not kept for inspection: {err}"
        return Appended(Outcome.QUARANTINED, reason, detail)

    def _closed(self, size: int, cells: int) -> tuple[str, str] | None:
        """Limit and reason why `size` bytes of log and `cells` of memory can't be appended now, or None."""
        limits = self._options
        if self._paused:
            return "paused", self._paused
        if self._wal.pending + size > limits.max_pending_bytes:
            return "max_pending_bytes", f"{limits.max_pending_bytes} bytes wait for a commit"
        if not self._room.take(cells):
            return "max_head_bytes", f"samples in memory take {limits.max_head_bytes} bytes"
        return None

    def _note(self, source: Source, epoch: Epoch, seq: int, crc: int | None) -> None:
        source.ledger.take(epoch, seq, crc)
        self._unsettled.append((source, epoch, seq))

    def append_loose(self, writer: SourceId, samples: Sequence[tuple[Labels, int, float]]) -> int:
        """Take samples with timestamps of their own: any since 1970, in any order; STALE_NAN marks a series as stale.

        Readable at once, durable after `commit`; of equal timestamps of a series the first wins. How many were new to
        the store is not known before they are read; the result is how many were taken. LimitError or StorageError
        refuse all of them.
        """
        labels: dict[Labels, int] = {}
        rows = np.array([labels.setdefault(each, len(labels)) for each, _, _ in samples], np.intp)
        times = np.array([at for _, at, _ in samples], np.int64)
        values = np.array([value for _, _, value in samples], np.float64)
        return self.append_columns(list(labels), rows, times, values)

    def append_columns(
        self, labels: Sequence[Labels], rows: NDArray[np.intp], times: NDArray[np.int64], values: NDArray[np.float64]
    ) -> int:
        """As `append_loose`, in columns: sample i belongs to `labels[rows[i]]`. BusyError: it can be tried again."""
        with self._lock:
            known = self._admit(labels, 28 * len(rows))
            if not len(rows):
                return 0
            numbers = self._numbers(labels, known)
            self._wal.append(RecordType.LOOSE, pack_loose(numbers[rows], times, values), int(times.max()))
            self._head.take_loose(numbers[rows], times, values)
            return len(rows)

    def append_histograms(self, samples: Sequence[tuple[Labels, int, FloatHistogram | None, int]]) -> int:
        """Take native histograms: labels, ms, histogram (None marks a series as stale), start timestamp (0: none).

        As `append_loose`: of a float and a histogram with one timestamp, too, the first wins. FormatError names what is
        wrong with a histogram; it refuses all of them, as LimitError, StorageError and BusyError do.
        """
        for labels, _, histogram, _ in samples:
            if histogram is not None:
                check_histogram(histogram, labels, self._options.max_histogram_buckets)
        names = list(dict.fromkeys(labels for labels, _, _, _ in samples))
        with self._lock:
            # What they take is not known before; a bucket takes two bytes mostly, eight at most.
            known = self._admit(names, sum(64 if each is None else 4 * Stored(each).words for _, _, each, _ in samples))
            if not samples:
                return 0
            numbers = dict(zip(names, self._numbers(names, known).tolist(), strict=True))
            rows = np.array([numbers[labels] for labels, _, _, _ in samples], np.int32)
            times = np.array([time for _, time, _, _ in samples], np.int64)
            encoded = self._head.histograms.encode(rows.tolist(), samples)
            for part in record_parts(encoded):
                body = pack_histograms(rows[part], times[part], encoded[part])
                self._wal.append(RecordType.HISTOGRAMS, body, int(times[part].max()))
            self._head.take_histograms(rows, times, encoded)
            return len(samples)

    def _admit(self, labels: Sequence[Labels], size: int) -> NDArray[np.int32]:
        """Numbers of loose series, -1 for new ones.

        LimitError, StorageError or BusyError if samples of them can't be taken now.
        """
        known = self._head.loose.table.find(labels)
        fresh = {labels[at] for at in np.flatnonzero(known < 0).tolist()}
        for each in fresh:
            self._check(each)
        refusal = self._closed(size, size + SERIES_BYTES * len(fresh))
        if refusal is not None:
            self._refused[refusal[0]] += 1
            if refusal[0] == "paused":
                raise StorageError(f"storage is paused: {refusal[1]}")
            busy = BusyError if refusal[0] == "max_pending_bytes" else LimitError
            raise busy(f"{refusal[1]} (limit {refusal[0]})")
        most = LABELS * self._options.max_head_bytes
        if fresh and 0 < most < SERIES_BYTES * len(fresh) + self._head.label_size:
            text = f"label sets of {len(self._head.loose.table) + len(fresh)} series take more than is for them"
            raise self._over("max_head_bytes", f"{text} of {self._options.max_head_bytes} bytes")
        if self._head.total + len(fresh) > self._options.max_series:
            raise self._over("max_series", f"{self._head.total + len(fresh)} series")
        return known

    def _numbers(self, labels: Sequence[Labels], known: NDArray[np.int32]) -> NDArray[np.int32]:
        """Numbers of loose series (`known` from `_admit`), which the log's segment knows from now on."""
        table = self._head.loose.table
        numbers = known
        for at in np.flatnonzero(known < 0).tolist():
            numbers[at] = table.add(labels[at])
        self._wal.begin()
        self._state_series(numbers)
        return numbers

    def add_metadata(self, metas: Sequence[MetricMeta]) -> None:
        """Keep metadata that came apart from schemas, within limits; durable with the next commit."""
        with self._lock:
            known, most = self._head.meta, self._options.max_series
            new = [meta for meta in dict.fromkeys(metas) if meta not in known.get(meta.name, ())]
            new = [meta for meta in new if len(known.get(meta.name, ())) < MAX_METAS and len(known) < most]
            if not new:
                return
            schema = Schema((SubSchema("", (), tuple(new)),))
            encoded = encode_schema(schema)
            self._head.keep(schema, encoded)
            self._wal.begin()
            self._wal.state(RecordType.SCHEMA, schema.hash, encoded)

    def _state_series(self, numbers: NDArray[np.int32]) -> None:
        """Have the log's segment say which label sets these numbers mean."""
        loose = self._head.loose
        if len(loose.stated) < len(loose.table):
            loose.stated = np.concatenate((loose.stated, np.zeros(2 * len(loose.table), np.int64)))
        missing = np.unique(numbers[loose.stated[numbers] != self._wal.serial])
        if len(missing):
            body = pack_series(missing.tolist(), [loose.table.labels[number] for number in missing.tolist()])
            self._wal.state(RecordType.SERIES, missing.tobytes(), body)
            loose.stated[missing] = self._wal.serial

    def commit(self) -> None:
        """Make everything durable that was appended before: one write and one fsync a segment.

        StorageError if the disk refuses: appends are then refused as `paused` until a later commit succeeds, what was
        appended stays readable and is written again by it.
        """
        with self._lock:
            # Others may commit at the same time: each settles what it took away.
            unsettled, self._unsettled = self._unsettled, []
        try:
            self._wal.commit()
        except StorageError as err:
            with self._lock:
                self._unsettled[:0] = unsettled
                self._paused = str(err)
                self._counts["failed_commits"] += 1
            raise
        with self._lock:
            for source, epoch, seq in unsettled:
                source.ledger.settle(epoch, seq)
            self._paused = ""
            self._counts["commits"] += 1

    def flush(self) -> None:
        """Hand what was appended to the kernel: if only this program dies, it is there at the next start.

        StorageError as `commit`.
        """
        try:
            self._wal.flush()
        except StorageError as err:
            with self._lock:
                self._paused = str(err)
                self._counts["failed_commits"] += 1
            raise

    def have(self, source: SourceId) -> Have:
        """Frames of `source` that are durable here. Answers at once: event loops may ask.

        No lock is needed: each of these reads is one step of the interpreter, and what is durable stays so.
        """
        entry = self._head.sources.get(source)
        return dict(entry.ledger.durable) if entry is not None else {}

    def maintain(self) -> None:
        """Pack, cut, compact and drop what is due; call it every minute or so. Long, but others may go on meanwhile.

        StorageError if the disk fails; nothing is lost then, and the next call tries again.
        """
        with self._alone():
            self._upkeep.maintain()

    def relieve(self) -> None:
        """Pack what is in memory if it is much; at once if not. Call it every few seconds."""
        if self._upkeep.crowded:
            with self._alone():
                self._upkeep.pack()
                trim()

    def cut(self, before: int) -> None:
        """Move all samples below `before` (ms) from memory to blocks. StorageError as `maintain`."""
        with self._alone():
            self._upkeep.cut(before)

    def delete(self, matchers: Sequence[Matcher], start: int, end: int) -> None:
        """Delete samples that are here now of series that satisfy every matcher, start <= timestamp <= end; durable."""
        with self._alone():
            self._upkeep.delete(matchers, start, end)

    def clean_deletions(self) -> None:
        """Write blocks anew without what was deleted from them. Long. StorageError as `maintain`."""
        with self._alone():
            self._upkeep.clean()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one thread in; OSError becomes StorageError."""
        with self._maintenance:
            try:
                yield
            except StorageError:
                raise
            except OSError as err:
                raise explain(err, self.path, "--storage.tsdb.path") from err
            finally:
                with self._lock:
                    self._room.changed()

    def snapshot(self, name: str) -> Path:
        """Copy everything that is here now into `snapshots/NAME`, which opens as a store. Long. StorageError."""
        target = self.path / "snapshots" / name
        with self._maintenance:
            self.commit()
            try:
                copy_store(self.path, target)
            except OSError as err:
                raise explain(err, target, "--storage.tsdb.path") from err
        return target

    def close(self) -> None:
        """Commit, then release files and lock. Idempotent."""
        closed, self._closed_for_good = self._closed_for_good, True
        if closed:
            return
        try:
            self.commit()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        self._wal.close()
        self._blocks.close()
        if self._directory_lock is not None:
            self._directory_lock.close()

    # Reading

    def _look(
        self, matchers: Sequence[Matcher], start: int, end: int
    ) -> tuple[list[tuple[Block, Sequence[Deletion]]], Chosen]:
        """Blocks, packs and samples of the head at one instant: samples move from the one to the other."""
        with self._lock:
            blocks = [*self._blocks.between(start, end), *self._packs.between(start, end)]
            return blocks, self._head.choose(matchers, start, end)

    def select(
        self,
        matchers: Sequence[Matcher],
        start: Millis,
        end: Millis,
        hints: SelectHints | None = None,
        budget: Budget | None = None,
    ) -> Iterator[RowBatch]:
        """As Querier.select."""
        newest, look = hints is not None and hints.newest, self._look(matchers, start, end)
        return rows_of(*look, matchers, start, end, self._label_cache, self._blocks.cache, budget, newest)

    def busy(self) -> bool:
        """Whether another thread takes samples or moves them just now, so that reading would have to wait."""
        if free := self._lock.acquire(blocking=False):
            self._lock.release()
        return not free

    def label_names(self, matchers: Sequence[Sequence[Matcher]], start: Millis, end: Millis) -> list[str]:
        """As Querier.label_names."""
        names: set[str] = set()
        for each in matchers or ((),):
            blocks, chosen = self._look(each, start, end)
            names.update(*(block.label_names(each) for block, _ in blocks), chosen.label_names(each))
        return sorted(names)

    def label_values(self, name: str, matchers: Sequence[Sequence[Matcher]], start: Millis, end: Millis) -> list[str]:
        """As Querier.label_values."""
        values: set[str] = set()
        for each in matchers or ((),):
            blocks, chosen = self._look(each, start, end)
            values.update(*(block.label_values(name, each) for block, _ in blocks), chosen.label_values(name, each))
        return sorted(values - {""})

    def series(self, matchers: Sequence[Sequence[Matcher]], start: Millis, end: Millis) -> list[Labels]:
        """As Querier.series."""
        found: set[Labels] = set()
        for each in matchers or ((),):
            blocks, chosen = self._look(each, start, end)
            for block, _ in blocks:
                found.update(block.labels(block.match(each), self._label_cache))
            found.update(chosen.series(each, self._label_cache))
        return in_order(found, key=PAIRS)

    def empty_cache(self) -> None:
        """Forget what was decoded or found in indexes, so that the next query reads from the disk."""
        self._blocks.cache.clear()

    def metadata(self, name: str = "") -> dict[str, list[MetricMeta]]:
        """As Querier.metadata."""
        with self._lock:
            known = self._head.meta
            return {key: list(known[key]) for key in ([name] if name else list(known)) if key in known}

    # About itself

    def cells(self) -> Counter[str]:
        """A bound of the samples that are stored, by metric name."""
        low, high = -(1 << 63), (1 << 63) - 1
        with self._lock:
            blocks = [*self._blocks.current, *(pack.block for pack in self._packs.current)]
            found = self._head.views(low, high)
            loose, histograms = self._head.loose.view(), self._head.histograms.view()
        strands = [(strand.schema, strand.target, views) for strand, views in found]
        cells = Counter(HeadOrigin(strands, loose, histograms, low, high).metrics())
        for block in blocks:
            cells.update(block.metrics())
        return cells

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks there are now, for statistics."""
        return self._blocks.current

    def parts(self) -> list[tuple[RowIndex, Target]]:
        """Indexes in use by the head and the targets under which they are."""
        with self._lock:
            return self._head.parts()

    def cardinality(self, limit: int = 10) -> Cardinality:
        """Where the series of the head come from, `limit` lines a list."""
        with self._lock:
            parts, series = self._head.parts(), self._head.total
        return cardinality(parts, series, limit)

    def stats(self) -> StoreStats:
        """Counters and gauges as of now."""
        with self._lock:
            head, blocks = self._head, self._blocks.current
            bounds = [head.bounds(), self._packs.bounds, *((block.min, block.max) for block in blocks)]
            known = [each for each in bounds if each is not None]
            return StoreStats(
                series=head.total,
                sources=len(head.sources),
                schemas=len(head.schemas),
                chunks=len(head.chunks()),
                head_bytes=head.size + self._packs.size,
                packs=len(self._packs.current),
                pack_bytes=self._packs.size,
                loose_samples=head.loose.samples,
                histograms=head.native,
                first=min((low for low, _ in known), default=None),
                last=max((high for _, high in known), default=None),
                samples=head.samples,
                frames={str(outcome): self._frames[outcome] for outcome in Outcome},
                refused=dict(self._refused),
                duplicate_samples=self._blocks.duplicates + self._packs.duplicates,
                late_slots=head.late,
                provisional_slots=head.waiting,
                given_up_slots=head.given_up,
                blocks=len(blocks),
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
