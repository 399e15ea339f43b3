"""Stamps before, at and after time synchronisation, and across steps."""

from common.frames.model import Flags
from common.sample import Millis
from common.testing import FakeClock
from edge.timekeeper import STEP_MS, Timekeeper


async def test_estimates_never_lie_before_the_last_stored_time_and_run_on(clock: FakeClock) -> None:
    clock.set_synced(False)
    floor = Millis(clock.now() + 1_000_000)
    time = Timekeeper(clock, floor)
    assert time.stamp().timestamp == floor
    await clock.advance(15)
    assert time.stamp().timestamp == floor + 15_000
    assert time.stamp().flags == Flags.PROVISIONAL
    assert time.monotonic_of(floor + 15_000) == time.monotonic_ms()


def test_a_provisional_stamp_keeps_its_monotonic_time_although_the_clock_was_set_since(clock: FakeClock) -> None:
    clock.set_synced(False)
    time = Timekeeper(clock, None)
    stamp = time.stamp()
    clock.step(86_400_000)
    clock.set_synced(True)
    time.stamp()
    assert time.monotonic_of(stamp.timestamp) == time.monotonic_ms()


def test_a_wall_clock_ahead_of_the_last_stored_time_is_used(clock: FakeClock) -> None:
    clock.set_synced(False)
    assert Timekeeper(clock, Millis(5)).stamp().timestamp == clock.now()


def test_a_clock_that_was_synchronised_once_stays_trusted(clock: FakeClock) -> None:
    time = Timekeeper(clock, None)
    assert time.stamp().flags == Flags.SYNCED
    clock.set_synced(False)
    assert time.stamp().flags == Flags(0)


async def test_steps_are_noticed_both_ways_and_slewing_is_none(clock: FakeClock) -> None:
    time = Timekeeper(clock, None)
    assert not time.stepped()
    await clock.advance(15)
    clock.step(STEP_MS - 1)
    assert not time.stepped()
    for step in (STEP_MS + 1, -STEP_MS - 1):
        clock.step(step)
        assert time.stepped()
        assert not time.stepped()
    assert time.steps == 2
