"""Takes remote write requests, 1.0 and 2.0: unpacks, checks and appends them off the event loop, durably.

A request is answered when its samples are readable and on the disk. Exemplars and start timestamps of floats are not
kept; of the latter there may be zero samples (`zeros.py`). What can't be taken of a request (labels, times, malformed
histograms) is left out and named; the rest is stored.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge

from common.clock import Clock
from common.errors import BusyError, FormatError, LimitError, StorageError
from common.histogram import FloatHistogram
from common.labels import Labels
from common.remote import snappy
from common.remote.write import MAX_CACHED_SERIES, Decoder, WriteRequest
from common.sample import MetricMeta, Millis, is_stale
from common.tsdb.native import Stored, check_histogram
from common.tsdb.options import StoreOptions
from hub.intake.zeros import Started, Zeros

MAX_BODY_BYTES = 16 * 2**20
MAX_UNPACKED_BYTES = 64 * 2**20
MAX_WAITING = 256
MAX_WAITING_BYTES = 64 * 2**20
"""Requests, and bytes of their bodies, that may be waiting or being taken; beyond, refused at once."""
MAX_FUTURE_MS = 10 * 60_000
"""How far ahead of the clock a sample may be, as in Prometheus."""
SHOWN_REFUSALS = 3
SLICE = 1 << 20
HISTOGRAM_SLICE, WORD_SLICE = 1 << 14, 1 << 20
"""Samples, and histograms and their 8-byte words, appended at once.

Of a longer request each slice but the last is committed before the next.
"""


class Version(StrEnum):
    """Versions of the protocol by the message they send."""

    V1 = "prometheus.WriteRequest"
    V2 = "io.prometheus.write.v2.Request"


class TooLargeError(FormatError):
    """A request whose content is longer than MAX_UNPACKED_BYTES."""


Native = tuple[Labels, int, FloatHistogram | None, int]
"""Labels, ms, histogram (None: staleness marker), start timestamp (0: none)."""


class LooseStore(Protocol):
    """The part of the store that this needs; all methods block."""

    def append_columns(
        self, labels: Sequence[Labels], rows: NDArray[np.intp], times: NDArray[np.int64], values: NDArray[np.float64]
    ) -> int:
        """Take samples: i (ms) is one of the series labels[rows[i]]; LimitError or StorageError refuse all of them."""
        ...

    def append_histograms(self, samples: Sequence[Native]) -> int:
        """Take native histograms; as `append_columns`, and FormatError for one that the store can't keep."""
        ...

    def add_metadata(self, metas: Sequence[MetricMeta]) -> None:
        """Keep metadata of metric families."""
        ...

    def commit(self) -> None:
        """Make everything durable; StorageError."""
        ...


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a request: samples and native histograms taken, and why others were refused."""

    samples: int
    histograms: int
    refused: Sequence[str]

    def problem(self) -> str:
        """The refusals as one text; empty if there was none."""
        if not self.refused:
            return ""
        more = len(self.refused) - SHOWN_REFUSALS
        return "; ".join(self.refused[:SHOWN_REFUSALS]) + (f"; and {more} more" if more > 0 else "")


class Receiver:
    """Takes requests one after the other on `executor`, which must have one thread; those that wait share commits."""

    def __init__(
        self,
        store: LooseStore,
        options: StoreOptions,
        executor: Executor,
        clock: Clock,
        registry: CollectorRegistry,
        committing: Executor | None = None,
        remembered: int = MAX_CACHED_SERIES,
        zeros: Zeros | None = None,
    ) -> None:
        """Commits run on `committing`, or on `executor` without it; `remembered` bounds the label sets kept decoded.

        `zeros` writes zero samples at the start timestamps of 2.0.
        """
        self._store = store
        self._zeros = zeros
        self._options = options
        self._executor = executor
        self._committing = committing or executor
        self._clock = clock
        self._decoder = Decoder(remembered, self._over_limit)
        self._waiting = 0
        self._bytes = 0
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None
        self._samples = Counter("bramble_hub_remote_write_samples", "Samples taken.", registry=registry)
        self._refused = Counter(
            "bramble_hub_remote_write_refused", "Samples and series refused, by reason.", ["reason"], registry=registry
        )
        self._histograms = Counter("bramble_hub_remote_write_histograms", "Native histograms taken.", registry=registry)
        Gauge("bramble_hub_remote_write_waiting", "Requests that wait.", registry=registry).set_function(
            lambda: self._waiting
        )

    async def take(self, body: bytes, version: Version) -> Taken:
        """Store a Snappy-packed request durably; FormatError: nothing of it is stored, BusyError: try again later."""
        if self._waiting >= MAX_WAITING or (self._waiting and self._bytes + len(body) > MAX_WAITING_BYTES):
            raise BusyError(f"{self._waiting} remote write requests are waiting already; try again later")
        self._waiting += 1
        self._bytes += len(body)
        try:
            taken = await asyncio.get_running_loop().run_in_executor(self._executor, self._take, body, version)
            await self._durable()
        finally:
            self._waiting -= 1
            self._bytes -= len(body)
        return taken

    async def _durable(self) -> None:
        """Commit; requests that come while a commit runs share the next one."""
        if self._next is None:
            self._next = asyncio.create_task(self._commit())
        # That one client goes away must not take the commit from the others.
        await asyncio.shield(self._next)

    async def _commit(self) -> None:
        async with self._turn:
            self._next = None
            await asyncio.get_running_loop().run_in_executor(self._committing, self._store.commit)

    def _take(self, body: bytes, version: Version) -> Taken:
        try:
            data = snappy.decompress(body, MAX_UNPACKED_BYTES)
        except LimitError as err:
            raise TooLargeError(str(err)) from None
        request = self._decoder.decode_v1(data) if version is Version.V1 else self._decoder.decode_v2(data)
        refused = list(request.refused)
        self._refused.labels("labels").inc(len(refused))
        rows = np.repeat(np.arange(len(request.series)), np.diff(request.bounds).astype(np.intp))
        fine = self._fine(request, rows, refused)
        if not fine.all():
            rows = rows[fine]
        self._store.add_metadata(request.metadata)
        if self._zeros is not None and version is Version.V2:
            self._zeros.take(list(_started(request, fine)))
        self._append(request.series, rows, request.timestamps[fine], request.values[fine])
        self._samples.inc(len(rows))
        histograms = self._take_histograms(request, refused) if request.histograms else 0
        return Taken(len(rows), histograms, refused)

    def _take_histograms(self, request: WriteRequest, refused: list[str]) -> int:
        """Append histograms; how many. Why others can't be is added to `refused`."""
        latest = self._latest()
        found: list[Native] = []
        for row, samples in request.histograms.items():
            labels = request.series[row]
            for sample in samples:
                if not 0 <= sample.timestamp <= latest:
                    refused.append(f"out of bounds: a histogram of {labels} is before 1970 or too far in the future")
                    self._refused.labels("out_of_bounds").inc()
                    continue
                try:
                    histogram = sample.histogram()
                    if histogram is not None:
                        check_histogram(histogram, labels, self._options.max_histogram_buckets)
                except FormatError as err:
                    refused.append(f"invalid histogram of {labels} at {sample.timestamp}: {err}")
                    self._refused.labels("histogram").inc()
                    continue
                found.append((labels, sample.timestamp, histogram, sample.start))
        for number, part in enumerate(_slices(found)):
            if number:
                self._store.commit()
            self._again(lambda part=part: self._store.append_histograms(part))  # type: ignore[misc]
        self._histograms.inc(len(found))
        return len(found)

    def _again(self, append: Callable[[], int]) -> None:
        """Append; where the store is full or paused, commit first and try once more."""
        try:
            append()
        except (BusyError, StorageError):
            # What is pending may be others' and need not wait for their window; and a store that paused since the
            # disk was full goes on after a commit.
            self._store.commit()
            append()

    def _latest(self) -> int:
        """The newest time that is taken."""
        return self._clock.now() + MAX_FUTURE_MS if self._clock.synced() else 2**63 - 1

    def _append(
        self,
        series: Sequence[Labels],
        rows: NDArray[np.intp],
        times: NDArray[np.int64],
        values: NDArray[np.float64],
    ) -> None:
        for at in range(0, len(rows), SLICE):
            part = slice(at, at + SLICE)
            used, own = np.unique(rows[part], return_inverse=True)
            columns = [series[row] for row in used.tolist()], own, times[part], values[part]
            if at:
                self._store.commit()
            self._again(lambda columns=columns: self._store.append_columns(*columns))  # type: ignore[misc]

    def _fine(self, request: WriteRequest, rows: NDArray[np.intp], refused: list[str]) -> NDArray[np.bool_]:
        """Which samples to take; why others can't be is added to `refused`."""
        times = request.timestamps
        latest = self._latest()
        fine: NDArray[np.bool_] = (times >= 0) & (times <= latest)
        for row, bad in zip(*np.unique(rows[~fine], return_counts=True), strict=True):
            labels = request.series[row]
            refused.append(f"out of bounds: {bad} samples of {labels} are before 1970 or too far in the future")
            self._refused.labels("out_of_bounds").inc(int(bad))
        return fine

    def _over_limit(self, labels: Labels) -> str:
        limits = self._options
        if len(labels) > limits.max_labels:
            return f"{labels.name} has {len(labels)} labels; at most {limits.max_labels} are taken"
        for name, value in labels:
            if len(name) > limits.max_label_name_bytes or len(value) > limits.max_label_value_bytes:
                return f"label {name[:40]!r} of {labels.name[:40]} is longer than the store takes"
        return ""


