"""Short queries are answered before the HTTP server sees them: as it would, to the byte."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

import pytest
import pytest_asyncio
from aiohttp import web

from common.listen import bind
from common.serve import HEAD_SECONDS, Connections, ServeLimits
from common.tsdb.changes import Changes
from hub.api.app import make_app, make_runner
from hub.api.range_cache import RangeCache
from hub.query_log import QueryLog
from tests.hub.api.conftest import T0, Api

INSTANT, RANGED = "/api/v1/query", "/api/v1/query_range"
AT = {"query": "up", "time": f"{T0 / 1000 + 60:.3f}"}
OVER = {"query": "temp", "start": f"{T0 / 1000:.3f}", "end": f"{T0 / 1000 + 300:.3f}", "step": "15"}
LONG = {**OVER, "step": "1"}
NOT_PLAIN = ("X-Twice: 1", "X-Twice: 2")
"""Fields by which a request goes to the server."""


def post(path: str, form: dict[str, str], *fields: str) -> bytes:
    body = urlencode(form)
    kind = ("Content-Type: application/x-www-form-urlencoded", f"Content-Length: {len(body)}")
    return "\r\n".join((f"POST {path} HTTP/1.1", "Host: hub:9090", *fields, *kind, "", body)).encode()


def get(path: str, form: dict[str, str], *fields: str) -> bytes:
    return "\r\n".join((f"GET {path}?{urlencode(form)} HTTP/1.1", "Host: hub:9090", *fields, "", "")).encode()


class Case(NamedTuple):
    """A request, made by `post` or `get`."""

    make: Callable[..., bytes]
    path: str
    form: dict[str, str]
    fields: tuple[str, ...] = ()

    def request(self, *more: str) -> bytes:
        return self.make(self.path, self.form, *self.fields, *more)


async def read(reader: asyncio.StreamReader) -> bytes:
    """An answer without its date."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    assert length is not None
    return re.sub(rb"Date: [^\r]*\r\n", b"", head) + await reader.readexactly(int(length[1]))


@dataclass
class Served:
    """The API behind `Connections`, as the hub serves it."""

    api: Api
    port: int
    server: web.Server

    async def ask(self, *requests: bytes) -> tuple[list[bytes], int]:
        """The answers on one connection, and how many of them the server gave."""
        before = self.server.requests_count
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        answers = []
        for request in requests:
            writer.write(request)
            answers.append(await read(reader))
        writer.close()
        await writer.wait_closed()
        return answers, self.server.requests_count - before

    def metric(self, name: str, **labels: str) -> float:
        return self.api.state.registry.get_sample_value(name, labels) or 0.0


