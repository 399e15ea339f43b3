"""Moments: who waits for the same one wakes together, whatever becomes of the others and of the wall clock."""

import asyncio

import pytest

from common.testing import FakeClock, settle
from hub.intake.moments import MOMENTS, Moments, offset

START = 1_700_000_000_000


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(START)


@pytest.mark.parametrize("interval", [1, 3, 100, 1_000, 1_300, 15_000, 60_000])
def test_offsets_spread_over_the_interval_on_a_grid(interval: int) -> None:
    found = {offset(key * 7_919, interval) for key in range(20_000)}
    assert found == set(range(0, interval, max(1, interval // MOMENTS)))


async def test_who_waits_for_a_moment_wakes_in_it_with_one_time(clock: FakeClock) -> None:
    moments, woke = Moments(clock), list[tuple[str, int]]()

    async def wait(name: str, due: int) -> None:
        woke.append((name, await moments.wait(due)))

    tasks = [asyncio.create_task(wait(name, START + ms)) for name, ms in (("a", 500), ("b", 500), ("c", 250))]
    await settle()
    await clock.advance(0.2)
    tasks.append(asyncio.create_task(wait("d", START + 500)))
    await clock.advance(0.1)
    assert woke == [("c", START + 250)]
    await clock.advance(0.3)
    assert sorted(woke[1:]) == [(name, START + 500) for name in "abd"]
    await asyncio.gather(*tasks)


async def test_a_moment_that_is_over_is_not_waited_for(clock: FakeClock) -> None:
    assert await Moments(clock).wait(START - 5) == START


async def test_if_the_first_gives_up_the_others_wake_all_the_same(clock: FakeClock) -> None:
    moments = Moments(clock)
    first, second, third = (asyncio.create_task(moments.wait(START + 500)) for _ in range(3))
    await settle()
    await clock.advance(0.1)
    first.cancel()
    await clock.advance(0.1)
    third.cancel()
    await clock.advance(0.2)
    assert not second.done()
    await clock.advance(0.1)
    assert await second == START + 500
    assert first.cancelled()
    assert third.cancelled()


async def test_a_wall_clock_set_back_holds_nobody_up(clock: FakeClock) -> None:
    moments = Moments(clock)
    tasks = [asyncio.create_task(moments.wait(START + 500)) for _ in range(2)]
    await settle()
    clock.step(-3_600_000)
    await clock.advance(0.5)
    assert [await task for task in tasks] == [START - 3_599_500] * 2
