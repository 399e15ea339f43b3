"""When Python looks for garbage in cycles: it holds up every thread for as long as there are objects to look at.

Python's own rule walks through all objects each time their number has grown by a quarter: half a second with a hundred
thousand series, in the middle of a query, whose results are most of what is new. Label sets and the like live long and
are never in a cycle, so here the old generation is looked at in quiet moments while it is small, and what has survived
that is set aside (`gc.freeze`) until a day has passed. What came in large numbers, as label sets and results of large
queries do, is set aside unseen. Reference counting, which frees nearly everything, goes on as ever.
"""

import gc
from collections.abc import Callable

from common.clock import Clock

YOUNG = 2_000
"""New objects between two looks at the youngest; ten such looks and the middle generation's turn comes: a few ms."""
INTERVAL_SECONDS = 10.0
DUE = 20
"""Looks at the middle generation after which the old one is due, in a quiet moment."""
FLOOD = 60
"""After so many there is too much to look at."""
THAW_SECONDS = 86_400.0
"""How often everything is looked at, also what was set aside."""
NEVER = 1 << 30


class Garbage:
    """A service; `busy` answers whether queries run, whose objects should not be set aside."""

    name = "garbage"

    def __init__(self, clock: Clock, busy: Callable[[], bool]) -> None:
        self._clock = clock
        self._busy = busy
        self._before = 0
        """Looks at the middle generation that were counted when objects were set aside last."""

    async def run(self) -> None:
        """Keep to the rule until cancelled; Python's own comes back then."""
        before = gc.get_threshold()
        gc.set_threshold(YOUNG, 10, NEVER)
        try:
            # What the start made lives as long as the program.
            gc.freeze()
            thawed = self._clock.monotonic()
            while True:
                await self._clock.sleep(INTERVAL_SECONDS)
                looks = gc.get_count()[2] - self._before
                if self._clock.monotonic() - thawed >= THAW_SECONDS and not self._busy():
                    thawed = self._clock.monotonic()
                    gc.unfreeze()
                    self._set_aside(unseen=False)
                elif looks >= FLOOD or (looks >= DUE and not self._busy()):
                    self._set_aside(unseen=looks >= FLOOD)
        finally:
            gc.set_threshold(*before)
            gc.unfreeze()

    def _set_aside(self, *, unseen: bool) -> None:
        gc.collect(1 if unseen else 2)
        gc.freeze()
        # Only a look at the old generation sets it back.
        self._before = gc.get_count()[2]
