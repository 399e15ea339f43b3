"""When garbage in cycles is looked for."""

import asyncio
import gc
from collections.abc import Iterator

import pytest

from common.testing import FakeClock, settle
from hub.garbage import DUE, FLOOD, INTERVAL_SECONDS, THAW_SECONDS, Garbage


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    threshold, frozen = gc.get_threshold(), gc.get_freeze_count()
    yield
    assert (gc.get_threshold(), gc.get_freeze_count()) == (threshold, frozen)


class _Looks:
    """Counts looks at the old generation, and says how many looks at the middle one went before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.old = 0
        self.middle = 0
        monkeypatch.setattr(gc, "collect", self._collect)
        monkeypatch.setattr(gc, "get_count", lambda: (0, 0, self.middle))

    def _collect(self, generation: int = 2) -> int:
        if generation == 2:
            self.old += 1
            self.middle = 0
        else:
            self.middle += 1
        return 0


class _SkippingClock(FakeClock):
    """A clock of a machine that can be asleep."""

    def skip(self, seconds: float) -> None:
        """Let time pass without waking anybody."""
        self._mono += seconds


async def test_the_old_generation_waits_for_a_quiet_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, clock, busy = _Looks(monkeypatch), FakeClock(), True
    task = asyncio.create_task(Garbage(clock, lambda: busy).run())
    await settle()
    looks.middle = DUE
    await clock.advance(INTERVAL_SECONDS)
    assert looks.old == 0
    busy = False
    await clock.advance(INTERVAL_SECONDS)
    assert looks.old == 1
    await _end(task)


@pytest.mark.parametrize("busy", [True, False])
async def test_what_came_in_large_numbers_is_set_aside_unseen(monkeypatch: pytest.MonkeyPatch, busy: bool) -> None:
    looks, clock = _Looks(monkeypatch), FakeClock()
    task = asyncio.create_task(Garbage(clock, lambda: busy).run())
    await settle()
    looks.middle = FLOOD
    kept = [[each] for each in range(1000)]
    before = gc.get_freeze_count()
    await clock.advance(INTERVAL_SECONDS)
    assert looks.old == 0
    assert gc.get_freeze_count() >= before + len(kept)
    # It begins anew from there.
    looks.middle += DUE - 1
    await clock.advance(INTERVAL_SECONDS)
    assert looks.old == 0
    looks.middle += 1
    await clock.advance(INTERVAL_SECONDS)
    assert looks.old == (0 if busy else 1)
    await _end(task)


async def test_what_was_set_aside_is_looked_at_once_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, clock = _Looks(monkeypatch), _SkippingClock()
    thawed: list[int] = []
    unfreeze = gc.unfreeze

    def thaw() -> None:
        thawed.append(looks.old)
        unfreeze()

    monkeypatch.setattr(gc, "unfreeze", thaw)
    task = asyncio.create_task(Garbage(clock, lambda: False).run())
    await settle()
    looks.middle = DUE
    await clock.advance(INTERVAL_SECONDS)
    assert (thawed, looks.old) == ([], 1)
    clock.skip(THAW_SECONDS)
    await clock.advance(INTERVAL_SECONDS)
    assert (thawed, looks.old) == ([1], 2)
    await _end(task)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
