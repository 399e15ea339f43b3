"""The edge's log: samples become frames in RAM, frames become durable by one write a commit, hubs read ranges."""

import os
import threading
from array import array
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from common.clock import Clock
from common.edgelog.reader import Pending
from common.edgelog.segment import PROVISIONAL, Entry
from common.errors import FormatError, LimitError, StorageError
from common.files import SYSTEM_FILES, DirectoryLock, Files, explain
from common.frames.model import (
    MAX_CELLS,
    NO_SCHEMA,
    Correction,
    Epoch,
    Flags,
    FrameKey,
    Provisional,
    Schema,
    SchemaHash,
    SourceId,
    encode_schema,
    read_header,
)
from common.frames.ranges import RangeSet
from common.frames.writer import encode
from common.logs import EventLog
from common.sample import Millis
from edge.identity import Machine, identify
from edge.log_disk import DiskStats, LogDisk, Unit
from edge.log_types import LogOptions, LogReply, LogStats, Order, Overflow
from edge.timekeeper import Stamp, Timekeeper

__all__ = ["Log", "LogOptions", "LogReply", "LogStats", "Order", "Overflow", "Pending"]

RECENT_SCHEMAS: Final = 16
_SLOT_OVERHEAD = 64
_UNIT_OVERHEAD = 128
_log = EventLog("log")


@dataclass(slots=True)
class _Lane:
    schema: Schema
    flags: Flags
    provisional: Provisional | None
    timestamps: list[int] = field(default_factory=list)
    columns: "list[array[float]]" = field(default_factory=list)
    presences: list[bytes | None] = field(default_factory=list)
    size: int = 0


