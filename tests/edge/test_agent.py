"""edge/agent.py: commits, and an end that leaves nothing behind."""

import asyncio
import threading
from pathlib import Path

import pytest

from common.frames.codec import decode
from common.listen import bind
from common.testing import FakeClock, settle
from edge import agent as module
from edge.agent import Agent, StopError
from edge.collectors.base import Collector, NoOptions, Paths, Reading, Skip
from edge.collectors.runner import Runner
from edge.config import DiscoveryConfig, EdgeConfig
from edge.log import Log, LogOptions


class Quiet(Collector):
    """A collector whose end can be held up."""

    name = "quiet"
    closing = threading.Event()

    def collect(self, skip: Skip) -> list[Reading]:
        return []

    def close(self) -> None:
        Quiet.closing.wait(60)


@pytest.fixture(autouse=True)
def nothing_hangs() -> None:
    Quiet.closing.set()


def build(path: Path, clock: FakeClock) -> tuple[Agent, int]:
    listener = bind("127.0.0.1", 0, "")
    runner = Runner([Quiet(Paths(), NoOptions(), clock)], clock, 30.0)
    config = EdgeConfig(discovery=DiscoveryConfig(mdns=False))
    return Agent(config, path, listener, runner, clock, "test"), listener.getsockname()[1]


def slots(path: Path, clock: FakeClock) -> int:
    log = Log.open(path, LogOptions(), clock)
    count = sum(decode(frame).header.slots for frame in log.read({}, "oldest", 1 << 30).frames)
    log.close()
    return count


async def ready(port: int) -> None:
    """Wait until the agent says that samples are being stored."""
    answer = b""
    async with asyncio.timeout(60):
        while b" 200 " not in answer:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /-/ready HTTP/1.0\r\n\r\n")
            answer = await reader.readline()
            writer.close()
            await writer.wait_closed()


async def test_cancelled_it_commits_what_it_sampled(tmp_path: Path) -> None:
    clock = FakeClock()
    agent, port = build(tmp_path / "log", clock)
    task = asyncio.create_task(agent.run())
    await ready(port)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert slots(tmp_path / "log", clock) == 1


async def test_further_signals_do_not_spoil_the_end(tmp_path: Path) -> None:
    clock = FakeClock()
    agent, port = build(tmp_path / "log", clock)
    Quiet.closing.clear()
    task = asyncio.create_task(agent.run())
    await ready(port)
    for _ in range(3):
        task.cancel()
        await settle(50)
    Quiet.closing.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert slots(tmp_path / "log", clock) == 1


async def test_an_end_that_hangs_is_given_up_after_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STOP_SECONDS", 0.05)
    agent, port = build(tmp_path / "log", FakeClock())
    Quiet.closing.clear()
    task = asyncio.create_task(agent.run())
    await ready(port)
    task.cancel()
    with pytest.raises(StopError, match=r"is the disk of .* hanging"):
        await task
    Quiet.closing.set()
    await asyncio.wait({t for t in asyncio.all_tasks() if t.get_name() == "close"})


async def test_at_the_limit_of_connections_the_one_at_rest_for_longest_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 2)
    clock = FakeClock()
    agent, port = build(tmp_path / "log", clock)
    task = asyncio.create_task(agent.run())
    await ready(port)
    request = b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n"
    kept = []
    for _ in range(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        await clock.advance(1)
        kept.append((reader, writer))
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await kept[0][0].readexactly(10_000)
    kept[1][1].write(request)
    assert b"200 OK" in await kept[1][0].readuntil(b"HTTP/1.1 200 OK\r\n")
    for _, writer in kept:
        writer.close()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
