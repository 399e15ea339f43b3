"""A service that works on a thread of its own, under a clock that the test moves."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Protocol

from common.testing import FakeClock, settle


class Service(Protocol):
    """What runs until it is cancelled."""

    async def run(self) -> None:
        """Work."""
        ...


class Lane:
    """The thread and the clock."""

    def __init__(self, clock: FakeClock, executor: Executor) -> None:
        self._clock = clock
        self._executor = executor

    async def advance(self, seconds: float, step: float | None = None) -> None:
        """Let time pass, in steps if they are given, and the thread's work be done after each."""
        step = seconds if step is None else step
        for _ in range(round(seconds / step)):
            await self._clock.advance(step)
            for _ in range(3):
                await asyncio.wrap_future(self._executor.submit(lambda: None))
                await settle()


@asynccontextmanager
async def running(clock: FakeClock, make: Callable[[Executor], Service]) -> AsyncIterator[Lane]:
    """Run the service that `make` gives a thread to."""
    with ThreadPoolExecutor(1) as executor:
        task = asyncio.create_task(make(executor).run())
        await settle()
        try:
            yield Lane(clock, executor)
        finally:
            task.cancel()
            await asyncio.wait([task])
