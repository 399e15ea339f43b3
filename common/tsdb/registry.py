"""What the store knows of sources and schemas: target-label versions, had ranges, and which rows matchers choose."""

from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from common.frames.model import Epoch, Schema, SchemaHash, SourceId
from common.frames.ranges import EMPTY, RangeSet
from common.labels import Labels, Matcher
from common.tsdb.clocks import SourceClock
from common.tsdb.head import Chunk
from common.tsdb.index import LabelCache, RowIndex, Target

MAX_EPOCHS = 1024
"""Epochs of a source whose ranges are remembered; the oldest is forgotten first."""
MAX_ASKED = 1024
"""Sets of matchers whose answers are kept for each schema and target."""
MAX_ANSWERS = 10_000
"""Schemas and targets of one set of matchers; beyond, it starts over."""
MOST_ANSWERS = 200_000
"""Of all sets of matchers; beyond, what was used longest ago goes."""
MAX_CHECKSUMS = 4096
"""Frames of an epoch whose checksums are remembered, to tell a repeat from a clash."""


class StoredSchema:
    """A schema with the indexes of its parts, which are shared by all schemas that contain them."""

    __slots__ = ("_metrics", "encoded", "hash", "offsets", "parts", "rows", "schema", "used")

    def __init__(self, schema: Schema, encoded: bytes, parts: Sequence[RowIndex]) -> None:
        self.schema = schema
        self.hash: SchemaHash = schema.hash
        self.encoded = encoded
        self.parts = parts
        self.rows = schema.rows
        self.used = 0.0
        """Monotonic seconds when it was last known to be in use."""
        self._metrics: dict[str, list[int]] | None = None
        self.offsets = np.cumsum([0, *(len(part.rows) for part in parts)])

    def metrics(self) -> dict[str, list[int]]:
        """Columns by metric name."""
        if self._metrics is None:
            found: dict[str, list[int]] = {}
            for column, labels in enumerate(self.schema.labels()):
                found.setdefault(labels.name, []).append(column)
            # Whole at once: upkeep and requests ask for it at the same time.
            self._metrics = found
        return self._metrics

    def selection(self, metrics: Collection[str]) -> "Selection | None":
        """The rows of metrics with these names."""
        found = [column for name, columns in self.metrics().items() if name in metrics for column in columns]
        if not found:
            return None
        columns = np.sort(np.array(found, np.intp))
        part_of = np.searchsorted(self.offsets, columns, "right") - 1
        # Empty parts share their offset with the next one: the last of them owns the column.
        parts = [
            (self.parts[part], columns[part_of == part] - self.offsets[part]) for part in np.unique(part_of).tolist()
        ]
        return Selection(columns, parts)

    def prints(self, target: Target) -> NDArray[np.uint64]:
        """Prints of all rows under `target`."""
        return np.concatenate([part.prints(target) for part in self.parts])


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """Rows of a schema that matchers chose: `columns` intp, ascending, and the same by part."""

    columns: NDArray[np.intp]
    parts: Sequence[tuple[RowIndex, NDArray[np.intp]]]
    _prints: dict[int, NDArray[np.uint64]] = field(default_factory=dict, repr=False)

    def prints(self, target: Target) -> NDArray[np.uint64]:
        """Prints of the chosen rows under `target`."""
        found = self._prints.get(target.serial)
        if found is None:
            if len(self._prints) >= MAX_ANSWERS:
                self._prints.clear()
            found = np.concatenate([index.prints(target)[rows] for index, rows in self.parts])
            self._prints[target.serial] = found
        return found

    def only(self, keep: NDArray[np.bool_]) -> "Selection | None":
        """Those of the rows; None if there are none."""
        if keep.all():
            return self
        if not keep.any():
            return None
        parts, at = [], 0
        for index, rows in self.parts:
            mine = rows[keep[at : at + len(rows)]]
            at += len(rows)
            if len(mine):
                parts.append((index, mine))
        return Selection(self.columns[keep], parts)

    def names(self) -> list[tuple[RowIndex, int]]:
        """Index and row in it of each chosen row."""
        return [(index, row) for index, rows in self.parts for row in rows.tolist()]

    def labels(self, positions: NDArray[np.intp], target: Target, cache: LabelCache) -> list[Labels]:
        """Full label sets of the rows at `positions` among the chosen."""
        if len(self.parts) == 1:
            index, rows = self.parts[0]
            return cache.get(index, target, rows[positions])
        bounds = np.cumsum([0, *(len(rows) for _, rows in self.parts)])
        part_of = np.searchsorted(bounds, positions, "right") - 1
        out: list[Labels | None] = [None] * len(positions)
        for part in np.unique(part_of).tolist():
            index, rows = self.parts[part]
            mine = np.flatnonzero(part_of == part)
            found = cache.get(index, target, rows[positions[mine] - bounds[part]])
            for at, labels in zip(mine.tolist(), found, strict=True):
                out[at] = labels
        return [labels for labels in out if labels is not None]


