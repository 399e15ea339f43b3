"""The loop's pulse."""

import asyncio

from prometheus_client import CollectorRegistry

from common.testing import FakeClock
from hub.loop import Pulse

LAG = "bramble_hub_event_loop_lag_seconds"


class _LateClock(FakeClock):
    """Wakes each sleeper `late` seconds after its time."""

    def __init__(self, late: float) -> None:
        super().__init__()
        self._late = late

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds)
        self._move(self.monotonic() + self._late)


async def _pulse(clock: FakeClock, seconds: float) -> tuple[CollectorRegistry, list[tuple[str, float]]]:
    registry, beats = CollectorRegistry(), list[tuple[str, float]]()
    task = asyncio.create_task(Pulse(clock, registry, lambda name, within: beats.append((name, within))).run())
    await clock.advance(seconds)
    task.cancel()
    return registry, beats


async def test_what_a_late_loop_costs_is_counted_where_it_belongs() -> None:
    registry, _ = await _pulse(_LateClock(0.07), 0.1)
    assert registry.get_sample_value(f"{LAG}_bucket", {"le": "0.05"}) == 0
    assert registry.get_sample_value(f"{LAG}_bucket", {"le": "0.1"}) == 1


async def test_a_loop_in_time_beats_and_has_no_lag() -> None:
    registry, beats = await _pulse(FakeClock(), 1.0)
    assert registry.get_sample_value(f"{LAG}_bucket", {"le": "0.001"}) == registry.get_sample_value(f"{LAG}_count")
    assert {name for name, _ in beats} == {"loop"}
    assert all(within > 0.1 for _, within in beats)
