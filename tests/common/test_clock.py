"""The system's clocks and the one that tests move."""

import asyncio

from common.clock import SystemClock
from common.testing import FakeClock


def test_the_system_clock_reads_plausible_values() -> None:
    clock = SystemClock()
    assert clock.now() > 1_600_000_000_000
    assert clock.monotonic() <= clock.monotonic()
    assert isinstance(clock.synced(), bool)
    assert len(clock.boot_id()) == 32


async def test_a_fake_clock_wakes_sleepers_in_order(clock: FakeClock) -> None:
    woken: list[tuple[str, float]] = []
    began = clock.monotonic()

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((name, clock.monotonic() - began))

    tasks = [asyncio.create_task(sleeper(n, s)) for n, s in (("b", 2.0), ("a", 1.0), ("c", 3.0))]
    await clock.advance(2.5)
    assert woken == [("a", 1.0), ("b", 2.0)]
    await clock.advance(1)
    await asyncio.gather(*tasks)


async def test_a_step_moves_only_the_wall_clock(clock: FakeClock) -> None:
    wall, mono = clock.now(), clock.monotonic()
    clock.step(-3_600_000)
    assert (clock.now(), clock.monotonic()) == (wall - 3_600_000, mono)
