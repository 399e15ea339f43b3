"""Runs a program's services: one task each, restarted with backoff, watched by heartbeats, stopped by cancelling."""

import asyncio
import os
import random
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from common.clock import Clock
from common.errors import BrambleError
from common.logs import EventLog

_log = EventLog("supervisor")


class Service(Protocol):
    """A long-running part of a program. Cancelling `run` is how it stops; it must clean up then."""

    @property
    def name(self) -> str:
        """For logs and metrics."""
        ...

    async def run(self) -> None:
        """Run until cancelled; returning early ends the service without a restart."""
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """A Service made of a name and a coroutine function."""

    name: str
    main: Callable[[], Awaitable[None]]

    async def run(self) -> None:
        """Await the coroutine function's result."""
        await self.main()


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential delays in seconds with full jitter; after `reset_after` of health the count starts again."""

    first: float = 0.5
    longest: float = 60.0
    reset_after: float = 300.0

    def delay(self, failures: int, rng: random.Random) -> float:
        """Seconds to wait after the `failures`-th failure in a row (1 or more)."""
        ceiling = min(self.longest, self.first * 2.0 ** min(failures - 1, 30))
        return ceiling * (0.5 + 0.5 * rng.random())


class Heartbeats:
    """Who promised to beat, and when they last did; the systemd watchdog is fed only while all are fresh."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._beats: dict[str, tuple[float, float]] = {}

    def beat(self, name: str, within: float) -> None:
        """`name` is alive now and promises to beat again within that many seconds."""
        self._beats[name] = (self._clock.monotonic(), within)

    def forget(self, name: str) -> None:
        """`name` ended on purpose."""
        self._beats.pop(name, None)

    def overdue(self) -> list[str]:
        """Names whose promise is broken."""
        now = self._clock.monotonic()
        return sorted(name for name, (last, within) in self._beats.items() if now - last > within)


def sd_notify(state: str) -> bool:
    """Send `state` (sd_notify(3), e.g. `READY=1`) to systemd; False when not run by it."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(address)
            sock.sendall(state.encode())
        except OSError as err:
            _log.warn("could not notify systemd", error=err)
            return False
    return True


def watchdog_interval() -> float | None:
    """Half of systemd's WatchdogSec for this process (sd_watchdog_enabled(3)), or None."""
    usec = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID")
    if not usec.isdigit() or int(usec) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 2_000_000


class Supervisor:
    """Runs services until one ends the program, a signal arrives, or it is cancelled."""

    def __init__(
        self,
        clock: Clock,
        backoff: Backoff | None = None,
        rng: random.Random | None = None,
        heartbeats: Heartbeats | None = None,
    ) -> None:
        self._clock = clock
        self._backoff = backoff or Backoff()
        self._rng = rng or random.Random()
        self.heartbeats = heartbeats or Heartbeats(clock)
        self.restarts: dict[str, int] = {}

    async def run(self, services: Sequence[Service]) -> None:
        """Run all services; returns when all have returned, raises the first programming error."""
        async with asyncio.TaskGroup() as group:
            for service in services:
                group.create_task(self._keep(service), name=service.name)

    async def _keep(self, service: Service) -> None:
        failures = 0
        while True:
            began = self._clock.monotonic()
            try:
                await service.run()
            except (BrambleError, OSError, TimeoutError) as err:
                if self._clock.monotonic() - began > self._backoff.reset_after:
                    failures = 0
                failures += 1
                self.restarts[service.name] = self.restarts.get(service.name, 0) + 1
                delay = self._backoff.delay(failures, self._rng)
                _log.error("service failed, restarting", service=service.name, error=err, delay=f"{delay:.1f}s")
                await self._clock.sleep(delay)
            else:
                return

    async def watchdog(self) -> None:
        """Feed systemd's watchdog while no heartbeat is overdue; returns at once when there is none."""
        interval = watchdog_interval()
        if interval is None:
            return
        while True:
            late = self.heartbeats.overdue()
            if late:
                _log.error("heartbeats overdue, watchdog not fed", services=",".join(late))
            else:
                sd_notify("WATCHDOG=1")
            await self._clock.sleep(interval)


async def until_signal(main: Callable[[], Awaitable[None]]) -> None:
    """Run `main` until it returns or SIGINT/SIGTERM arrives, then cancel it and wait for its clean-up."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(main())
    stopped = False

    def stop(signum: int) -> None:
        nonlocal stopped
        stopped = True
        _log.info("stopping", signal=signal.Signals(signum).name)
        sd_notify("STOPPING=1")
        task.cancel()

    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stop, signum)
    try:
        await task
    except asyncio.CancelledError:
        if not stopped:
            raise
    finally:
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(signum)
