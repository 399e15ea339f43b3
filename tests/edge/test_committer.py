"""Commits at their interval, stretched by the budget, at once when asked, again soon after a failure."""

import asyncio
import errno
from array import array
from collections.abc import AsyncIterator
from concurrent.futures import Executor, Future
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from common.frames.model import Schema, SubSchema
from common.labels import Labels
from common.supervisor import Heartbeats
from common.testing import FakeClock
from common.testing_files import FaultyFiles
from edge.committer import RETRY, Committer
from edge.flash import WriteBudget
from edge.identity import Machine
from edge.log import Log, LogOptions
from edge.metrics import EdgeMetrics

SCHEMA = Schema((SubSchema("n", (Labels.of(__name__="n"),)),))


class Inline(Executor):
    """Runs work where it is submitted, so that a FakeClock's turns suffice."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class Bench:
    """A log that gets a sample a second, and its committer."""

    def __init__(self, path: Path, interval: int, per_day: int) -> None:
        self.clock = FakeClock()
        self.files = FaultyFiles()
        self.log = Log.open(path, LogOptions(), self.clock, files=self.files, machine=Machine("a", "b"))
        metrics = EdgeMetrics("0")
        budget = WriteBudget(per_day, self.clock)
        self.committer = Committer(self.log, self.clock, metrics, Inline(), interval, budget, Heartbeats(self.clock))

    async def seconds(self, count: int) -> int:
        """Let time pass; how many commits there were in all."""
        for _ in range(count):
            self.log.append(0, SCHEMA, self.clock.now(), array("d", [1.0]))
            await self.clock.advance(1)
        return self.log.stats().commits


@asynccontextmanager
async def running(path: Path, interval: int = 10_000, per_day: int = 0) -> AsyncIterator[Bench]:
    bench = Bench(path, interval, per_day)
    task = asyncio.create_task(bench.committer.run())
    try:
        yield bench
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        bench.files.failing = {}
        bench.log.close()


async def test_commits_happen_at_the_interval(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        assert await bench.seconds(65) == 6


async def test_a_budget_stretches_the_interval(tmp_path: Path) -> None:
    async with running(tmp_path, per_day=1440) as bench:
        first = await bench.seconds(3600)
        assert await bench.seconds(600) - first <= 11


async def test_an_early_commit_happens_at_once_and_the_interval_begins_anew(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        await bench.seconds(5)
        bench.committer.early()
        assert await bench.seconds(1) == 1
        assert await bench.seconds(8) == 1
        assert await bench.seconds(2) == 2


async def test_a_failed_commit_is_tried_again_soon_although_the_interval_is_long(tmp_path: Path) -> None:
    async with running(tmp_path, interval=900_000) as bench:
        bench.files.failing = {"sync": errno.EIO}
        assert await bench.seconds(901) == 0
        assert bench.log.stats().paused
        bench.files.failing = {}
        assert await bench.seconds(int(RETRY) + 1) == 1
        assert not bench.log.stats().paused
