"""Makes what was appended durable: one write and one fsync for all sources in each window."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Protocol

from common.clock import Clock
from common.errors import StorageError
from common.logs import EventLog

WINDOW_SECONDS = 30.0
"""Longest time between a sample's arrival and its being durable; an agent keeps its frames beyond that anyway.

A commit costs some 20 kB of a flash card's life beside its data (ext4's journal): every 5 s, that was most of what
a hub of ten agents wrote.
"""
FLUSH_SECONDS = 5.0
"""Longest time between a sample's arrival and its outliving the program, where the power stays."""
LONGEST_RETRY_SECONDS = 60.0

_log = EventLog("commit")


class Committed(Protocol):
    """The part of a store that this needs; it blocks and raises StorageError."""

    def flush(self) -> None:
        """Hand everything to the kernel."""
        ...

    def commit(self) -> None:
        """Make everything durable."""
        ...


class Committer:
    """A service. `touch` says that something was appended; `generation` counts commits that succeeded."""

    name = "commit"

    def __init__(
        self,
        store: Committed,
        executor: Executor,
        clock: Clock,
        beat: Callable[[str, float], None] = lambda name, within: None,
        window: float = WINDOW_SECONDS,
    ) -> None:
        self._store = store
        self._executor = executor
        self._clock = clock
        self._beat = beat
        self._window = window
        self._dirty = False
        self._running = False
        self.generation = 0
        self.problem = ""
        """Why the last commit failed; empty if it did not."""

    def touch(self) -> int:
        """Something was appended (on any thread): it is durable once `generation` has reached the number returned."""
        self._dirty = True
        # A commit under way may have begun before the append.
        return self.generation + (2 if self._running else 1)

    async def run(self) -> None:
        """Commit until cancelled."""
        loop = asyncio.get_running_loop()
        failures = 0
        left = self._window
        while True:
            wait = min(FLUSH_SECONDS, left) if not failures else left
            self._beat(self.name, wait + 60.0)
            await self._clock.sleep(wait)
            left -= wait
            try:
                if left > 0:
                    if self._dirty:
                        await loop.run_in_executor(self._executor, self._store.flush)
                    continue
                left = self._window
                if self._dirty or failures:
                    self._dirty = False
                    self._running = True
                    try:
                        await loop.run_in_executor(self._executor, self._store.commit)
                    finally:
                        self._running = False
                    self.generation += 1
                    if failures:
                        _log.info("data can be written again")
                    failures, self.problem = 0, ""
            except StorageError as err:
                failures += 1
                left = min(LONGEST_RETRY_SECONDS, self._window * 2.0**failures)
                self._dirty = True
                if self.problem != str(err):
                    _log.error("data can't be written: intake is paused, agents keep theirs", error=err)
                self.problem = str(err)
