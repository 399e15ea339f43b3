"""A service on an event loop of its own, in a thread: the program's main loop and it do not wait for each other."""

import asyncio
import threading
from collections.abc import Callable, Coroutine


class Lane:
    """A Service whose `main` runs on another loop; cancelling `run` cancels it and waits until it has ended."""

    def __init__(self, name: str, main: Callable[[], Coroutine[None, None, None]]) -> None:
        self.name = name
        self._main = main

    async def run(self) -> None:
        """Run `main` until it ends; its error is raised here."""
        outer, inner = asyncio.get_running_loop(), asyncio.new_event_loop()
        ended: asyncio.Future[None] = outer.create_future()
        gone: asyncio.Future[None] = outer.create_future()
        tasks: list[asyncio.Task[None]] = []

        def begin() -> None:
            tasks.append(inner.create_task(self._main(), name=self.name))
            tasks[0].add_done_callback(lambda task: outer.call_soon_threadsafe(_copy, task, ended))

        def turn() -> None:
            try:
                _turn(inner)
            finally:
                outer.call_soon_threadsafe(gone.set_result, None)

        thread = threading.Thread(target=turn, name=self.name)
        thread.start()
        inner.call_soon_threadsafe(begin)
        try:
            await asyncio.shield(ended)
        except asyncio.CancelledError:
            inner.call_soon_threadsafe(lambda: tasks[0].cancel())
            await asyncio.wait([ended])
            raise
        finally:
            inner.call_soon_threadsafe(inner.stop)
            await asyncio.wait([gone])
            thread.join()


def _turn(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


def _copy(task: asyncio.Task[None], ended: asyncio.Future[None]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is None:
        ended.set_result(None)
    else:
        ended.set_exception(error)
