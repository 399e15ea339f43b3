"""Upkeep: memory often, all else each minute, whatever the disk says."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from common.errors import StorageError
from common.testing import FakeClock
from hub.intake.upkeep import LOOK_SECONDS, Upkeep
from tests.hub.intake.rig import Lane, running


class Disk:
    """Counts calls; refuses maintenance while `full`."""

    def __init__(self) -> None:
        self.full = False
        self.relieved = 0
        self.maintained = 0

    def relieve(self) -> None:
        self.relieved += 1

    def maintain(self) -> None:
        if self.full:
            raise StorageError("no space left on device")
        self.maintained += 1


@dataclass
class Rig:
    """Upkeep of a disk, running."""

    disk: Disk
    lane: Lane

    async def advance(self, seconds: float) -> None:
        """Let time pass in looks of five seconds."""
        await self.lane.advance(seconds, LOOK_SECONDS)


@pytest_asyncio.fixture
async def rig(clock: FakeClock) -> AsyncIterator[Rig]:
    disk = Disk()
    async with running(clock, lambda executor: Upkeep(disk, executor, clock)) as lane:
        yield Rig(disk, lane)


async def test_memory_is_looked_after_every_few_seconds_and_all_else_each_minute(rig: Rig) -> None:
    await rig.advance(55)
    assert (rig.disk.relieved, rig.disk.maintained) == (11, 0)
    await rig.advance(70)
    assert (rig.disk.relieved, rig.disk.maintained) == (25, 2)


async def test_a_refusing_disk_is_said_once_and_tried_again(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    rig.disk.full = True
    await rig.advance(130)
    assert rig.disk.relieved == 26
    assert [each.levelname for each in caplog.records if each.name.endswith("upkeep")] == ["ERROR"]
    rig.disk.full = False
    await rig.advance(60)
    assert rig.disk.maintained == 1
    assert [each.levelname for each in caplog.records if each.name.endswith("upkeep")][-1] == "INFO"
