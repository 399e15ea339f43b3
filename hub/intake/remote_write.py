"""Takes remote write requests, 1.0 and 2.0: unpacks, checks and appends them off the event loop.

A request is answered when its samples are readable; they are durable with the next commit, as everything that is
scraped. Metadata, exemplars and start timestamps are not kept. Native histograms are not stored yet: they are counted
and left out, and the answer to a 2.0 sender says so.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, repeat
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge

from common.clock import Clock
from common.errors import FormatError, LimitError
from common.frames.model import SourceId
from common.labels import Labels
from common.logs import EventLog
from common.remote import snappy
from common.remote.write import Decoder, WriteRequest
from common.tsdb.options import StoreOptions

MAX_BODY_BYTES = 16 * 2**20
MAX_UNPACKED_BYTES = 64 * 2**20
MAX_WAITING = 16
"""Requests that may wait for the one that is being taken; beyond, 429 at once."""
MAX_FUTURE_MS = 10 * 60_000
"""How far ahead of the clock a sample may be, as in Prometheus."""
SHOWN_REFUSALS = 3

WRITER = SourceId(b"remote-write\0\0\0\0")

_log = EventLog("remote_write")


class Version(StrEnum):
    """Versions of the protocol by the message they send."""

    V1 = "prometheus.WriteRequest"
    V2 = "io.prometheus.write.v2.Request"


class TooLargeError(FormatError):
    """A request whose content is longer than MAX_UNPACKED_BYTES."""


class LooseStore(Protocol):
    """The part of the store that this needs."""

    def append_loose(self, writer: SourceId, samples: Sequence[tuple[Labels, int, float]]) -> int:
        """Take samples (labels, ms, value); LimitError or StorageError refuse all of them."""
        ...


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a request: samples taken, histograms left out, and why others were refused."""

    samples: int
    histograms_left_out: int
    refused: Sequence[str]

    def problem(self) -> str:
        """The refusals as one text; empty if there was none."""
        if not self.refused:
            return ""
        more = len(self.refused) - SHOWN_REFUSALS
        return "; ".join(self.refused[:SHOWN_REFUSALS]) + (f"; and {more} more" if more > 0 else "")


class Receiver:
    """Takes requests one after the other on `executor`, which must have one thread."""

    def __init__(
        self, store: LooseStore, options: StoreOptions, executor: Executor, clock: Clock, registry: CollectorRegistry
    ) -> None:
        self._store = store
        self._options = options
        self._executor = executor
        self._clock = clock
        self._decoder = Decoder()
        self._waiting = 0
        self._samples = Counter("bramble_hub_remote_write_samples", "Samples taken.", registry=registry)
        self._refused = Counter(
            "bramble_hub_remote_write_refused", "Samples and series refused, by reason.", ["reason"], registry=registry
        )
        self._histograms = Counter(
            "bramble_hub_remote_write_histograms_left_out", "Native histograms not stored.", registry=registry
        )
        Gauge("bramble_hub_remote_write_waiting", "Requests that wait.", registry=registry).set_function(
            lambda: self._waiting
        )

    async def take(self, body: bytes, version: Version) -> Taken:
        """Store a Snappy-packed request; FormatError: nothing of it is stored, LimitError: as yet not, try again."""
        if self._waiting >= MAX_WAITING:
            raise LimitError(f"{self._waiting} remote write requests are waiting already; try again later")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, self._take, body, version)
        finally:
            self._waiting -= 1

    def _take(self, body: bytes, version: Version) -> Taken:
        try:
            data = snappy.decompress(body, MAX_UNPACKED_BYTES)
        except LimitError as err:
            raise TooLargeError(str(err)) from None
        request = self._decoder.decode_v1(data) if version is Version.V1 else self._decoder.decode_v2(data)
        refused = list(request.refused)
        self._refused.labels("labels").inc(len(refused))
        samples = self._samples_of(request, refused)
        taken = self._store.append_loose(WRITER, samples)
        self._samples.inc(taken)
        histograms = sum(map(len, request.histograms.values()))
        if histograms:
            self._histograms.inc(histograms)
            _log.warn("native histograms are not stored yet", left_out=histograms)
        return Taken(taken, histograms, refused)

    def _samples_of(self, request: WriteRequest, refused: list[str]) -> list[tuple[Labels, int, float]]:
        """The samples to take; what can't be is added to `refused`."""
        bounds = request.bounds.tolist()
        times, values = request.timestamps, request.values
        latest = self._clock.now() + MAX_FUTURE_MS if self._clock.synced() else 2**63 - 1
        fine = (times >= 0) & (times <= latest)
        all_fine = bool(fine.all())
        runs = []
        for labels, begin, end in zip(request.series, bounds, bounds[1:], strict=False):
            if problem := self._over_limit(labels):
                refused.append(problem)
                self._refused.labels("labels").inc()
                continue
            part = slice(begin, end)
            if not all_fine and not fine[part].all():
                bad = int(end - begin - fine[part].sum())
                refused.append(f"out of bounds: {bad} samples of {labels} are before 1970 or too far in the future")
                self._refused.labels("out_of_bounds").inc(bad)
                keep = fine[part]
                runs.append(zip(repeat(labels), times[part][keep].tolist(), values[part][keep].tolist(), strict=False))
            else:
                runs.append(zip(repeat(labels), times[part].tolist(), values[part].tolist(), strict=False))
        return list(chain.from_iterable(runs))

    def _over_limit(self, labels: Labels) -> str:
        limits = self._options
        if len(labels) > limits.max_labels:
            return f"{labels.name} has {len(labels)} labels; at most {limits.max_labels} are taken"
        for name, value in labels:
            if len(name) > limits.max_label_name_bytes or len(value) > limits.max_label_value_bytes:
                return f"label {name[:40]!r} of {labels.name[:40]} is longer than the store takes"
        return ""
