"""The cache of range queries' results: what dashboards ask again, and again a step later.

Two kinds of entries share one budget of bytes, least recently used out first:

- **Extents**: encoded rows over consecutive steps. Key: the expression's canonical text, step, phase (start modulo
  step: Prometheus does not align queries, so only steps that coincide can be used), lookback, and the magnitude of the
  number of steps, so that a zoom does not shorten what the overview needs. Only local expressions
  (`common.promql.locality`) have them: their value at a step is the same, to the bit, whatever range it is evaluated
  in. Not kept are results with annotations, unless there is one of which is known at which steps it arises
  (`common.promql.stepnotes`), and what is made of native histograms, whose sums depend on the order of series.
- **Answers**: bodies as sent, by the whole request, for those who ask for exactly the same; of any expression whose
  reach is known.

An entry remembers the store's generation from before it was computed. `Changes.since` then tells which times changed:
appends (the tail of a dashboard), late samples, deletions, corrections, retention. Steps whose windows reach one are
computed again, the others are joined as text; an answer that reaches one is dropped. No clock and no assumption about
how late agents are is involved.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge

from common.promql.engine import Result
from common.promql.locality import Reach
from common.tsdb.changes import Changes
from hub.api.body import Packed
from hub.api.extents import Extent, encoded, joined

LARGEST = 4
"""No entry may take more than this part of the cache."""
POINT_BYTES = 24
"""What a point takes as text, about."""
MOST_RUNS = 3
"""Evaluations that fill gaps of one extent; the nearest gaps become one beyond."""
OVERHEAD = 1000
"""Bytes of an entry's objects beside its texts, roughly."""

Key = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """The steps (ms) that a range query asks for."""

    start: int
    end: int
    step: int

    @property
    def count(self) -> int:
        """How many."""
        return (self.end - self.start) // self.step + 1


@dataclass(slots=True)
class _Entry:
    value: Extent | Packed
    generation: int
    size: int
    times: Sequence[tuple[int, int]] = ()
    """What an answer depends on."""


