"""Fakes for tests, shipped as product code: a clock that tests move, and more beside it."""

import asyncio
import heapq
from collections.abc import Callable

from common.sample import Millis


class FakeClock:
    """A Clock that moves only by `advance` (and `step` for the wall clock alone)."""

    def __init__(self, now: int = 1_700_000_000_000, synced: bool = True, boot_id: str = "b" * 32) -> None:
        self._wall = float(now)
        self._mono = 1_000.0
        self._synced = synced
        self._boot_id = boot_id
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = 0

    def now(self) -> Millis:
        return Millis(int(self._wall))

    def monotonic(self) -> float:
        return self._mono

    def synced(self) -> bool:
        return self._synced

    def boot_id(self) -> str:
        return self._boot_id

    def set_synced(self, synced: bool) -> None:
        """What `synced` answers from now on."""
        self._synced = synced

    def step(self, ms: int) -> None:
        """Move the wall clock alone, as a time server does."""
        self._wall += ms

    def pass_by(self, seconds: float) -> None:
        """Let time go by, on both clocks, for code that nobody awaits: sleepers don't wake."""
        self._wall += seconds * 1000
        self._mono += seconds

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await _yield()
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._order += 1
        heapq.heappush(self._sleepers, (self._mono + seconds, self._order, future))
        await future

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass, waking sleepers in order and letting them run before time goes on."""
        await settle()
        goal = self._mono + seconds
        while self._sleepers and self._sleepers[0][0] <= goal:
            due, _, future = heapq.heappop(self._sleepers)
            self._move(due)
            if not future.done():
                future.set_result(None)
            await settle()
        self._move(goal)
        await settle()

    def _move(self, mono: float) -> None:
        self._wall += (mono - self._mono) * 1000
        self._mono = mono


async def _yield() -> None:
    await asyncio.sleep(0)


async def settle(turns: int = 20) -> None:
    """Let everything that can run do so, for that many turns of the loop."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Let tasks and threads run until `condition` holds; TimeoutError after that many real seconds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await settle()