class Selector:
    """Runs matchers over schemas, once per (matchers, schema, outcomes on the target); keeps the latest answers."""

    def __init__(self, limit: int = 4096) -> None:
        self._limit = limit
        self._found: OrderedDict[tuple[object, ...], Selection | None] = OrderedDict()
        self._answers: OrderedDict[tuple[Matcher, ...], dict[tuple[SchemaHash, int], Selection | None]] = OrderedDict()

    def select(self, schema: StoredSchema, matchers: tuple[Matcher, ...], target: Target) -> Selection | None:
        """The rows of `schema` that satisfy all matchers under `target`; None for no row."""
        outcomes = target.outcomes(matchers)
        key = (schema.hash, matchers, outcomes)
        try:
            found = self._found[key]
            self._found.move_to_end(key)
        except KeyError:
            found = self._found[key] = _select(schema, matchers, outcomes)
            while len(self._found) > self._limit:
                self._found.popitem(last=False)
        return found

    def answers(self, matchers: tuple[Matcher, ...]) -> "dict[tuple[SchemaHash, int], Selection | None]":
        """What `select` said for these matchers, by schema and target serial; for the caller to fill."""
        table = self._answers.pop(matchers, None)
        if table is None or len(table) > MAX_ANSWERS:
            table = {}
        self._answers[matchers] = table
        count = sum(map(len, self._answers.values()))
        while len(self._answers) > MAX_ASKED or (count > MOST_ANSWERS and len(self._answers) > 1):
            count -= len(self._answers.popitem(last=False)[1])
        return table

    def clear(self) -> None:
        """Forget all answers."""
        self._found.clear()
        self._answers.clear()


def _select(schema: StoredSchema, matchers: Sequence[Matcher], outcomes: Sequence[bool]) -> Selection | None:
    parts = []
    columns = []
    for index, offset in zip(schema.parts, schema.offsets.tolist(), strict=False):
        rows = index.match(matchers, outcomes)
        if len(rows):
            parts.append((index, rows))
            columns.append(rows + offset)
    return Selection(np.concatenate(columns), parts) if parts else None


@dataclass(frozen=True, slots=True)
class Held:
    """Samples that wait for the correction of `boot`: since when (monotonic s), and where in the log they begin.

    `place()` is the number of the log's segment; they stay in the head, and their records in the log.
    """

    boot: bytes
    since: float
    place: Callable[[], int]


class Strand:
    """Chunks of one lane of a source under one schema and one version of its target labels; the last one may grow.

    `newest` is the highest timestamp it has had: samples leave for packs, their series stay known until a cut.
    """

    __slots__ = ("chunks", "held", "lane", "newest", "schema", "target")

    def __init__(self, lane: int, schema: StoredSchema, target: Target, held: Held | None = None) -> None:
        self.lane = lane
        self.schema = schema
        self.target = target
        self.held = held
        self.chunks: list[Chunk] = []
        self.newest = -(1 << 63)