class RangeCache:
    """See the module. May be used from several threads."""

    def __init__(self, changes: Changes, max_bytes: int, registry: CollectorRegistry) -> None:
        self._changes = changes
        self._max = max_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._size = 0
        requests = Counter(
            "bramble_hub_result_cache_requests", "Range queries by what the result cache gave.", ["outcome"],
            registry=registry,
        )  # fmt: skip
        self._outcomes = {each: requests.labels(each) for each in ("hit", "partial", "miss", "bypass")}
        self._evictions = Counter(
            "bramble_hub_result_cache_evictions", "Results dropped from the cache for room.", registry=registry
        )
        self._invalidations = Counter(
            "bramble_hub_result_cache_invalidations",
            "Cached results, whole or in part, that changed samples made unusable.",
            registry=registry,
        )
        for name, text, read in (
            ("bramble_hub_result_cache_bytes", "Bytes of cached results.", lambda: self._size),
            ("bramble_hub_result_cache_entries", "Cached results.", lambda: len(self._entries)),
            ("bramble_hub_result_cache_max_bytes", "Most bytes that cached results may take.", lambda: self._max),
        ):
            Gauge(name, text, registry=registry).set_function(read)

    @property
    def generation(self) -> int:
        """The store's; to be read before what `keep_answer` gets is computed."""
        return self._changes.generation

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self._size = 0

    def bypassed(self) -> None:
        """Count a query that does not use the cache."""
        self._outcomes["bypass"].inc()

    # Answers

    def answer(self, key: Key) -> Packed | None:
        """The body that was sent for this request, if it would still be the same."""
        generation = self._changes.generation
        entry = self._get(key)
        if entry is None or not isinstance(entry.value, Packed):
            return None
        if not self.unchanged(entry.generation, entry.times):
            self._invalidations.inc()
            self._drop(key, entry)
            return None
        entry.generation = max(entry.generation, generation)
        self._outcomes["hit"].inc()
        return entry.value

    def unchanged(self, generation: int, times: Sequence[tuple[int, int]]) -> bool:
        """Whether no sample at `times` (intervals, ms) changed after that generation."""
        changed = self._changes.since(generation)
        return not any(first <= high and last >= low for first, last in changed for low, high in times)

    def keep_answer(self, key: Key, packed: Packed, generation: int, times: Sequence[tuple[int, int]]) -> None:
        """Remember a body that depends on samples at `times` (intervals, ms), computed after `generation`."""
        size = sum(map(len, packed.chunks)) + OVERHEAD
        self._put(key, _Entry(packed, generation, size, times))

    # Extents

    def extent(
        self,
        key: Key,
        span: Span,
        reach: Reach,
        evaluate: Callable[[int, int], Result],
        text: str = "",
        check: Callable[[], None] = lambda: None,
    ) -> Extent | Result:
        """The rows at the steps of `span`, of which only those that are not in the cache are evaluated.

        `evaluate(start, end)` is the result for these steps of a local expression; `key` names it and all that it
        depends on but times. `text` is how it was written: annotations tell positions in it. What cannot be kept comes
        as Result. `check` is called now and then and may raise.
        """
        key = (*key, span.step, span.start % span.step, span.count.bit_length())
        generation = self._changes.generation
        entry = self._get(key)
        old = entry.value if entry is not None and isinstance(entry.value, Extent) else None
        valid = np.zeros(span.count, np.bool_)
        if old is not None and old.note is not None and old.note.query != text:
            old = None
        if entry is not None and old is not None:
            valid = self._valid(old, entry.generation, span, reach)
            if valid.all():
                entry.generation = max(entry.generation, generation)
                self._outcomes["hit"].inc()
                return _shift_cut(old, span, 0, span.count)
        found = self._evaluated(old, valid, span, evaluate, check)
        # Counted when it is there: a query may be given up, and begun again elsewhere.
        self._outcomes["partial" if valid.any() else "miss"].inc()
        if isinstance(found, Extent):
            self._put(key, _Entry(found, generation, found.nbytes + OVERHEAD))
        return found

    def _evaluated(
        self,
        old: Extent | None,
        valid: NDArray[np.bool_],
        span: Span,
        evaluate: Callable[[int, int], Result],
        check: Callable[[], None],
    ) -> Extent | Result:
        """The rows, of which those of `old` hold at the `valid` steps; a Result of all where they can't be kept."""
        parts: list[Extent] = []
        at = 0
        for begin, end in gaps(valid):
            if begin > at:
                assert old is not None
                parts.append(_shift_cut(old, span, at, begin))
            first = span.start + begin * span.step
            result = evaluate(first, span.start + (end - 1) * span.step)
            matrix = result.matrix
            fits = matrix is not None and matrix.cells * POINT_BYTES * LARGEST <= self._max
            annotated = bool(result.warnings or result.infos) and result.step_note is None
            if matrix is None or not fits or annotated or result.native:
                # An annotation of this part may be another one of the whole.
                return result if end - begin == span.count else evaluate(span.start, span.end)
            parts.append(encoded(matrix, first, span.step, result.step_note, check))
            at = end
        if at < span.count:
            assert old is not None
            parts.append(_shift_cut(old, span, at, span.count))
        notes = [part.note for part in parts if part.note is not None]
        if any(not note.like(notes[0]) for note in notes):
            return evaluate(span.start, span.end)
        return joined(parts)

    def _valid(self, old: Extent, generation: int, span: Span, reach: Reach) -> NDArray[np.bool_]:
        """At which steps of `span` the rows of `old` still hold."""
        valid = np.zeros(span.count, np.bool_)
        begin = (old.first - span.start) // span.step
        valid[max(0, begin) : max(0, begin + old.count)] = True
        changed = self._changes.since(generation)
        before = int(valid.sum())
        for first, last in changed:
            if any(first <= high and last >= low for low, high in reach.fixed):
                valid[:] = False
            low, high = reach.steps(first, last)
            if low <= high:
                low = max(0, -(-(low - span.start) // span.step))
                valid[low : max(low, (high - span.start) // span.step + 1)] = False
        if before > int(valid.sum()):
            self._invalidations.inc()
        return valid

    # The budget

    def _get(self, key: Key) -> _Entry | None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
            return entry

    def _put(self, key: Key, entry: _Entry) -> None:
        with self._lock:
            old = self._entries.pop(key, None)
            if old is not None:
                self._size -= old.size
            if entry.size * LARGEST > self._max:
                return
            self._entries[key] = entry
            self._size += entry.size
            while self._size > self._max:
                self._size -= self._entries.popitem(last=False)[1].size
                self._evictions.inc()

    def _drop(self, key: Key, entry: _Entry) -> None:
        with self._lock:
            if self._entries.get(key) is entry:
                del self._entries[key]
                self._size -= entry.size


def _shift_cut(old: Extent, span: Span, begin: int, end: int) -> Extent:
    """What `old` has at the steps `begin` <= i < `end` of `span`."""
    shift = (span.start - old.first) // span.step
    return old.cut(begin + shift, end + shift)


def gaps(valid: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Runs (begin, end) that hold everything that is not valid: MOST_RUNS at most, each of two steps at least.

    A single step would be evaluated by other code, which need not round alike.
    """
    edges = np.flatnonzero(np.diff(valid, prepend=True, append=True)).tolist()
    runs = [[max(0, min(begin, end - 2)), end] for begin, end in zip(edges[::2], edges[1::2], strict=True)]
    merged: list[list[int]] = []
    for run in runs:
        run[1] = min(len(valid), max(run[1], run[0] + 2))
        if merged and run[0] <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], run[1])
        else:
            merged.append(run)
    while len(merged) > MOST_RUNS:
        at = min(range(len(merged) - 1), key=lambda i: merged[i + 1][0] - merged[i][1])
        merged[at : at + 2] = [[merged[at][0], merged[at + 1][1]]]
    yield from ((begin, end) for begin, end in merged)
