"""Native histograms in memory: a buffer as that of loose floats, whose values number encoded histograms."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.histogram import FloatHistogram, ResetHint
from common.labels import Labels, Matcher
from common.sample import STALE_NAN
from common.tsdb.index import Name, RowIndex
from common.tsdb.join import Piece
from common.tsdb.kinds import Pool, numbered
from common.tsdb.loose import Loose, LooseView, SeriesTable
from common.tsdb.native import Stored, decode, encode

STALE = b""
"""Stands for a staleness marker where an encoded histogram is expected."""
_BYTES_EACH = 64
"""Of an object of bytes in a list."""


@dataclass(frozen=True, slots=True, eq=False)
class HistogramView:
    """The buffer as it was when looked at."""

    loose: LooseView
    encoded: Sequence[bytes]
    count: int

    @property
    def times(self) -> list[NDArray[np.int64]]:
        """All timestamps, in no order."""
        return self.loose.times

    def words(self, start: int, end: int) -> NDArray[np.int64]:
        """About how many 8-byte words the histograms of each series between two times (inclusive) take in memory."""
        series = sum(len(index.rows) for _, index in self.loose.indexes)
        sizes = np.fromiter(map(len, self.encoded[: self.count]), np.int64, self.count)
        total = np.zeros(series, np.int64)
        for part in self.loose.parts:
            inside = (part.times >= start) & (part.times <= end)
            numbers = np.nan_to_num(part.values[inside]).astype(np.int64)
            # Integers below 256 take one byte there, a word here.
            weights = 32 + sizes[numbers]
            total += np.bincount(part.rows[inside], weights, series).astype(np.int64)
        return total

    def pieces(
        self, first: int, index: RowIndex, rows: NDArray[np.intp], start: int, end: int, pool: Pool
    ) -> Iterator[Piece[Name]]:
        """As LooseView.pieces, numbered by `pool`."""
        base = pool.place(self.encoded, self.count)
        for piece in self.loose.pieces(first, index, rows, start, end):
            yield numbered(piece, base)


class Histograms:
    """The buffer. Not thread-safe; views stay as they are."""

    def __init__(self, table: SeriesTable) -> None:
        """A buffer of series that `table` numbers, shared with the buffer of floats."""
        self._loose = Loose(table)
        self._encoded: list[bytes] = []
        self._bytes = 0
        self._last: dict[int, tuple[int, bytes]] = {}
        self._settled = -(1 << 63)

    @property
    def samples(self) -> int:
        """How many, staleness markers included."""
        return self._loose.samples

    @property
    def size(self) -> int:
        """Bytes held, without label sets."""
        return self._bytes + self._loose.size

    @property
    def bounds(self) -> tuple[int, int] | None:
        """Lowest and highest timestamp."""
        return self._loose.bounds

    @property
    def series(self) -> NDArray[np.int32]:
        """Numbers of the series that have samples, ascending."""
        return self._loose.series

    def encode(
        self, rows: Sequence[int], samples: Sequence[tuple[Labels, int, FloatHistogram | None, int]]
    ) -> list[bytes]:
        """Bytes of samples (labels, ms, histogram, start) of the series `rows`, noted; to be appended next."""
        out = []
        for row, (_, time, histogram, start) in zip(rows, samples, strict=True):
            each = STALE if histogram is None else encode(self.told(row, time, histogram, start))
            self.note(row, time, each)
            out.append(each)
        return out

    def told(self, number: int, time: int, histogram: FloatHistogram, start: int) -> Stored:
        """A histogram that is next to be appended, with the hint that follows from the newest one of its series.

        As Prometheus's storage has it: one that follows another without a counter reset says so.
        """
        last = self._last.get(number)
        late = time < self._settled if last is None else time <= last[0]
        if late or last is None or not last[1] or histogram.hint is not ResetHint.UNKNOWN:
            return Stored(histogram, 0, start, late)
        before = decode(last[1]).histogram
        if before.hint is ResetHint.GAUGE or histogram.resets_after(before):
            return Stored(histogram, 0, start)
        return Stored(histogram.with_hint(ResetHint.NOT_RESET), time - last[0], start)

    def note(self, number: int, time: int, encoded: bytes) -> None:
        """Remember a sample as the newest of its series, if it is."""
        last = self._last.get(number)
        if last is None or time > last[0]:
            # Where a block may have the sample that holds, nothing is said of the one that follows.
            self._last[number] = (time, encoded if time >= self._settled else STALE)

    def settle(self, before: int) -> None:
        """Know that blocks may have samples below `before`."""
        self._settled = max(self._settled, before)

    def append(self, rows: NDArray[np.int32], times: NDArray[np.int64], encoded: Sequence[bytes], arrival: int) -> None:
        """Add samples that arrive together and were noted; of equal (row, time) the first counts."""
        values = np.arange(len(self._encoded), len(self._encoded) + len(encoded), dtype=np.float64)
        values[[not each for each in encoded]] = STALE_NAN
        self._loose.append(rows, times, values, arrival)
        self._encoded.extend(encoded)
        self._bytes += sum(map(len, encoded)) + _BYTES_EACH * len(encoded)

    def view(self) -> HistogramView:
        """The content as it is now."""
        return HistogramView(self._loose.view(), self._encoded, len(self._encoded))

    def delete(self, matchers: Sequence[Matcher], start: int, end: int) -> None:
        """Drop samples between two times (inclusive) of series that satisfy every matcher."""
        self._loose.delete(matchers, start, end)
        self._compact()
        # Others may come in the place of what is gone.
        self._last = {number: (time, STALE) for number, (time, _) in self._last.items()}

    def drop(self, before: int, arrival: int) -> bool:
        """Drop samples below `before` that came before `arrival`; whether there were any."""
        if self.bounds is not None:
            self.settle(min(before, self.bounds[1] + 1))
        gone = self._loose.drop(before, arrival)
        if gone:
            self._compact()
        return gone

    def renumber(self, table: SeriesTable, used: NDArray[np.intp]) -> None:
        """Take another table, which numbers the series `used` of the old one anew, from 0 on."""
        self._loose.renumber(table, used)
        new = {old: number for number, old in enumerate(used.tolist())}
        self._last = {new[number]: each for number, each in self._last.items() if number in new}

    def _compact(self) -> None:
        """Let go of what no sample numbers any more."""
        numbers = self._loose.values
        if len(numbers) == len(self._encoded):
            return
        real = np.flatnonzero(~np.isnan(numbers))
        kept = [STALE] * len(numbers)
        for at in real.tolist():
            kept[at] = self._encoded[int(numbers[at])]
        numbers[real] = real
        self._loose.revalue(numbers)
        self._encoded = kept
        self._bytes = sum(map(len, kept)) + _BYTES_EACH * len(kept)