@pytest_asyncio.fixture
async def served(api: Api, request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    """Configured by the test's parameter, if it has one."""
    api.fill()
    getattr(request, "param", lambda _: None)(api)
    connections = Connections(ServeLimits(), api.clock)
    runner = make_runner(make_app(api.state, connections))
    await runner.setup()
    assert runner.server is not None
    with bind("127.0.0.1", 0, "nobody") as sock:
        task = asyncio.create_task(connections.run(sock, runner.server))
        yield Served(api, sock.getsockname()[1], runner.server)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await runner.cleanup()


ALIKE = {
    "instant": Case(post, INSTANT, AT),
    "range": Case(post, RANGED, OVER),
    "by GET": Case(get, RANGED, OVER),
    "instant by GET": Case(get, INSTANT, AT),
    "a scalar": Case(post, INSTANT, {**AT, "query": "time()"}),
    "a string": Case(post, INSTANT, {**AT, "query": '"é%"'}),
    "a range vector": Case(get, INSTANT, {**AT, "query": "up[1m]"}),
    "nothing": Case(post, INSTANT, {**AT, "query": "nothing"}),
    "a limit": Case(post, INSTANT, {**AT, "limit": "1"}),
    "an info": Case(post, RANGED, {**OVER, "query": "rate(temp[1m])"}),
    "gzip": Case(post, RANGED, LONG, ("Accept-Encoding: gzip",)),
    "zstd preferred": Case(get, RANGED, LONG, ("Accept-Encoding: gzip, zstd",)),
    "too short for gzip": Case(post, INSTANT, AT, ("Accept-Encoding: gzip",)),
    "another origin": Case(post, INSTANT, AT, ("Origin: http://page:3000",)),
    "parameters in both": Case(post, INSTANT + "?time=1&query=nothing", AT),
}


@pytest.mark.parametrize("what", ALIKE)
async def test_the_answer_is_the_servers_to_the_byte(served: Served, what: str) -> None:
    case = ALIKE[what]
    (theirs,), given = await served.ask(case.request(*NOT_PLAIN))
    assert given == 1
    assert theirs.startswith(b"HTTP/1.1 200 OK\r\n")
    answers, given = await served.ask(*2 * [case.request()])
    assert answers == [theirs, theirs]
    assert given == 0
    labels = {"handler": case.path.partition("?")[0]}
    assert served.metric("prometheus_http_requests_total", code="200", **labels) == 3
    assert served.metric("prometheus_http_request_duration_seconds_count", **labels) == 3


async def test_a_query_is_answered_so_once_its_like_was_short(served: Served) -> None:
    first, given = await served.ask(post(INSTANT, AT), post(INSTANT, {**AT, "time": f"{T0 / 1000 + 90:.3f}"}))
    assert given == 1
    assert first[0] != first[1]
    samples = served.metric("prometheus_engine_query_samples_total")
    await served.ask(post(INSTANT, AT))
    assert served.metric("prometheus_engine_query_samples_total") == samples + 2


WRONG = {
    "no time": Case(get, RANGED, {"query": "up"}),
    "no query": Case(post, INSTANT, {}),
    "unparsable": Case(post, INSTANT, {**AT, "query": "up{"}),
    "failing": Case(post, INSTANT, {**AT, "query": "up + on (job) up"}),
    "no time left": Case(post, INSTANT, {**AT, "timeout": "0"}),
    "a bad limit": Case(post, INSTANT, {**AT, "limit": "-1"}),
    "points": Case(post, RANGED, {**OVER, "step": "0.001"}),
    "another kind of body": Case(
        lambda path, form, *fields: post(path, form, *fields).replace(b"x-www-form", b"x-www-farm"),
        INSTANT,
        AT,
    ),
}


@pytest.mark.parametrize("what", WRONG)
async def test_errors_are_the_servers(served: Served, what: str) -> None:
    case = WRONG[what]
    (theirs,), _ = await served.ask(case.request(*NOT_PLAIN))
    answers, given = await served.ask(*2 * [case.request()])
    assert answers == [theirs, theirs]
    assert given == 2
    assert not theirs.startswith(b"HTTP/1.1 200 ")


async def test_a_hub_that_is_not_ready_says_so(served: Served) -> None:
    await served.ask(post(INSTANT, AT))
    served.api.not_ready = "starting"
    (answer,), given = await served.ask(post(INSTANT, AT))
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert given == 1


async def test_answers_come_in_order_whatever_the_client_waits_for(served: Served) -> None:
    query, health = post(INSTANT, AT), get("/-/healthy", {})
    (first, healthy), _ = await served.ask(query, health)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    sent = [query, health, query, query, health]
    writer.write(b"".join(sent[:1]))
    assert await read(reader) == first
    writer.write(b"".join(sent[1:]))
    assert [await read(reader) for _ in sent[1:]] == [healthy, first, first, healthy]
    writer.close()
    await writer.wait_closed()


async def test_requests_of_both_kinds_take_turns(served: Served) -> None:
    query, health = post(INSTANT, AT), get("/-/healthy", {})
    answers, given = await served.ask(query, query, health, query, post("/-/reload", {}), query, health, query)
    assert given == 4
    assert answers[0] == answers[1] == answers[3] == answers[5] == answers[7]
    assert answers[2] == answers[6]
    assert answers[4].startswith(b"HTTP/1.1 403 ")


async def test_a_body_in_parts_is_waited_for(served: Served) -> None:
    request = post(INSTANT, AT)
    (answer,), _ = await served.ask(request)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    before = served.server.requests_count
    writer.write(request[:-3])
    await served.ask(get("/-/healthy", {}))  # By then the first part has been read.
    before += 1
    writer.write(request[-3:])
    assert await read(reader) == answer
    assert served.server.requests_count == before
    writer.close()
    await writer.wait_closed()


def impatient(api: Api) -> None:
    api.limit(body_ms=50)


@pytest.mark.parametrize("served", [impatient], indirect=True)
async def test_a_body_that_never_ends_is_408_from_the_server(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(post(INSTANT, AT)[:-3])
    await served.ask(get("/-/healthy", {}))
    await served.api.clock.advance(HEAD_SECONDS / 2)
    assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
    writer.close()
    await writer.wait_closed()


def prefixed(api: Api) -> None:
    api.web(route_prefix="/hub")


@pytest.mark.parametrize("served", [prefixed], indirect=True)
async def test_the_prefix_belongs_to_the_path(served: Served) -> None:
    assert (await served.ask(*2 * [post("/hub" + INSTANT, AT)]))[1] == 1
    (answer,), given = await served.ask(post(INSTANT, AT))
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert given == 1


def closed_to_others(api: Api) -> None:
    api.web(cors_origin="https?://(a|b)")


@pytest.mark.parametrize("served", [closed_to_others], indirect=True)
@pytest.mark.parametrize(("origin", "allowed"), [("http://a", True), ("http://c", False)])
async def test_origins_are_told_apart(served: Served, origin: str, allowed: bool) -> None:
    answers, given = await served.ask(*2 * [post(INSTANT, AT, f"Origin: {origin}")])
    assert answers[0] == answers[1]
    assert given == 1
    assert (f"Access-Control-Allow-Origin: {origin}".encode() in answers[1]) is allowed


def cached(api: Api) -> None:
    changes = Changes()
    api.configure(cache=RangeCache(changes, 1 << 20, api.state.registry))


@pytest.mark.parametrize("served", [cached], indirect=True)
async def test_the_result_cache_is_asked_first(served: Served) -> None:
    (first, *_), given = await served.ask(*3 * [post(RANGED, OVER)])
    assert given == 1
    assert served.metric("bramble_hub_result_cache_requests_total", outcome="hit") == 2
    bypassing = post(RANGED, {**OVER, "nocache": "1"})
    answers, given = await served.ask(bypassing, bypassing)
    assert answers == [first, first]
    assert given == 0
    assert served.metric("bramble_hub_result_cache_requests_total", outcome="bypass") == 2


def logging(api: Api) -> None:
    api.configure(query_log=QueryLog(api.clock, api.state.registry))


@pytest.mark.parametrize("served", [logging], indirect=True)
async def test_with_the_query_log_on_the_server_answers(served: Served, tmp_path: Path) -> None:
    log = served.api.state.query_log
    assert log is not None
    assert (await served.ask(*2 * [post(INSTANT, AT)]))[1] == 1
    log.follow(tmp_path / "queries.log")
    assert (await served.ask(*2 * [post(INSTANT, AT)]))[1] == 2
    log.close()
    assert len((tmp_path / "queries.log").read_text().splitlines()) == 2
