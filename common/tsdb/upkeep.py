"""Where samples go in time: from the head into packs, from both into blocks, and out by age."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from common.allocator import trim
from common.clock import Clock
from common.labels import Matcher
from common.sample import MetricMeta, families
from common.tsdb.blocks import Blocks
from common.tsdb.build import Origin, Shape
from common.tsdb.changes import ALWAYS
from common.tsdb.cut import HeadOrigin, due, ranges, touched
from common.tsdb.deletion import Deletion
from common.tsdb.lanes import Lanes
from common.tsdb.options import StoreOptions
from common.tsdb.packs import Packs, merges
from common.tsdb.wal import RecordType, Segment, Wal

PACK_SECONDS: Final = 1800.0
"""How long samples stay as they came, at most."""
PACK_LOOSE: Final = 1 << 21
PACK_EACH: Final = 64
"""Loose samples that are packed before, in all and of each series: packing costs more by series than by sample."""
FULL: Final = 0.7
"""Part of `max_head_bytes` beyond which samples go into blocks at once."""
WORTH: Final = 0.15
"""Part of it that they must take themselves then."""
LABELS: Final = 0.75
"""Part of it that label sets of loose series may take: the rest stays for samples of those that are known."""
_EVER = (1 << 63) - 1


class Upkeep:
    """What a store does beside taking and giving samples. One call at a time; `lock` guards head, blocks and packs."""

    def __init__(
        self,
        head: Lanes,
        packs: Packs,
        blocks: Blocks,
        wal: Wal,
        options: StoreOptions,
        clock: Clock,
        lock: threading.RLock,
        commit: Callable[[], None],
    ) -> None:
        self._head = head
        self._packs = packs
        self._blocks = blocks
        self._wal = wal
        self._options = options
        self._clock = clock
        self._lock = lock
        self._commit = commit
        self._packed: float | None = None

    def maintain(self) -> None:
        """As Store.maintain; OSError."""
        self._release()
        with self._lock:
            whole = [self._packs.bounds, self._head.bounds()]
            settled = [each for each in (self._packs.bounds, self._head.bounds(settled=True)) if each is not None]
        known = [block.max for block in self._blocks.current]
        known += [each[1] for each in whole if each is not None]
        newest = min(max(known, default=0), self._clock.now())
        before = due(newest, min(low for low, _ in settled)) if settled else None
        if before is not None:
            self.cut(before)
        waited = self._packed is None or self._clock.monotonic() - self._packed >= PACK_SECONDS
        if waited or self.crowded:
            self._packed = self._clock.monotonic()
            self.pack()
        if self._full:
            # Blocks of part of a window are merged later; refusing samples until the window ends is worse. So it is to
            # wait for the time of those that are ahead of the clock, which may be wrong.
            self.cut(max(known, default=newest) + 1)
        trim()
        while self._blocks.compact(newest, self.meta_of):
            trim()
        self._retain(newest)

    def _release(self) -> None:
        """Stop waiting for corrections that should have come; the log says so before blocks do."""
        with self._lock:
            for source, boot in self._head.overdue(self._options.max_provisional_ms / 1000):
                self._wal.begin()
                self._wal.append(RecordType.RELEASE, source.id + boot)
                self._head.release(source, boot)

    @property
    def crowded(self) -> bool:
        """Whether samples take so much memory that they should be packed now."""
        with self._lock:
            loose = self._head.loose
            many = loose.samples > max(PACK_LOOSE, PACK_EACH * len(loose.table))
            return many or self._head.settled_size > self._options.seal_bytes

    @property
    def tight(self) -> bool:
        """Whether they take so much that they must be packed, be it while a start waits for it."""
        with self._lock:
            return self._head.settled_size > self._options.seal_bytes

    @property
    def _full(self) -> bool:
        """Whether samples, packed or not, come near to the memory that they may take."""
        with self._lock:
            most = self._options.max_head_bytes
            # Of labels a cut frees little: it should be worth a block that has to be merged again.
            samples = self.taken - self._head.label_size
            return bool(most) and self.taken > FULL * most and samples > WORTH * most

    @property
    def taken(self) -> int:
        """Bytes in memory that count against `max_head_bytes`. The caller locks."""
        return self._head.size + self._head.label_size + self._packs.size

    def pack(self) -> None:
        """Pack all that is in the head and waits for no correction."""
        with self._lock:
            arrival = self._head.arrival
            found = self._head.views(-_EVER, _EVER)
            loose, histograms = self._head.loose.view(), self._head.histograms.view()
        strands = [(strand.schema, strand.target, views) for strand, views in found]
        times = [view.timestamps for _, views in found for view in views]
        made = [
            pack
            for start, end in ranges([*times, *loose.times, *histograms.times], _EVER)
            for pack in self._packs.make([HeadOrigin(strands, loose, histograms, start, end)], self.meta_of)
        ]
        with self._lock:
            self._packs.swap(made, ())
            self._head.drop(_EVER, arrival)
        packs = self._packs.current
        for positions in merges([(pack.block.min, pack.block.max, pack.samples) for pack in packs]):
            run = [packs[i] for i in positions]
            origins = [pack.origin(pack.block.min, pack.block.max) for pack in run]
            whole = self._packs.make(origins, self.meta_of, run[-1].rank)
            with self._lock:
                self._packs.swap(whole, run)

    def cut(self, before: int) -> None:
        """As Store.cut; OSError."""
        with self._lock:
            mark = self._wal.roll()
            arrival = self._head.arrival
            found = self._head.views(-_EVER, before - 1)
            loose, histograms = self._head.loose.view(), self._head.histograms.view()
            packs = self._packs.below(before)
        self._commit()
        log = mark()
        strands = [(strand.schema, strand.target, views) for strand, views in found]
        times = [view.timestamps for _, views in found for view in views]
        times += [touched(pack.block.min, pack.block.max) for pack in packs]
        paths: list[Path] = []
        try:
            for start, end in ranges([*times, *loose.times, *histograms.times], before):
                last = min(end, before - 1)
                meeting = [pack for pack in packs if pack.block.min <= last and pack.block.max >= start]
                origins: list[Origin] = [
                    *(pack.origin(start, last) for pack in meeting),
                    HeadOrigin(strands, loose, histograms, start, last),
                ]
                paths += self._blocks.write(origins, self.meta_of, log=log, shape=Shape())
        except OSError:
            self._blocks.discard(paths)
            raise
        rest = self._packs.without(packs, before, self.meta_of)

        def then() -> None:
            self._packs.swap(rest, packs)
            self._trim(before, arrival)

        self._blocks.swap(paths, (), then)
        self._drop_log(lambda segment: segment.number < log and segment.last < before)

    def _trim(self, before: int, arrival: int) -> None:
        self._head.drop(before, arrival)
        scarce = self._head.label_size > LABELS / 2 * self._options.max_head_bytes > 0
        if self._head.forget(before, 0.1 if scarce else 0.5):
            # Loose series have new numbers; the segment that is written now knows the old ones.
            self._wal.roll()

    def _drop_log(self, unneeded: Callable[[Segment], bool]) -> None:
        """Drop segments of the log that are `unneeded` and hold nothing that waits for a correction."""
        with self._lock:
            held = self._head.held_from()
        self._wal.drop(lambda segment: unneeded(segment) and (held is None or segment.number < held))

    def delete(self, matchers: Sequence[Matcher], start: int, end: int) -> None:
        """As Store.delete; OSError."""
        with self._lock:
            deletion = Deletion(tuple(matchers), start, end, self._blocks.number())
            self._wal.begin()
            self._wal.append(RecordType.DELETE, deletion.pack())
            self.apply(deletion)
        self._commit()
        self._blocks.save_deletions()

    def apply(self, deletion: Deletion) -> None:
        """Have a deletion concern all that is here. The caller has the lock."""
        self._blocks.delete(deletion)
        self._packs.delete(deletion)
        self._head.delete(deletion)

    def clean(self) -> None:
        """Write blocks and packs anew without what was deleted from them. OSError."""
        self._blocks.clean(self.meta_of)
        for pack in [each for each in self._packs.current if each.deletions]:
            rest = self._packs.make([pack.origin(pack.block.min, pack.block.max)], self.meta_of, pack.rank)
            with self._lock:
                self._packs.swap(rest, [pack])

    def _retain(self, newest: int) -> None:
        options = self._options
        if options.retention_ms:
            horizon = newest - options.retention_ms
            gone = self._blocks.drop(lambda block: block.max < horizon)
            with self._lock:
                old = [pack for pack in self._packs.current if pack.block.max < horizon]
                self._packs.swap((), old)
                bounds = self._head.bounds()
                self._trim(horizon, self._head.arrival)
                if gone or old or (bounds is not None and bounds[0] < horizon):
                    self._head.changes.mark(ALWAYS[0], horizon)
            self._drop_log(lambda segment: segment.last < horizon)
        if options.retention_bytes:
            # The log comes first: what is in it is in no block yet.
            over = self._wal.size + self._blocks.size - options.retention_bytes
            for block in sorted(self._blocks.current, key=lambda block: block.max):
                if over <= 0:
                    break
                over -= block.size
                self._blocks.drop(lambda each, block=block: each is block)  # type: ignore[misc]
                self._head.changes.mark(ALWAYS[0], block.max)

    def meta_of(self, metric: str) -> list[MetricMeta]:
        """What is known of a metric."""
        with self._lock:
            return [meta for name in families(metric) for meta in self._head.meta.get(name, {})]
