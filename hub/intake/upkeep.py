"""Has the store pack, cut, compact and drop what is due: beside commits, since that takes long."""

import asyncio
from concurrent.futures import Executor
from typing import Protocol

from common.clock import Clock
from common.errors import StorageError
from common.logs import EventLog

LOOK_SECONDS = 5.0
"""How often memory is looked at: remote write can bring a million samples a second."""
MAINTAIN_SECONDS = 60.0

_log = EventLog("upkeep")


class Kept(Protocol):
    """The part of a store that this needs; both methods block and raise StorageError."""

    def relieve(self) -> None:
        """Make room in memory, if need be."""
        ...

    def maintain(self) -> None:
        """Do all that is due, and drop what is too old."""
        ...


class Upkeep:
    """A service."""

    name = "upkeep"

    def __init__(self, store: Kept, executor: Executor, clock: Clock) -> None:
        self._store = store
        self._executor = executor
        self._clock = clock

    async def run(self) -> None:
        """Look after the store until cancelled; what the disk refuses is tried again at the next turn."""
        loop = asyncio.get_running_loop()
        maintained = self._clock.monotonic()
        problem = ""
        while True:
            await self._clock.sleep(LOOK_SECONDS)
            try:
                await loop.run_in_executor(self._executor, self._store.relieve)
                if self._clock.monotonic() - maintained >= MAINTAIN_SECONDS:
                    maintained = self._clock.monotonic()
                    await loop.run_in_executor(self._executor, self._store.maintain)
                    if problem:
                        _log.info("blocks can be written again")
                    problem = ""
            except StorageError as err:
                if problem != str(err):
                    _log.error("blocks can't be written: what is in memory and log stays there", error=err)
                problem = str(err)
