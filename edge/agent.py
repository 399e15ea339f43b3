"""The agent put together: what is opened in which order, what runs, and how it all ends."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from aiohttp import web

from common.clock import Clock
from common.errors import BrambleError
from common.logs import EventLog
from common.serve import HEAD_SECONDS, Connections, ServeLimits
from common.supervisor import Job, Service, Supervisor, sd_notify
from edge.api import (
    KEEPALIVE_SECONDS,
    MAX_CONNECTIONS,
    MAX_FIELD_BYTES,
    MAX_LINE_BYTES,
    About,
    EdgeApi,
    Gatherer,
)
from edge.collectors.runner import Runner
from edge.committer import Committer
from edge.config import EdgeConfig
from edge.flash import Undervoltage, VoltageWatch, WriteBudget, device_writes
from edge.identity import host_name
from edge.lanes import SlowLane
from edge.log import Log, LogOptions
from edge.metrics import EdgeMetrics, LogCollector, watch_device
from edge.sampler import Sampler

THREADS = 4
STOP_SECONDS = 15.0
DRAIN_SECONDS = 2.0

_log = EventLog("agent")


class StopError(BrambleError):
    """The agent did not stop within its deadline; what was committed before is safe."""


@asynccontextmanager
async def serve(api: EdgeApi, sock: socket.socket, connections: Connections) -> AsyncIterator[Service]:
    """The service that takes connections to `api` from a listening socket; at the end requests get a moment."""
    runner = web.AppRunner(
        api.app,
        access_log=None,
        keepalive_timeout=2 * KEEPALIVE_SECONDS,
        max_line_size=MAX_LINE_BYTES,
        max_field_size=MAX_FIELD_BYTES,
        lingering_time=1.0,
        shutdown_timeout=DRAIN_SECONDS,
    )
    await runner.setup()
    http = runner.server
    assert http is not None
    try:
        yield Job("http", lambda: connections.run(sock, http))
    finally:
        await runner.cleanup()


class Agent:
    """One agent: `run` opens everything, serves until cancelled, and leaves a committed log behind."""

    def __init__(
        self, config: EdgeConfig, storage: Path, listener: socket.socket, runner: Runner, clock: Clock, version: str
    ) -> None:
        self._config = config
        self._storage = storage
        self._listener = listener
        self._runner = runner
        self._clock = clock
        self._metrics = EdgeMetrics(version)
        self._about = About(version, host_name(Path(config.paths.procfs)))

    async def run(self) -> None:
        """Run until cancelled; StartError where it can't begin, StopError where it can't end."""
        stack = AsyncExitStack()
        try:
            services, supervisor = await self._open(stack)
            sd_notify("READY=1")
            await supervisor.run(services)
        finally:
            await self._close(stack)

    async def _close(self, stack: AsyncExitStack) -> None:
        """Close everything within the deadline; further signals neither hurry nor spoil it."""
        closing = asyncio.create_task(stack.aclose(), name="close")
        deadline = self._clock.monotonic() + STOP_SECONDS
        while not closing.done():
            try:
                await asyncio.wait({closing}, timeout=max(0.0, deadline - self._clock.monotonic()))
            except asyncio.CancelledError:
                continue
            if not closing.done():
                closing.cancel()
                raise StopError(f"not done within {STOP_SECONDS:.0f} s: is the disk of {self._storage} hanging?")
        closing.result()

    async def _open(self, stack: AsyncExitStack) -> tuple[list[Service], Supervisor]:
        config, clock, metrics = self._config, self._clock, self._metrics
        loop = asyncio.get_running_loop()
        stack.callback(self._listener.close)
        executor = ThreadPoolExecutor(THREADS, "edge")
        stack.callback(executor.shutdown, wait=False)
        supervisor = Supervisor(clock)

        async def blocking(work: Callable[[], object]) -> None:
            await loop.run_in_executor(executor, work)

        log = await loop.run_in_executor(executor, self._open_log)
        stack.push_async_callback(blocking, log.close)
        metrics.registry.register(LogCollector(log))
        budget = WriteBudget(config.storage.max_writes_per_day, clock)
        committer = Committer(log, clock, metrics, executor, config.commit_interval, budget, supervisor.heartbeats)
        stack.push_async_callback(blocking, committer.commit)
        stack.push_async_callback(blocking, self._runner.close)
        gatherer = Gatherer(self._runner, metrics, config.web.exporter_metrics)
        own = [collector for collector in self._runner.background() if collector.own_lane]
        lanes = [SlowLane(number, collector, clock) for number, collector in enumerate(own, 1)]
        sampler = Sampler(
            gatherer.collect, log, clock, metrics, executor, config.sample_interval, supervisor.heartbeats, lanes
        )
        connections = Connections(ServeLimits(HEAD_SECONDS, KEEPALIVE_SECONDS, MAX_CONNECTIONS), clock)
        api = EdgeApi(
            gatherer, log, lambda: sampler.latest, metrics, clock, executor, self._about, config.web, connections
        )
        host, port = self._listener.getsockname()[:2]
        http = await stack.enter_async_context(serve(api, self._listener, connections))
        services: list[Service] = [http, sampler, committer, Job("watchdog", supervisor.watchdog)]
        sysfs = Path(config.paths.sysfs)
        alarm = Undervoltage(sysfs)
        if alarm.available:
            services.append(VoltageWatch(alarm, clock, committer.early))
        if device_writes(self._storage, sysfs) is not None:
            watch_device(lambda: device_writes(self._storage, sysfs), metrics)
        if config.discovery.mdns:
            from edge.announce import Announcer  # costs memory that --no-discovery.mdns saves

            announcer = Announcer(log.source_id, self._about.host, port, host, config.discovery.interfaces, clock)
            metrics.gauge(
                "mdns_announced", "Whether the agent is announced by mDNS.", lambda: float(bool(announcer.announced))
            )
            services.append(announcer)
        _log.info(
            "serving",
            address=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            id=log.source_id.hex(),
            storage=self._storage,
            collectors=len(self._runner.names),
            interval=f"{config.sample_interval / 1000:g}s",
        )
        return services, supervisor

    def _open_log(self) -> Log:
        storage = self._config.storage
        options = LogOptions(
            retention_ms=storage.retention_time,
            retention_bytes=storage.retention_size,
            setting="--storage.path",
        )
        return Log.open(self._storage, options, self._clock)
