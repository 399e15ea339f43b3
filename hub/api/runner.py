"""Runs blocking reads of the store off the event loop: bounded, with a deadline, cancelled with their request.

Handing a query to a thread and back takes longer than many a panel's query itself. One whose like took less than two
milliseconds is therefore done on the event loop, unless the store is busy; should it take longer this time, it is given
up and begun again in a thread, where its like then stay.
"""

import asyncio
import threading
from collections.abc import Callable, Hashable
from typing import Protocol, TypeVar

from aiohttp import web
from prometheus_client import Counter, Gauge, Summary

from common.clock import Clock
from common.errors import QueryCanceledError, QueryTimeoutError
from hub.api.envelope import ApiError, ErrorType
from hub.api.state import ApiState

T = TypeVar("T")

QUEUE_FACTOR = 8
"""Requests that may wait for each one that runs; beyond, 503 at once."""
SHORT_SECONDS = 0.002
"""A job whose like took no longer is done on the event loop."""
PATIENCE_SECONDS = 0.005
"""After that it is given up there."""
MAX_REMEMBERED = 1024
"""Kinds of jobs whose time is remembered; at one more it starts over."""


class Cancel(Protocol):
    """Tells a job whether it was given up."""

    def is_set(self) -> bool:
        """Whether it should end."""
        ...


class _Patience:
    """Is set after a time."""

    def __init__(self, clock: Clock) -> None:
        self._monotonic = clock.monotonic
        self._end = clock.monotonic() + PATIENCE_SECONDS

    def is_set(self) -> bool:
        return self._monotonic() >= self._end


class QueryRunner:
    """Admits `limits.max_concurrency` jobs at a time and a bounded queue behind them."""

    def __init__(self, state: ApiState) -> None:
        self._state = state
        self._slots = asyncio.Semaphore(state.limits.max_concurrency)
        self._most_waiting = state.limits.max_concurrency * QUEUE_FACTOR
        self.waiting = 0
        self.active = 0
        self._took: dict[Hashable, float] = {}
        registry = state.registry
        Gauge("prometheus_engine_queries", "Queries that run or wait.", registry=registry).set_function(
            lambda: self.active + self.waiting
        )
        Gauge("prometheus_engine_queries_concurrent_max", "Most queries that run at once.", registry=registry).set(
            state.limits.max_concurrency
        )
        seconds = Summary(
            "prometheus_engine_query_duration_seconds", "Time of queries by part.", ["slice"], registry=registry
        )
        self._queued, self._evaluated = seconds.labels("queue_time"), seconds.labels("inner_eval")

        self.samples = Counter("prometheus_engine_query_samples", "Samples that queries read.", registry=registry)
        self.slow = Counter(
            "bramble_hub_slow_queries", "Queries that took longer than bramble.slow_query.", registry=registry
        )

    async def run(
        self, job: Callable[[Cancel], T], timeout_ms: int | None = None, *, like: Hashable | None = None
    ) -> T:
        """The job's result; `cancel` is set for it when the client goes away or the deadline passes.

        The slot is held until the job's thread has really ended, so that abandoned queries can't pile up. Jobs that are
        `like` each other take about the same time; one that can't be given up and run again has no such name.
        """
        timeout = self._seconds(timeout_ms)
        if like is not None and self.is_short(like):
            try:
                return self.run_here(job, like, timeout_ms)
            except QueryCanceledError:
                pass  # It takes longer than its like did.
        if self.waiting >= self._most_waiting:
            raise ApiError(
                ErrorType.UNAVAILABLE, f"too many queries: {self.waiting} are waiting (--query.max-concurrency)"
            )
        began = self._state.clock.monotonic()
        await self._admitted(timeout)
        started = self._state.clock.monotonic()
        self._queued.observe(started - began)
        cancel = threading.Event()
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        self.active += 1
        try:
            future = self._state.executor.submit(self._timed, job, cancel, like)
        except RuntimeError:
            self._release()
            raise ApiError(ErrorType.UNAVAILABLE, "the hub is stopping") from None
        future.add_done_callback(lambda _: _call_soon(loop, lambda: self._end(ended)))
        deadline = loop.call_later(max(0.0, timeout - (started - began)), _expire, ended)
        try:
            await ended
            return future.result()
        except BaseException:
            cancel.set()
            raise
        finally:
            deadline.cancel()
            self._evaluated.observe(self._state.clock.monotonic() - started)

    def _seconds(self, timeout_ms: int | None) -> float:
        """What a job may take; QueryTimeoutError if that is nothing."""
        limit = self._state.limits.timeout_ms
        timeout = min(limit, timeout_ms if timeout_ms is not None else limit) / 1000
        if timeout <= 0:
            raise QueryTimeoutError("query timed out in query queue")
        return timeout

    def is_short(self, like: Hashable) -> bool:
        """Whether a job may be done on the event loop."""
        took = self._took.get(like)
        return took is not None and took <= SHORT_SECONDS and not self._slots.locked() and not self._state.busy()

    def run_here(self, job: Callable[[Cancel], T], like: Hashable, timeout_ms: int | None = None) -> T:
        """The result of a job that is short; QueryCanceledError if it took longer than its like did."""
        self._seconds(timeout_ms)
        self._queued.observe(0.0)
        self.active += 1
        began = self._state.clock.monotonic()
        try:
            return self._timed(job, _Patience(self._state.clock), like)
        finally:
            self.active -= 1
            self._evaluated.observe(self._state.clock.monotonic() - began)

    def _timed(self, job: Callable[[Cancel], T], cancel: Cancel, like: Hashable | None) -> T:
        if like is None:
            return job(cancel)
        began = self._state.clock.monotonic()
        try:
            return job(cancel)
        finally:
            if len(self._took) >= MAX_REMEMBERED and like not in self._took:
                self._took.clear()
            self._took[like] = self._state.clock.monotonic() - began

    async def _admitted(self, seconds: float) -> None:
        """Wait for a slot, for that long at most, if none is free."""
        if not self._slots.locked():
            await self._slots.acquire()
            return
        self.waiting += 1
        try:
            await asyncio.wait_for(self._slots.acquire(), seconds)
        except TimeoutError:
            raise QueryTimeoutError("query timed out in query queue") from None
        finally:
            self.waiting -= 1

    def _end(self, ended: asyncio.Future[None]) -> None:
        self._release()
        if not ended.done():
            ended.set_result(None)

    def _release(self) -> None:
        self.active -= 1
        self._slots.release()


def _expire(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_exception(QueryTimeoutError("query timed out in expression evaluation"))


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback)


RUNNER: web.AppKey[QueryRunner] = web.AppKey("runner", QueryRunner)
