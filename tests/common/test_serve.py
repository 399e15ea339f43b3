"""Connections that only hold a place are cut off; others are answered. Real sockets, a clock that the test moves."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio
from aiohttp import web

from common.listen import bind
from common.serve import Connections, Cut, ServeLimits, tracked
from common.testing import FakeClock, until

LIMITS = ServeLimits(head_seconds=8, idle_seconds=40, most=3)
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Served:
    """A server whose `/` answers at once and `/slow` when told."""

    port: int
    clock: FakeClock
    connections: Connections
    go: asyncio.Event
    reached: asyncio.Event
    waiting: int = 0

    async def connect(self, sent: bytes = b"") -> Client:
        count = self.connections.accepted
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(sent)
        await until(lambda: self.connections.accepted > count)
        return reader, writer


@pytest_asyncio.fixture
async def served() -> AsyncIterator[Served]:
    clock, go, reached = FakeClock(), asyncio.Event(), asyncio.Event()
    connections = Connections(LIMITS, clock)
    found: list[Served] = []

    async def quick(request: web.Request) -> web.Response:
        return web.Response(text="hello")

    async def slow(request: web.Request) -> web.Response:
        found[0].waiting += 1
        reached.set()
        await go.wait()
        return web.Response(text="hello")

    app = web.Application(middlewares=[tracked(connections)])
    app.router.add_get("/", quick)
    app.router.add_get("/slow", slow)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    assert runner.server is not None
    with bind("127.0.0.1", 0, "nobody") as sock:
        task = asyncio.create_task(connections.run(sock, runner.server))
        found.append(Served(sock.getsockname()[1], clock, connections, go, reached))
        yield found[0]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await runner.cleanup()


async def is_cut(client: Client) -> bool:
    """Whether the server ended the connection without a word."""
    try:
        return await client[0].read() == b""
    except ConnectionResetError:
        return True


async def answer(client: Client) -> bytes:
    """The status line and the body of an answer."""
    line = await client[0].readline()
    await client[0].readuntil(b"\r\n\r\nhello")
    return line


@pytest.mark.parametrize("sent", [b"", b"GET / HTT", b"GET / HTTP/1.1\r\nHost: x\r\nX-A: "])
async def test_a_client_without_a_whole_head_is_cut_off_in_time(served: Served, sent: bytes) -> None:
    client = await served.connect(sent)
    await served.clock.advance(6)
    assert len(served.connections) == 1
    await served.clock.advance(4)
    assert await is_cut(client)
    assert served.connections.cut == {Cut.HEAD: 1}
    client[1].close()


async def test_dribbling_the_head_does_not_put_the_end_off(served: Served) -> None:
    client = await served.connect(b"GET / HTTP/1.1\r\n")
    for byte in b"Host: a-long-name":
        client[1].write(bytes([byte]))
        await served.clock.advance(1)
        if not len(served.connections):
            break
    assert await is_cut(client)
    assert served.connections.cut == {Cut.HEAD: 1}
    client[1].close()


async def test_the_head_of_a_second_request_has_the_same_deadline(served: Served) -> None:
    client = await served.connect(REQUEST)
    assert b"200 OK" in await answer(client)
    await served.clock.advance(20)
    client[1].write(b"GET / HT")
    while served.connections.cut.total() == 0:
        await served.clock.advance(1)
    assert served.connections.cut == {Cut.HEAD: 1}
    assert await is_cut(client)
    client[1].close()


async def test_a_client_at_rest_is_cut_off_later(served: Served) -> None:
    client = await served.connect(REQUEST)
    assert b"200 OK" in await answer(client)
    await served.clock.advance(36)
    client[1].write(REQUEST)
    assert b"200 OK" in await answer(client)
    await served.clock.advance(42)
    assert await is_cut(client)
    assert served.connections.cut == {Cut.IDLE: 1}
    client[1].close()


async def test_an_answer_may_take_longer_than_any_deadline(served: Served) -> None:
    client = await served.connect(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
    await served.reached.wait()
    await served.clock.advance(1000)
    served.go.set()
    assert b"200 OK" in await answer(client)
    client[1].close()


async def test_at_the_limit_the_oldest_without_a_request_makes_room(served: Served) -> None:
    busy = await served.connect(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
    await served.reached.wait()
    await served.clock.advance(1)
    silent = await served.connect(b"GET")
    await served.clock.advance(1)
    rested = await served.connect(REQUEST)
    assert b"200 OK" in await answer(rested)
    new = await served.connect(REQUEST)
    assert b"200 OK" in await answer(new)
    assert await is_cut(silent)
    assert served.connections.cut == {Cut.PLACE: 1}
    served.go.set()
    assert b"200 OK" in await answer(busy)
    for _, writer in (busy, silent, rested, new):
        writer.close()


async def test_while_all_are_answered_new_ones_wait(served: Served) -> None:
    busy = [await served.connect(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(LIMITS.most)]
    await until(lambda: served.waiting == LIMITS.most)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(REQUEST)
    await served.clock.advance(100)
    assert served.connections.accepted == LIMITS.most
    served.go.set()
    assert b"200 OK" in await answer((reader, writer))
    for _, each in (*busy, (reader, writer)):
        each.close()


async def test_a_head_of_more_than_the_limit_is_400(served: Served) -> None:
    client = await served.connect(b"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 20_000 + b"\r\n\r\n")
    assert b" 400 " in await client[0].readline()
    client[1].close()
