"""Turns rows that share a timestamp (a scrape, a rule group's results) into frames of the hub's own."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import LimitError, StorageError
from common.frames.codec import Slot
from common.frames.model import (
    ABSENT,
    PRESENT,
    STALE,
    Epoch,
    Flags,
    FrameKey,
    Schema,
    SourceId,
    SubSchema,
)
from common.histogram import FloatHistogram
from common.labels import Labels
from common.sample import STALE_NAN, STALE_NAN_BITS, MetricMeta, Millis
from common.tsdb.options import Outcome
from common.tsdb.store import Store

MAX_PARTS = 16
"""Parts of a schema before it is written anew without the rows that are gone."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a write did: samples stored, rows whose label set was there before them, series that became stale."""

    samples: int
    duplicates: int
    stale: int


class SourceWriter:
    """Writes one source. Not thread-safe; one writer a source. Each writer begins a new epoch.

    A row's labels hold over target labels of the same name. A series of the write before that is missing in this one
    gets a staleness marker at this timestamp.
    """

    def __init__(
        self, store: Store, source: SourceId, target_labels: Labels, *, lane: int = 0, synced: bool = True
    ) -> None:
        self._store = store
        self._source = source
        self._lane = lane
        self._flags = Flags.SYNCED if synced else Flags(0)
        self._epoch = Epoch(int.from_bytes(os.urandom(8), "little"))
        self._seq = 0
        self._column: dict[Labels, int] = {}
        self._parts: list[SubSchema] = []
        self._schema = Schema(())
        self._meta: tuple[MetricMeta, ...] = ()
        self._live = np.zeros(0, np.bool_)
        self._last: list[Labels] = []
        self._last_columns = np.zeros(0, np.intp)
        self._last_duplicates = 0
        self._native: set[Labels] = set()
        """Full label sets whose last sample is a native histogram."""
        self._whole = False
        """Whether such a write has a value for every column."""
        store.set_target(source, target_labels)

    def set_target(self, labels: Labels) -> None:
        """Change the target labels; the old series get staleness markers with the next `stale_all` only."""
        self._store.set_target(self._source, labels)

    def write(
        self,
        timestamp: Millis,
        rows: Sequence[tuple[Labels, float]],
        meta: Sequence[MetricMeta] = (),
        histograms: Sequence[tuple[Labels, FloatHistogram, int]] = (),
    ) -> Written:
        """Store one value a row, all at `timestamp` (STALE_NAN marks a series as stale); of equal label sets the first.

        `histograms` are rows with native ones, and their start timestamps (0: none). LimitError or StorageError if the
        store refuses: nothing of rows is then stored; FormatError for a histogram that it can't keep: nothing at all.
        """
        if histograms or self._native:
            self._send_histograms(timestamp, rows, histograms)
        given = np.fromiter((value for _, value in rows), np.float64, len(rows))
        return self._write(timestamp, [labels for labels, _ in rows], given, tuple(meta))

    def write_columns(
        self, timestamp: Millis, keys: list[Labels], given: NDArray[np.float64], meta: tuple[MetricMeta, ...] = ()
    ) -> Written:
        """As `write`, with `given[i]` for `keys[i]`. Cheapest with the very objects of the last write, unchanged."""
        if self._native:
            return self.write(timestamp, list(zip(keys, given.tolist(), strict=True)), meta)
        return self._write(timestamp, keys, given, meta)

    def _write(
        self, timestamp: Millis, keys: list[Labels], given: NDArray[np.float64], meta: tuple[MetricMeta, ...]
    ) -> Written:
        if (keys is not self._last and keys != self._last) or (meta is not self._meta and meta != self._meta):
            self._arrange(keys, meta)
        ended = given.view(np.uint64) == STALE_NAN_BITS
        columns = self._last_columns
        values = np.zeros(len(self._live))
        if self._whole and not ended.any():
            values[columns] = given
            self._send(timestamp, values, None)
            self._live = np.ones(len(values), np.bool_)
            return Written(len(values), 0, 0)
        # The first of equal label sets counts, and of repeated indexes numpy keeps the last.
        values[columns[::-1]] = given[::-1]
        presence = np.full(len(values), ABSENT, np.uint8)
        presence[columns] = PRESENT
        presence[(values.view(np.uint64) == STALE_NAN_BITS) & (presence == PRESENT)] = STALE
        marked = self._live & (presence == ABSENT)
        presence[marked] = STALE
        self._send(timestamp, values, presence)
        self._live = presence == PRESENT
        return Written(int(self._live.sum()), self._last_duplicates, int(marked.sum()))

    def stale_all(self, timestamp: Millis) -> int:
        """Mark every live series as stale, as when a target goes away; how many."""
        count = int(self._live.sum()) + len(self._native)
        self._send_histograms(timestamp, (), ())
        if self._live.any():
            values = np.full(len(self._live), STALE_NAN)
            self._send(timestamp, values, np.where(self._live, STALE, ABSENT).astype(np.uint8))
            self._live = np.zeros_like(self._live)
        return count

    def _send_histograms(
        self,
        timestamp: Millis,
        rows: Sequence[tuple[Labels, float]],
        histograms: Sequence[tuple[Labels, FloatHistogram, int]],
    ) -> None:
        """Append histograms, and markers where there was one before and is no sample now.

        They come before the floats: of one timestamp the first counts, and a series that had a float before is marked
        as stale among the floats.
        """
        target = self._store.target(self._source)
        samples: list[tuple[Labels, int, FloatHistogram | None, int]] = [
            (target.merge(labels), timestamp, histogram, start) for labels, histogram, start in histograms
        ]
        live = {labels for labels, _, _, _ in samples}
        if gone := self._native - live:
            gone -= {target.merge(labels) for labels, _ in rows}
            samples += [(labels, timestamp, None, 0) for labels in sorted(gone)]
        if samples:
            self._store.append_histograms(samples)
        self._native = live

    def forget(self) -> None:
        """Let the live series go without staleness markers, as for samples with timestamps of their own."""
        self._live = np.zeros_like(self._live)
        self._native = set()

    def _arrange(self, keys: list[Labels], meta: tuple[MetricMeta, ...]) -> None:
        """Have a column for every label set in `keys`: those that are new make one more part of the schema."""
        new = [key for key in dict.fromkeys(keys) if key not in self._column]
        parts, live = list(self._parts), self._live
        column = self._column
        if new or meta != self._meta:
            gone = len(column) - len(set(keys))
            if len(parts) >= MAX_PARTS or meta != self._meta or gone > len(keys):
                # Rows that still live stay, so that they can be marked as stale.
                alive = [key for key, at in column.items() if live[at]]
                order = list(dict.fromkeys([*keys, *alive]))
                live = np.array([key in column and bool(live[column[key]]) for key in order], np.bool_)
                column = {key: at for at, key in enumerate(order)}
                parts = [SubSchema("rows", tuple(order), meta)]
            else:
                column = {**column, **{key: len(column) + at for at, key in enumerate(new)}}
                live = np.concatenate((live, np.zeros(len(new), np.bool_)))
                parts.append(SubSchema(f"rows{len(parts)}", tuple(new)))
            schema = Schema(tuple(parts))
            if not self._store.has_schema(schema.hash):
                self._store.add_own_schema(schema)
            self._schema = schema
        self._parts, self._live, self._column, self._meta = parts, live, column, meta
        self._last = keys
        self._last_columns = np.fromiter((column[key] for key in keys), np.intp, len(keys))
        self._last_duplicates = len(keys) - len(set(keys))
        self._whole = len(keys) == len(live) and not self._last_duplicates

    def _send(self, timestamp: Millis, values: NDArray[np.float64], presence: NDArray[np.uint8] | None) -> None:
        """`presence` None: all PRESENT."""
        if not len(values):
            return
        key = FrameKey(self._source, self._epoch, self._seq, self._lane, self._schema.hash, self._flags)
        if presence is not None:
            values = np.where(presence == PRESENT, values, 0.0)
        slot = Slot(key, timestamp, values, presence)
        result = self._store.append_slot(slot)
        if result.reason == "unknown_schema":
            # Dropped as unused since the last write.
            self._store.add_own_schema(self._schema)
            result = self._store.append_slot(slot)
        if result.reason == "paused":
            raise StorageError(f"storage is paused: {result.detail}")
        if result.reason == "max_schemas_per_hour":
            there = np.full(len(values), PRESENT, np.uint8) if presence is None else presence
            self._send_loose(timestamp, values, there)
        elif result.outcome is not Outcome.ACCEPTED:
            raise LimitError(f"samples refused: {result.detail} (limit {result.reason})")
        else:
            self._seq += 1

    def _send_loose(self, timestamp: Millis, values: NDArray[np.float64], presence: NDArray[np.uint8]) -> None:
        """What too many schemas would cost: each sample on its own."""
        target = self._store.target(self._source)
        rows = list(self._column)
        self._store.append_loose(
            self._source,
            [
                (target.merge(rows[at]), timestamp, STALE_NAN if presence[at] == STALE else float(values[at]))
                for at in np.flatnonzero(presence != ABSENT).tolist()
            ],
        )