class Ledger:
    """Frames of one source that were taken: ranges by epoch, durable and not yet, with the latest checksums."""

    __slots__ = ("_checksums", "_pending", "durable")

    def __init__(self) -> None:
        self.durable: dict[Epoch, RangeSet] = {}
        self._pending: dict[Epoch, set[int]] = {}
        self._checksums: dict[Epoch, tuple[array[int], array[int]]] = {}

    def __contains__(self, key: tuple[Epoch, int]) -> bool:
        epoch, seq = key
        return seq in self.durable.get(epoch, EMPTY) or seq in self._pending.get(epoch, ())

    def checksum(self, epoch: Epoch, seq: int) -> int | None:
        """The checksum that the frame was taken with, if it is remembered."""
        seqs, crcs = self._checksums.get(epoch, (None, None))
        if seqs is None or crcs is None:
            return None
        at = bisect_left(seqs, seq)
        return crcs[at] if at < len(seqs) and seqs[at] == seq else None

    def take(self, epoch: Epoch, seq: int, crc: int | None) -> None:
        """Note a frame as taken, not yet durable; `crc` None: nobody else could send it."""
        self._pending.setdefault(epoch, set()).add(seq)
        if crc is None:
            return
        seqs, crcs = self._checksums.setdefault(epoch, (array("Q"), array("I")))
        at = bisect_left(seqs, seq)
        seqs.insert(at, seq)
        crcs.insert(at, crc)
        if len(seqs) > MAX_CHECKSUMS:
            del seqs[0], crcs[0]
        while len(self._checksums) > MAX_EPOCHS:
            del self._checksums[next(iter(self._checksums))]

    def taken(self) -> dict[Epoch, RangeSet]:
        """All that was taken, durable or not."""
        out = dict(self.durable)
        for epoch, seqs in self._pending.items():
            out[epoch] = out.get(epoch, EMPTY).union(RangeSet.of(*seqs))
        return out

    def settle(self, epoch: Epoch, seq: int) -> None:
        """Note a frame as durable."""
        waiting = self._pending.get(epoch)
        if waiting is not None:
            waiting.discard(seq)
            if not waiting:
                del self._pending[epoch]
        self.durable[epoch] = self.durable.get(epoch, EMPTY).add(seq)
        while len(self.durable) > MAX_EPOCHS:
            del self.durable[next(iter(self.durable))]

    def restore(self, have: Mapping[Epoch, RangeSet]) -> None:
        """Add ranges that a log remembered."""
        for epoch, ranges in have.items():
            self.durable[epoch] = self.durable.get(epoch, EMPTY).union(ranges)


class Source:
    """One source: its target labels (latest version last), ledger and strands."""

    __slots__ = ("clock", "id", "ledger", "prints", "schema_times", "schemas", "strands", "targets")

    def __init__(self, source: SourceId) -> None:
        self.id = source
        self.targets: list[Target] = []
        self.ledger = Ledger()
        self.clock = SourceClock()
        self.strands: dict[tuple[int, SchemaHash, int, bytes], Strand] = {}
        """By lane, schema, serial of the target, and the boot whose correction they wait for (b"" for none)."""
        self.schemas: set[SchemaHash] = set()
        self.schema_times: list[float] = []
        self.prints: NDArray[np.uint64] = np.empty(0, np.uint64)

    @property
    def target(self) -> Target:
        """The target labels that hold now."""
        if not self.targets:
            self.targets.append(Target(Labels()))
        return self.targets[-1]

    def set_target(self, labels: Labels) -> bool:
        """Make `labels` the target labels from now on; False if they are already."""
        if self.targets and self.targets[-1].labels == labels:
            return False
        for target in self.targets:
            if target.labels == labels:
                self.targets.remove(target)
                self.targets.append(target)
                return True
        self.targets.append(Target(labels))
        return True

    def series_with(self, schema: StoredSchema) -> NDArray[np.uint64]:
        """Prints of this source's series if `schema` came to them."""
        return np.union1d(self.prints, schema.prints(self.target))


class Schemas:
    """All known schemas; equal sub-schemas share one index."""

    def __init__(self) -> None:
        self._schemas: dict[SchemaHash, StoredSchema] = {}
        self._parts: dict[SchemaHash, RowIndex] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._schemas

    def __len__(self) -> int:
        return len(self._schemas)

    def __iter__(self) -> Iterator[StoredSchema]:
        return iter(list(self._schemas.values()))

    def get(self, key: SchemaHash) -> StoredSchema | None:
        """The schema with that hash."""
        return self._schemas.get(key)

    def add(self, schema: Schema, encoded: bytes) -> StoredSchema:
        """Keep a schema, once."""
        stored = self._schemas.get(schema.hash)
        if stored is None:
            parts = []
            for part in schema.parts:
                index = self._parts.get(part.hash)
                if index is None:
                    index = self._parts[part.hash] = RowIndex(part.rows)
                parts.append(index)
            stored = self._schemas[schema.hash] = StoredSchema(schema, encoded, parts)
        return stored

    def discard(self, unused: Sequence[SchemaHash]) -> None:
        """Forget schemas, and parts that no schema has any more."""
        for key in unused:
            self._schemas.pop(key, None)
        alive = {part.hash for stored in self._schemas.values() for part in stored.schema.parts}
        self._parts = {key: index for key, index in self._parts.items() if key in alive}