def _slices(samples: Sequence[Native]) -> Iterator[Sequence[Native]]:
    """Parts of at most HISTOGRAM_SLICE histograms and WORD_SLICE words, unless one alone has more."""
    begin = words = 0
    for at, (_, _, histogram, _) in enumerate(samples):
        more = 0 if histogram is None else Stored(histogram).words
        if at - begin >= HISTOGRAM_SLICE or (at > begin and words + more > WORD_SLICE):
            yield samples[begin:at]
            begin, words = at, 0
        words += more
    if begin < len(samples):
        yield samples[begin:]


def _started(request: WriteRequest, fine: NDArray[np.bool_]) -> Iterator[Started]:
    """Of every series with a start the first sample behind it; `fine` as `Receiver._fine` has it."""
    if request.starts is not None:
        for row, (begin, end) in enumerate(pairwise(request.bounds.tolist())):
            inside = np.flatnonzero(fine[begin:end] & (request.starts[begin:end] > 0)) + begin
            if len(inside):
                start = int(request.starts[inside].max())
                times = request.timestamps[inside]
                if (times > start).any():
                    yield Started(request.series[row], start, int(times[times > start].min()))
    for row, samples in request.histograms.items():
        known = [each for each in samples if each.created or each.start]
        start = max((each.start or each.created for each in known), default=Millis(0))
        later = [each for each in known if each.timestamp > start and not is_stale(each.sum)]
        if later:
            first = min(later, key=lambda each: each.timestamp)
            with suppress(FormatError):  # which is said where the histogram itself is taken
                yield Started(request.series[row], start, first.timestamp, first.histogram())
