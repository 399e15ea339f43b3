"""Which times of a store changed since when, so that what was computed from it can be kept: bounded, cheap, cautious.

Time is cut into grains. A grain remembers the generation of its last change; grains are kept in the order of it, so
that asking what changed since a generation costs as much as there is to tell. Changes of long spans are kept apart, as
intervals. What is forgotten for room counts as a change of everything.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

GRAIN = 15_000
"""Milliseconds; grain g holds the times in ((g-1)*GRAIN, g*GRAIN], as windows of steps on round times end."""
MOST_GRAINS = 8192
"""Grains remembered: a day and a half of live data."""
LONG = 1024
"""Grains from which a change is one interval."""
MOST_INTERVALS = 64

ALWAYS = (-(1 << 63), (1 << 63) - 1)
"""All times."""


class Changes:
    """A log of changed times; may be used from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._grains: OrderedDict[int, int] = OrderedDict()
        self._intervals: deque[tuple[int, int, int]] = deque()
        self._forgotten = 0
        self.generation = 0
        """Number of changes so far. Read it before the data: what changes meanwhile then counts as later."""

    def mark(self, first: int, last: int) -> None:
        """Samples with first <= timestamp <= last (ms) came, went or changed."""
        low, high = -(-first // GRAIN), -(-last // GRAIN)
        with self._lock:
            self.generation += 1
            if high - low >= LONG:
                self._mark_interval(first, last)
            else:
                self._mark_grains(range(low, high + 1))

    def mark_times(self, times: NDArray[np.int64]) -> None:
        """Samples with these timestamps came; int64 [N] in any order."""
        grains = np.unique(-(-times // GRAIN)).tolist()
        with self._lock:
            self.generation += 1
            if len(grains) >= LONG:
                self._mark_interval(int(times.min()), int(times.max()))
            else:
                self._mark_grains(grains)

    def _mark_grains(self, grains: Iterable[int]) -> None:
        for grain in grains:
            self._grains[grain] = self.generation
            self._grains.move_to_end(grain)
        while len(self._grains) > MOST_GRAINS:
            self._forgotten = self._grains.popitem(last=False)[1]

    def _mark_interval(self, first: int, last: int) -> None:
        self._intervals.append((self.generation, first, last))
        if len(self._intervals) > MOST_INTERVALS:
            _, low, high = self._intervals.popleft()
            generation, first, last = self._intervals.popleft()
            self._intervals.appendleft((generation, min(low, first), max(high, last)))

    def since(self, generation: int) -> list[tuple[int, int]]:
        """Intervals (ms, inclusive) that hold every time changed after that generation, sorted and disjoint."""
        found: list[tuple[int, int]] = []
        with self._lock:
            if generation >= self.generation:
                return []
            if generation < self._forgotten:
                return [ALWAYS]
            for grain, changed in reversed(self._grains.items()):
                if changed <= generation:
                    break
                found.append(((grain - 1) * GRAIN + 1, grain * GRAIN))
            for changed, first, last in reversed(self._intervals):
                if changed <= generation:
                    break
                found.append((first, last))
        found.sort()
        merged: list[tuple[int, int]] = []
        for first, last in found:
            if merged and first <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(merged[-1][1], last))
            else:
                merged.append((first, last))
        return merged
