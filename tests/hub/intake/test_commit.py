"""One commit a window, and what happens when the disk refuses."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest_asyncio

from common.errors import StorageError
from common.testing import FakeClock, settle
from hub.intake.commit import Committer


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


class Rig:
    """A committer with a window of 5 s, running."""

    def __init__(self, clock: FakeClock, lane: ThreadPoolExecutor, window: float = 5.0) -> None:
        self.disk = Disk()
        self.clock = clock
        self.lane = lane
        self.committer = Committer(self.disk, lane, clock, window=window)

    async def advance(self, seconds: float) -> None:
        """Let time pass and the lane's work be done."""
        await self.clock.advance(seconds)
        for _ in range(3):
            await asyncio.wrap_future(self.lane.submit(lambda: None))
            await settle()


@pytest_asyncio.fixture
async def rig(clock: FakeClock) -> AsyncIterator[Rig]:
    with ThreadPoolExecutor(1) as lane:
        found = Rig(clock, lane)
        task = asyncio.create_task(found.committer.run())
        await settle()
        yield found
        task.cancel()
        await asyncio.wait([task])


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
    with ThreadPoolExecutor(1) as lane:
        rig = Rig(clock, lane, window=12.0)
        task = asyncio.create_task(rig.committer.run())
        await settle()
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
        task.cancel()
        await asyncio.wait([task])