class Log:
    """A device's samples since its retention began. Thread-safe; `append` and `seal` never touch the disk."""

    def __init__(
        self, directory: Path, options: LogOptions, clock: Clock, disk: LogDisk, lock: DirectoryLock, files: Files
    ) -> None:
        """Use `Log.open`."""
        self.options = options
        self.path = directory
        self._clock = clock
        self._disk = disk
        self._files = files
        self._directory_lock = lock
        self._boot_id = _boot_id(clock)
        self._time = Timekeeper(clock, disk.last)
        self._state = threading.RLock()
        self._commit = threading.Lock()
        self._lanes: dict[int, _Lane] = {}
        self._units: deque[Unit] = deque()
        self._lane_bytes = 0
        self._unit_bytes = 0
        self._recent: OrderedDict[SchemaHash, Schema] = OrderedDict()
        self._epoch = _new_epoch()
        self._seq = 0
        # Provisional frames of an earlier run may be of this boot.
        self._uncorrected = self._boot_id not in disk.corrections and any(
            s.summary.bits & PROVISIONAL for s in disk.segments
        )
        self._corrected: dict[bytes, Correction] = {}
        self._sealed = self._dropped = self._refused = self._errors = 0
        self._last_error = ""
        self._closed = False

    @classmethod
    def open(
        cls,
        path: Path,
        options: LogOptions,
        clock: Clock,
        *,
        files: Files = SYSTEM_FILES,
        machine: Machine | None = None,
    ) -> Self:
        """Open or make the log in directory `path`. Blocking.

        Damage never stops it (see `stats`); a directory that can't be written, or is in use, is a StorageError.
        """
        lock = None
        try:
            files.mkdir(path)
            lock = DirectoryLock(path, "bramble-edge")
            source = identify(path, files, machine or Machine.read())
            return cls(path, options, clock, LogDisk(path, files, source), lock, files)
        except StorageError:
            raise
        except OSError as err:
            if lock is not None:
                lock.close()
            raise explain(err, path, options.setting) from err

    @property
    def source_id(self) -> SourceId:
        """This device's id."""
        return self._disk.source

    @property
    def epoch(self) -> Epoch:
        """The epoch that new frames get."""
        return self._epoch

    @property
    def generation(self) -> int:
        """Grows when a segment ends: the moment to drop rows that vanished from a lane's schema."""
        return self._disk.generation

    @property
    def _provisional(self) -> bool:
        return self._uncorrected or any(lane.provisional is not None for lane in self._lanes.values())

    # Samples in

    def stamp(self) -> Stamp:
        """Time and flags for a slot sampled now; also notices sync and steps of the clock."""
        with self._state:
            stamp = self._time.stamp()
            stepped = self._time.stepped()
            if self._time.was_synced and self._provisional:
                self._correct()
            if stepped:
                _log.warn("clock was stepped, a new epoch begins", offset_ms=self._time.offset_ms)
                self._new_epoch()
            return stamp

    def append(
        self,
        lane: int,
        schema: Schema,
        timestamp_ms: int,
        values: "array[float]",
        presence: bytes | None = None,
        flags: Flags = Flags.SYNCED,
    ) -> None:
        """Add one slot: a value per row of `schema`, cell states (None: all PRESENT), as stamped by `stamp`.

        Cheap, in RAM. LimitError when memory is full and the policy is REFUSE.
        """
        if len(values) != schema.rows or (presence is not None and len(presence) != schema.rows):
            raise FormatError(f"{len(values)} values for a schema of {schema.rows} rows")
        size = 8 * len(values) + (len(presence) if presence is not None else 0) + _SLOT_OVERHEAD
        with self._state:
            self._make_room(size)
            pending = self._lanes.get(lane)
            if pending is not None and not self._fits(pending, schema, timestamp_ms, flags):
                backward = timestamp_ms <= pending.timestamps[-1]
                self._seal(lane)
                if backward:
                    self._new_epoch()
                pending = None
            if pending is None:
                provisional = None
                if Flags.PROVISIONAL in flags:
                    provisional = Provisional(self._boot_id, self._time.monotonic_of(timestamp_ms))
                pending = self._lanes[lane] = _Lane(schema, flags, provisional)
            pending.timestamps.append(timestamp_ms)
            pending.columns.append(array("d", values))
            pending.presences.append(presence)
            pending.size += size
            self._lane_bytes += size

    def _fits(self, pending: _Lane, schema: Schema, timestamp_ms: int, flags: Flags) -> bool:
        slots = len(pending.timestamps)
        return (
            pending.schema.hash == schema.hash
            and pending.flags == flags
            and timestamp_ms > pending.timestamps[-1]
            and slots < self.options.max_slots
            and (slots + 1) * schema.rows <= MAX_CELLS
        )

    def _make_room(self, size: int) -> None:
        limit = self.options.max_memory_bytes
        if self._lane_bytes + self._unit_bytes + size <= limit:
            return
        self.seal()
        while self._lane_bytes + self._unit_bytes + size > limit:
            if self.options.overflow is Overflow.REFUSE or not self._units:
                self._refused += 1
                raise LimitError(
                    f"the log's memory is full ({limit} bytes, max_memory_bytes) "
                    f"and the disk takes nothing: {self._last_error or 'no commit yet'}"
                )
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        self._unit_bytes -= _cost(self._units.popleft())
        self._dropped += 1

    def seal(self) -> None:
        """Turn what was appended into frames, in RAM."""
        with self._state:
            for lane in list(self._lanes):
                self._seal(lane)

    def _seal(self, lane: int) -> None:
        pending = self._lanes.pop(lane)
        self._lane_bytes -= pending.size
        self._uncorrected = self._uncorrected or pending.provisional is not None
        key = self._key(lane, pending.schema.hash, pending.flags)
        data = encode(
            key, pending.timestamps, pending.columns, pending.presences, provisional=pending.provisional
        )  # fmt: skip
        self._recent[pending.schema.hash] = pending.schema
        self._recent.move_to_end(pending.schema.hash)
        while len(self._recent) > RECENT_SCHEMAS:
            self._recent.popitem(last=False)
        self._add(Unit(key.epoch, key.seq, data, pending.schema))

    def _key(self, lane: int, schema: SchemaHash, flags: Flags) -> FrameKey:
        key = FrameKey(self.source_id, self._epoch, self._seq, lane, schema, flags)
        self._seq += 1
        return key

    def _add(self, unit: Unit) -> None:
        self._units.append(unit)
        self._unit_bytes += _cost(unit)
        self._sealed += 1
        limit = self.options.max_memory_bytes
        while (
            self.options.overflow is Overflow.DROP_OLDEST
            and len(self._units) > 1
            and self._lane_bytes + self._unit_bytes > limit
        ):
            self._drop_oldest()

    def _correct(self) -> None:
        """Move what is in no frame yet to its right time, and record the correction for frames that have left."""
        correction = Correction(self._boot_id, self._time.offset_ms)
        self._corrected[correction.boot_id] = correction
        for pending in self._lanes.values():
            if pending.provisional is not None:
                shift = correction.shift(pending.provisional, pending.timestamps[0]) or 0
                pending.timestamps = [timestamp + shift for timestamp in pending.timestamps]
                pending.provisional, pending.flags = None, Flags.SYNCED
        if self._uncorrected:
            self.seal()
            key = self._key(0, NO_SCHEMA, Flags.SYNCED)
            self._add(Unit(key.epoch, key.seq, encode(key, [], [], [], correction=correction), None))
            self._uncorrected = False
            _log.info("clock synchronised, provisional samples corrected")

    def _new_epoch(self) -> None:
        self.seal()
        self._epoch = _new_epoch()
        self._seq = 0

    # To disk

    def commit(self) -> bool:
        """Seal, write everything and sync: one write, one fsync. Blocking; whether there was something to write.

        StorageError if the disk refuses: the frames stay in memory, and the next commit tries again.
        """
        with self._commit:
            with self._state:
                self.seal()
                batch = list(self._units)
            try:
                if batch:
                    self._disk.write(batch, self._clock.now(), self._boot_id, self._segment_bytes)
            except OSError as err:
                self._errors += 1
                error = explain(err, self.path, self.options.setting)
                if not self._last_error:
                    _log.error("log not written, samples stay in memory", error=error)
                self._last_error = str(error)
                raise error from err
            if self._last_error and batch:
                _log.info("log is written again", frames=len(batch))
                self._last_error = ""
            with self._state:
                self._committed(batch)
            self._retain()
            return bool(batch)

    @property
    def _segment_bytes(self) -> int:
        return max(4096, min(self.options.segment_bytes, self.options.retention_bytes // 8))

    def _committed(self, batch: list[Unit]) -> None:
        written = {(unit.epoch, unit.seq) for unit in batch}
        kept = deque(unit for unit in self._units if (unit.epoch, unit.seq) not in written)
        # What memory gave up while it was being written is not lost after all.
        self._dropped -= len(batch) - (len(self._units) - len(kept))
        self._units = kept
        self._unit_bytes = sum(map(_cost, kept))

    def _retain(self) -> None:
        oldest = Millis(self._clock.now() - self.options.retention_ms) if self._clock.synced() else None
        try:
            self._disk.retain(oldest, self.options.retention_bytes)
        except OSError as err:
            _log.warn("old segment not removed", error=err)

    def close(self) -> None:
        """Commit, end the segment and release the directory; idempotent. StorageError if the commit fails."""
        if self._closed:
            return
        self._closed = True
        try:
            self.commit()
        finally:
            self._disk.close()
            self._directory_lock.close()

    # Reading

    def read(self, have: Mapping[Epoch, RangeSet], order: Order | str, max_bytes: int) -> LogReply:
        """Seal, then frames that `have` lacks, at most `max_bytes` (but one at least). Blocking.

        Frames not committed yet are among them: (epoch, seq) is never reused, so a hub may keep what this device loses.
        """
        newest = Order(order) is Order.NEWEST
        with self._state:
            self.seal()
            units = list(self._units)
        missing = dict(have)
        frames: list[bytes] = []
        used = 0
        more = False

        def take(epoch: Epoch, seq: int, data: bytes) -> bool:
            nonlocal used, more
            if seq in missing.get(epoch, RangeSet()):
                return True
            if frames and used + len(data) > max_bytes:
                more = True
                return False
            frames.append(data)
            used += len(data)
            missing[epoch] = missing.get(epoch, RangeSet()).add(seq)
            return True

        def from_memory() -> bool:
            return all(take(u.epoch, u.seq, u.data) for u in (reversed(units) if newest else units))

        def from_disk() -> bool:
            return all(take(*item) for item in self._disk.frames(missing, newest))

        _ = (from_memory() and from_disk()) if newest else (from_disk() and from_memory())
        return LogReply(frames, self._available(units), more)

    def _available(self, units: list[Unit]) -> dict[Epoch, RangeSet]:
        held = self._disk.have()
        for unit in units:
            held[unit.epoch] = held.get(unit.epoch, RangeSet()).add(unit.seq)
        return dict(reversed(list(held.items())))

    def schema(self, digest: SchemaHash) -> bytes | None:
        """The whole schema of that hash, if a frame in the log uses it. Blocking."""
        with self._state:
            held = [*(u.schema for u in self._units), *(lane.schema for lane in self._lanes.values())]
            known = self._recent.get(digest) or next((s for s in held if s is not None and s.hash == digest), None)
        return encode_schema(known) if known is not None else self._disk.schema(digest)

    def between(self, start: int, end: int) -> tuple[Iterator[bytes], list[Pending]]:
        """Frames that may hold samples from `start` to `end` (ms, inclusive), and slots that are in none yet.

        Frames come oldest first, read as they are asked for; provisional ones are always among them. Seals nothing.
        """
        with self._state:
            pending = [
                Pending(p.schema, p.flags, p.provisional, p.timestamps[:], p.columns[:], p.presences[:])
                for p in self._lanes.values()
                if p.provisional is not None or (p.timestamps[0] <= end and p.timestamps[-1] >= start)
            ]
            units = list(self._units)
            disk = self._disk.between(start, end)
        return self._between(disk, units, start, end), pending

    def _between(
        self, disk: Iterator[tuple[Epoch, int, bytes]], units: list[Unit], start: int, end: int
    ) -> Iterator[bytes]:
        seen: set[tuple[Epoch, int]] = set()
        for epoch, seq, data in disk:
            if (epoch, seq) not in seen:
                seen.add((epoch, seq))
                yield data
        for unit in units:
            if (unit.epoch, unit.seq) not in seen and Entry.of(read_header(unit.data), 0).overlaps(start, end):
                yield unit.data

    def schemas_between(self, start: int, end: int) -> set[SchemaHash]:
        """Hashes of schemas that may have samples from `start` to `end`."""
        with self._state:
            found = {u.schema.hash for u in self._units if u.schema is not None}
            found.update(lane.schema.hash for lane in self._lanes.values())
            return found | self._disk.schemas(start, end)

    def corrections(self) -> dict[bytes, Correction]:
        """The latest correction by boot id."""
        with self._state:
            found = dict(self._disk.corrections)
            found.update(self._corrected)
            return found

    def stats(self) -> LogStats:
        """Counters and gauges, for metrics."""
        disk: DiskStats = self._disk.stats
        segments = list(self._disk.segments)
        firsts = [s.summary.first for s in segments if s.summary.first <= s.summary.last]
        return LogStats(
            disk_bytes=self._disk.size,
            memory_bytes=self._lane_bytes + self._unit_bytes,
            segments=len(segments),
            bytes_written=disk.bytes_written,
            commits=disk.syncs,
            frames_sealed=self._sealed,
            frames_expired=disk.frames_expired,
            frames_dropped=self._dropped,
            slots_refused=self._refused,
            frames_lost=disk.lost_frames,
            frames_recovered=disk.recovered_frames,
            bytes_lost=disk.lost_bytes,
            segments_quarantined=disk.quarantined_segments,
            write_errors=self._errors,
            paused=bool(self._last_error),
            last_error=self._last_error,
            clock_steps=self._time.steps,
            provisional=self._provisional,
            oldest=min(firsts) if firsts else None,
        )


def _cost(unit: Unit) -> int:
    return len(unit.data) + _UNIT_OVERHEAD


def _new_epoch() -> Epoch:
    return Epoch(int.from_bytes(os.urandom(8), "little"))


def _boot_id(clock: Clock) -> bytes:
    try:
        return bytes.fromhex(clock.boot_id()).ljust(16, b"\0")[:16]
    except ValueError:
        return bytes(16)
