"""When the log goes to disk: at every commit interval, less often on a flash budget, at once when power fails."""

import asyncio
from concurrent.futures import Executor
from typing import Final

from common.clock import Clock
from common.errors import StorageError
from common.supervisor import Heartbeats
from edge.flash import WriteBudget
from edge.log import Log
from edge.metrics import EdgeMetrics

RETRY: Final = 60.0
"""Seconds until the next attempt after the disk refused, unless the interval is shorter."""


class Committer:
    """A service that writes the log to disk; what fails stays in memory."""

    name = "commit"

    def __init__(
        self,
        log: Log,
        clock: Clock,
        metrics: EdgeMetrics,
        executor: Executor,
        interval: int,
        budget: WriteBudget,
        heartbeats: Heartbeats,
    ) -> None:
        """`interval` in ms."""
        self._target = log
        self._clock = clock
        self._metrics = metrics
        self._executor = executor
        self._interval = interval / 1000
        self._budget = budget
        self._heartbeats = heartbeats
        self._early = asyncio.Event()
        self._failed = False
        metrics.gauge("commit_wait_seconds", "Time from a commit to the next, as the write budget allows.", self._wait)

    def _wait(self) -> float:
        wait = self._budget.wait(self._interval)
        return min(wait, RETRY) if self._failed else wait

    def early(self) -> None:
        """Commit now instead of later; call it in the event loop."""
        self._metrics.early_commits.inc()
        self._early.set()

    async def run(self) -> None:
        """Commit until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            wait = self._wait()
            self._heartbeats.beat(self.name, wait * 2 + 300)
            await self._until(wait)
            await loop.run_in_executor(self._executor, self.commit)

    async def _until(self, seconds: float) -> None:
        waits = [asyncio.ensure_future(self._clock.sleep(seconds)), asyncio.ensure_future(self._early.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
            self._early.clear()

    def commit(self) -> None:
        """Commit once (blocks); a failure is counted."""
        began = self._clock.monotonic()
        try:
            written = self._target.commit()
        except StorageError:
            # The log has logged it and keeps the frames; the next commit tries again.
            self._metrics.commit_failures.inc()
            self._failed = True
        else:
            self._failed = False
            if written:
                self._budget.spend()
                self._metrics.commit.observe(self._clock.monotonic() - began)
