"""Services on loops of their own."""

import asyncio
import threading

import pytest

from common.errors import StorageError
from common.lane import Lane
from common.testing import until


async def test_it_runs_on_another_thread_until_it_ends() -> None:
    seen: list[str] = []

    async def main() -> None:
        seen.append(threading.current_thread().name)

    await Lane("aside", main).run()
    assert seen == ["aside"]


async def test_cancelling_it_cancels_what_runs_and_waits_for_its_end() -> None:
    seen: list[str] = []

    async def main() -> None:
        seen.append("began")
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("ended")

    task = asyncio.create_task(Lane("aside", main).run())
    await until(lambda: seen)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["began", "ended"]


async def test_being_cancelled_at_once_is_no_trouble() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    lane = Lane("aside", main)
    task = asyncio.create_task(lane.run())
    await until(lambda: any(each.name == lane.name for each in threading.enumerate()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_its_error_is_raised_where_it_was_started() -> None:
    async def main() -> None:
        raise StorageError("full")

    with pytest.raises(StorageError, match="full"):
        await Lane("aside", main).run()
