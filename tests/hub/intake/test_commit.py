"""One commit a window, and what happens when the disk refuses."""

from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest_asyncio

from common.errors import StorageError
from common.testing import FakeClock
from hub.intake.commit import Committer
from tests.hub.intake.rig import Lane, running


class Disk:
    """Counts commits; refuses while `full`."""

    def __init__(self) -> None:
        self.full = False
        self.commits = 0
        self.flushes = 0

    def flush(self) -> None:
        if self.full:
            raise StorageError("no space left on device")
        self.flushes += 1

    def commit(self) -> None:
        if self.full:
            raise StorageError("no space left on device")
        self.commits += 1


@dataclass
class Rig:
    """A committer, running."""

    disk: Disk
    committer: Committer
    lane: Lane

    async def advance(self, seconds: float) -> None:
        """Let time pass and the lane's work be done."""
        await self.lane.advance(seconds)


@asynccontextmanager
async def committing(clock: FakeClock, window: float) -> AsyncIterator[Rig]:
    disk = Disk()
    made: list[Committer] = []

    def make(executor: Executor) -> Committer:
        made.append(Committer(disk, executor, clock, window=window))
        return made[0]

    async with running(clock, make) as lane:
        yield Rig(disk, made[0], lane)


@pytest_asyncio.fixture
async def rig(clock: FakeClock) -> AsyncIterator[Rig]:
    async with committing(clock, 5.0) as found:
        yield found


async def test_many_appends_make_one_commit(rig: Rig) -> None:
    due = {rig.committer.touch() for _ in range(10)}
    await rig.advance(5)
    assert (rig.disk.commits, due) == (1, {1})
    assert rig.committer.generation == 1


async def test_without_appends_nothing_is_written(rig: Rig) -> None:
    await rig.advance(5)
    await rig.advance(5)
    assert rig.disk.commits == 0


async def test_a_refusing_disk_is_tried_again_less_often_until_it_takes(rig: Rig) -> None:
    rig.disk.full = True
    rig.committer.touch()
    await rig.advance(5)
    assert rig.committer.problem == "no space left on device"
    rig.disk.full = False
    await rig.advance(5)
    assert rig.disk.commits == 0
    await rig.advance(5)
    assert (rig.disk.commits, rig.committer.problem, rig.committer.generation) == (1, "", 1)


async def test_a_long_window_is_bridged_by_flushes(clock: FakeClock) -> None:
    async with committing(clock, 12.0) as rig:
        await rig.advance(5)
        assert rig.disk.flushes == 0
        rig.committer.touch()
        await rig.advance(5)
        assert (rig.disk.flushes, rig.disk.commits) == (1, 0)
        await rig.advance(2)
        assert (rig.disk.flushes, rig.disk.commits, rig.committer.generation) == (1, 1, 1)
        rig.disk.full = True
        rig.committer.touch()
        await rig.advance(5)
        assert rig.committer.problem
        rig.disk.full = False
        await rig.advance(24)
        assert (rig.disk.commits, rig.committer.problem) == (2, "")
