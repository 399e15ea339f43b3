"""Samples of any age into a store, in batches of bounded memory, down to blocks."""

import numpy as np

from common.exposition.archive import Columns
from common.frames.model import SourceId
from common.sample import Millis
from common.tsdb.options import StoreOptions
from common.tsdb.store import Store

OPTIONS = StoreOptions(retention_ms=0)
"""What a store is opened with to import: nothing is too old."""
MAX_HELD = 2_000_000
"""Samples in memory before they are cut to blocks."""
MAX_BLOCKS = 256
"""Blocks beyond which they are compacted before more are made: each is an open file."""
NOBODY = SourceId(bytes(16))


class Importer:
    """Adds columns to a store that nobody else has open. What `add` took is durable when it returns.

    Samples that are there already stay as they are: adding the same again changes nothing.
    """

    def __init__(self, store: Store, max_held: int = MAX_HELD) -> None:
        self._store = store
        self._max_held = max_held
        self._series: set[int] = set()
        self.samples = 0
        self.first: Millis | None = None
        self.last: Millis | None = None

    @property
    def series(self) -> int:
        """Different label sets taken, by their hashes."""
        return len(self._series)

    def add(self, columns: Columns) -> None:
        """Take samples and metadata; LimitError or StorageError takes none of them."""
        times = np.frombuffer(columns.times, np.int64) if columns.times else np.empty(0, np.int64)
        if len(times):
            rows = np.frombuffer(columns.rows, np.int64).astype(np.intp)
            values = np.frombuffer(columns.values, np.float64)
            self._store.append_columns(columns.labels, rows, times, values)
            self.samples += len(times)
            self._series.update(map(hash, columns.labels))
            low, high = Millis(int(times.min())), Millis(int(times.max()))
            self.first = low if self.first is None else min(self.first, low)
            self.last = high if self.last is None else max(self.last, high)
        self._store.add_metadata(list(columns.meta.values()))
        self._store.commit()
        if self._store.stats().loose_samples >= self._max_held:
            self._cut()
            if len(self._store.blocks) > MAX_BLOCKS:
                self._store.maintain()

    def _cut(self) -> None:
        newest = self._store.stats().last
        if newest is not None:
            self._store.cut(newest + 1)

    def finish(self) -> None:
        """Move everything to blocks and merge those that overlap, so that the store opens fast."""
        self._cut()
        self._store.maintain()
