"""Services: restarted after expected errors, not after bugs; watched; stopped by cancelling."""

import asyncio
import itertools
import os
import random
import signal
import socket
from pathlib import Path

import pytest

from common.errors import RemoteError
from common.supervisor import Backoff, Heartbeats, Job, Supervisor, sd_notify, until_signal, watchdog_interval
from common.testing import FakeClock, settle


async def test_a_service_that_fails_in_an_expected_way_is_restarted_with_growing_delays(clock: FakeClock) -> None:
    starts: list[float] = []

    async def flaky() -> None:
        starts.append(clock.monotonic())
        if len(starts) < 4:
            raise RemoteError("no")

    supervisor = Supervisor(clock, Backoff(first=1.0, longest=3.0), random.Random(1))
    task = asyncio.create_task(supervisor.run([Job("flaky", flaky)]))
    await clock.advance(20)
    await task
    gaps = [b - a for a, b in itertools.pairwise(starts)]
    assert [0.5 <= gaps[0] <= 1.0, 1.0 <= gaps[1] <= 2.0, 1.5 <= gaps[2] <= 3.0] == [True] * 3
    assert supervisor.restarts == {"flaky": 3}


async def test_one_failing_service_does_not_stop_its_siblings(clock: FakeClock) -> None:
    ticks = 0

    async def steady() -> None:
        nonlocal ticks
        while True:
            await clock.sleep(1)
            ticks += 1

    async def broken() -> None:
        raise OSError("disk")

    task = asyncio.create_task(Supervisor(clock).run([Job("steady", steady), Job("broken", broken)]))
    await clock.advance(10)
    assert ticks == 10
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_programming_error_ends_the_program(clock: FakeClock) -> None:
    async def bug() -> None:
        raise KeyError("oops")

    with pytest.raises(ExceptionGroup) as caught:
        await Supervisor(clock).run([Job("bug", bug)])
    assert isinstance(caught.value.exceptions[0], KeyError)


async def test_heartbeats_are_overdue_after_their_promise(clock: FakeClock) -> None:
    beats = Heartbeats(clock)
    beats.beat("wal", 5)
    beats.beat("rules", 60)
    await clock.advance(6)
    assert beats.overdue() == ["wal"]
    beats.beat("wal", 5)
    assert beats.overdue() == []
    await clock.advance(6)
    beats.forget("wal")
    assert beats.overdue() == []


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "socket.socket":
    """A socket where systemd would listen."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(tmp_path / "notify"))
    sock.setblocking(False)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    return sock


async def test_the_watchdog_is_fed_only_while_all_heartbeats_are_fresh(
    clock: FakeClock, systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "20000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    with systemd:
        supervisor = Supervisor(clock)
        supervisor.heartbeats.beat("loop", 15)
        task = asyncio.create_task(supervisor.watchdog())
        await clock.advance(10)
        assert [systemd.recv(99), systemd.recv(99)] == [b"WATCHDOG=1"] * 2
        await clock.advance(10)
        with pytest.raises(BlockingIOError):
            systemd.recv(99)
        supervisor.heartbeats.beat("loop", 15)
        await clock.advance(10)
        assert systemd.recv(99) == b"WATCHDOG=1"
        task.cancel()
        await settle()


def test_notifying_reaches_systemd_and_is_a_no_op_without_it(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with systemd:
        assert sd_notify("READY=1")
        assert systemd.recv(99) == b"READY=1"
        monkeypatch.delenv("NOTIFY_SOCKET")
        assert not sd_notify("READY=1")


@pytest.mark.parametrize(
    ("usec", "pid", "want"), [("", "", None), ("x", "", None), ("6000000", "", 3.0), ("6", "1", None)]
)
def test_the_watchdog_interval_is_half_of_what_systemd_asks_of_this_process(
    monkeypatch: pytest.MonkeyPatch, usec: str, pid: str, want: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    assert watchdog_interval() == want


async def test_a_signal_cancels_the_program_and_waits_for_its_clean_up() -> None:
    done: list[str] = []

    async def program() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.Event().wait()
        finally:
            await settle()
            done.append("cleaned")

    await until_signal(program)
    assert done == ["cleaned"]
