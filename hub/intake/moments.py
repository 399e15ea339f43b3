"""When targets are scraped: spread over their interval, as Prometheus does, but several of them in one moment.

A scrape is over so quickly that most of its cost is waking up and finding the processor's caches cold. Targets of one
moment share the wake-up, and their samples a timestamp.
"""

import asyncio

from common.clock import Clock
from common.sample import Millis

MOMENTS = 10
"""Moments of an interval. More spread the work better and share less of it."""


def offset(key: int, interval: int) -> int:
    """Where in its interval (both ms) a target is scraped; `key` is any number of the target that stays the same."""
    grid = max(1, interval // MOMENTS)
    return key % interval // grid * grid


NEAR_SECONDS = 0.002
"""How much earlier than by its own reckoning one of a moment may wake: wall times are cut to milliseconds."""


class Moments:
    """Wakes those who wait for the same moment together. Of one event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: dict[int, asyncio.Future[Millis | None]] = {}

    async def wait(self, due: int) -> Millis:
        """Wait until the wall clock (ms) shows `due`; what it showed when those who waited for it woke.

        A step of the wall clock meanwhile makes the wait neither longer nor shorter.
        """
        now = self._clock.now()
        end = self._clock.monotonic() + (due - now) / 1000
        while (left := end - self._clock.monotonic()) > NEAR_SECONDS:
            moment = self._waiting.get(due)
            if moment is not None:
                # Shielded, since all wait for this one future.
                woke = await asyncio.shield(moment)
                if woke is not None:
                    return woke
                continue
            # The first sleeps for all. If it is cancelled, another one does.
            moment = self._waiting[due] = asyncio.get_running_loop().create_future()
            woke = None
            try:
                await self._clock.sleep(left)
                woke = self._clock.now()
            finally:
                del self._waiting[due]
                moment.set_result(woke)
            return woke
        return self._clock.now()
