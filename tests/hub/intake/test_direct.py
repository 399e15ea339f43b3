"""The lean client, against servers that send prepared bytes."""

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import RemoteError
from common.testing import settle, until
from hub.intake.direct import MAX_HEAD_BYTES, Answer, Direct
from hub.intake.http import BodyLimitError, gunzip

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
FINE = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class _Server:
    """Answers each request with the next of the prepared parts; None ends the connection."""

    def __init__(self, *answers: "list[bytes | None]") -> None:
        self.answers = list(answers)
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while self.answers:
                await reader.readuntil(b"\r\n\r\n")
                for part in self.answers.pop(0):
                    if part is None:
                        return
                    writer.write(part)
                    await writer.drain()
                    # Parts are to arrive one by one.
                    await settle(1)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def _serving(*answers: "list[bytes | None]") -> AsyncIterator[tuple[_Server, Direct]]:
    async with AsyncExitStack() as stack:
        server = _Server(*answers)
        listening = await stack.enter_async_context(await asyncio.start_server(server.serve, "127.0.0.1", 0))
        direct = Direct("127.0.0.1", listening.sockets[0].getsockname()[1])
        stack.callback(direct.close)
        yield server, direct
        direct.close()
        await settle()


async def _ask(*parts: bytes | None, limit: int = 100) -> Answer:
    async with _serving(list(parts)) as (_, direct):
        return await direct.get(REQUEST, limit)


async def test_a_body_of_announced_length_is_read_and_the_connection_kept() -> None:
    answer: list[bytes | None] = [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A:  b \r\n\r\nhe", b"llo"]
    async with _serving(answer, answer) as (server, direct):
        for _ in range(2):
            found = await direct.get(REQUEST, 100)
            assert (found.status, found.reason, found.headers["x-a"], found.body) == (200, "OK", "b", b"hello")
        assert server.connections == 1


async def test_chunks_are_put_together_with_extensions_and_trailers_passed_over() -> None:
    found = await _ask(CHUNKED, b"3;x=y\r\nabc\r\n", b"A\r\n0123456789\r", b"\n0\r\nX: y\r\n", b"\r\n")
    assert found.body == b"abc0123456789"


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=6), st.lists(st.integers(1, 40), max_size=12))
@settings(max_examples=25, deadline=None)
def test_it_does_not_matter_how_an_answer_arrives(chunks: list[bytes], cuts: list[int]) -> None:
    whole = CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in chunks) + b"0\r\n\r\n"
    parts: list[bytes | None] = []
    for cut in cuts:
        parts.append(whole[:cut])
        whole = whole[cut:]
    parts.append(whole)
    parts = [part for part in parts if part]
    assert asyncio.run(_ask(*parts, limit=1000)).body == b"".join(chunks)


@pytest.mark.parametrize(
    "rest", [b"Content-Length: 3\n\nabc", b"Content-Length: 3\r\n\nabc", b"\nabc", b"X: y\n\r\nabc"]
)
async def test_heads_of_shell_scripts_end_their_lines_with_a_line_feed_alone(rest: bytes) -> None:
    found = await _ask(b"HTTP/1.1 200 OK\n", rest, None)
    assert (found.status, found.reason, found.body) == (200, "OK", b"abc")


async def test_a_header_field_may_go_on_in_the_next_line() -> None:
    found = await _ask(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain;\r\n\tversion=0.0.4\r\nContent-Length: 0\r\n\r\n")
    assert found.headers["content-type"] == "text/plain; version=0.0.4"


async def test_without_a_length_the_body_is_all_until_the_end() -> None:
    assert (await _ask(b"HTTP/1.0 200 OK\r\n\r\nab", b"c", None)).body == b"abc"


async def test_interim_answers_are_passed_over() -> None:
    found = await _ask(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 2000 + b"HTTP/1.1 204 No Content\r\n\r\n")
    assert (found.status, found.body) == (204, b"")


@pytest.mark.parametrize(
    "lines", [b"Connection: close", b"Connection: TE , Close", b"Connection: close\r\nConnection: TE"]
)
async def test_a_connection_that_ends_is_made_anew(lines: bytes) -> None:
    # The server leaves it open: what counts is that it said so.
    first = b"HTTP/1.1 200 OK\r\n" + lines + b"\r\nContent-Length: 0\r\n\r\n"
    async with _serving([first], [b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na"]) as (server, direct):
        await direct.get(REQUEST, 100)
        assert (await direct.get(REQUEST, 100)).body == b"a"
        assert server.connections == 2


async def test_a_kept_connection_that_turns_out_to_be_closed_is_replaced_once() -> None:
    kept = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    async with _serving([kept], [None], [b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na"]) as (server, direct):
        await direct.get(REQUEST, 100)
        assert (await direct.get(REQUEST, 100)).body == b"a"
        assert server.connections == 2


async def test_bytes_that_nobody_asked_for_are_no_answer_to_the_next_request() -> None:
    stray = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nabcd"
    async with _serving([stray], [b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"]) as (_, direct):
        assert (await direct.get(REQUEST, 100)).body == b"a"
        assert (await direct.get(REQUEST, 100)).body == b"x"


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([None], "it closed the connection without an answer"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", None], "the answer was cut off"),
        ([CHUNKED + b"5\r\nab", None], "the answer was cut off"),
        ([b"SSH-2.0-OpenSSH_9\r\n\r\n"], "the answer is not HTTP: 'SSH-2.0-OpenSSH_9'"),
        ([b"HTTP/1.1 abc\r\n\r\n"], "the answer is not HTTP: 'HTTP/1.1 abc'"),
        ([b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"], "the answer is not HTTP: header field 'no colon'"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"], "the answer is not HTTP: Content-Length '-1'"),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"], "the answer is not HTTP: transfer coding 'gzip'"),
        ([CHUNKED + b"zz\r\n"], "the answer is not HTTP: chunk size b'zz'"),
        ([CHUNKED + b"-1\r\n"], "the answer is not HTTP: chunk size b'-1'"),
        ([CHUNKED + b"0x1\r\n"], "the answer is not HTTP: chunk size b'0x1'"),
        ([CHUNKED + b"\r\n"], "the answer is not HTTP: chunk size b''"),
        ([b"HTTP/1.1 200 OK\r\n folded\r\n\r\n"], "the answer is not HTTP: header field ' folded'"),
        (
            [b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"],
            "the answer is not HTTP: Content-Length '1, 2'",
        ),
        ([CHUNKED + b"1\r\nabc\r\n"], "the answer is not HTTP: a chunk is longer than its size"),
        ([b"a" * (MAX_HEAD_BYTES + 1)], "the answer is not HTTP: more than 64.0 KiB of header fields"),
    ],
)
async def test_what_is_no_answer_is_refused_in_words(parts: list[bytes | None], reason: str) -> None:
    with pytest.raises(RemoteError) as caught:
        await _ask(*parts)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    "parts",
    [
        [b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n"],
        [b"HTTP/1.0 200 OK\r\n\r\n" + b"a" * 101],
        [CHUNKED + b"40\r\n" + b"a" * 64 + b"\r\n40\r\n"],
    ],
)
async def test_a_body_beyond_its_limit_is_refused_before_it_is_read(parts: list[bytes | None]) -> None:
    with pytest.raises(BodyLimitError, match="body size limit exceeded"):
        await _ask(*parts)


@pytest.mark.parametrize("lengths", [b"Content-Length: 1\r\nContent-Length: 1", b"Content-Length: 1, 1"])
async def test_a_length_may_be_repeated(lengths: bytes) -> None:
    assert (await _ask(b"HTTP/1.1 200 OK\r\n" + lengths + b"\r\n\r\na")).body == b"a"


async def test_the_first_of_repeated_header_fields_counts() -> None:
    found = await _ask(b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nContent-Type: c/d\r\nContent-Length: 0\r\n\r\n")
    assert found.headers["content-type"] == "a/b"


def _has_addresses(patch: pytest.MonkeyPatch, *addresses: tuple[str, int], error: Exception | None = None) -> None:
    """Have every host name stand for these addresses, or for none."""

    async def getaddrinfo(*_: object, **__: object) -> list[object]:
        if error is not None:
            raise error
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]

    patch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)


async def test_all_addresses_of_a_host_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _serving() as (_, closed):
        pass
    async with _serving([FINE]) as (_, direct):
        _has_addresses(monkeypatch, ("127.0.0.1", closed._port), ("127.0.0.1", direct._port))
        with closing(Direct("a.example", 80)) as named:
            assert (await named.get(REQUEST, 100)).body == b"a"


async def test_an_address_that_does_not_answer_keeps_no_other_from_being_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    connect = loop.sock_connect

    async def silent(sock: socket.socket, address: tuple[str, int]) -> None:
        if address[0] == "127.0.0.2":
            await asyncio.Event().wait()
        await connect(sock, address)

    async with _serving([FINE]) as (_, direct):
        _has_addresses(monkeypatch, ("127.0.0.2", 1), ("127.0.0.1", direct._port))
        monkeypatch.setattr(loop, "sock_connect", silent)
        with closing(Direct("a.example", 80)) as named:
            assert (await named.get(REQUEST, 100)).body == b"a"


@pytest.mark.parametrize("addresses", [("127.0.0.1", "127.0.0.2"), ("255.255.255.255", "127.0.0.1")])
async def test_that_no_address_answers_is_said_as_of_one(
    monkeypatch: pytest.MonkeyPatch, addresses: tuple[str, ...]
) -> None:
    async with _serving() as (_, closed):
        pass
    _has_addresses(monkeypatch, *((address, closed._port) for address in addresses))
    with pytest.raises(RemoteError, match=r"^connect: connection refused$"):
        await Direct("a.example", 80).get(REQUEST, 100)


@pytest.mark.parametrize("error", [socket.gaierror(-2, "Name or service not known"), UnicodeError("label too long")])
async def test_an_unknown_host_is_said_so(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    _has_addresses(monkeypatch, error=error)
    with pytest.raises(RemoteError, match=r"^no such host: a\.example$"):
        await Direct("a.example", 80).get(REQUEST, 100)


async def test_nobody_listening_is_said_so() -> None:
    async with _serving() as (_, direct):
        pass
    with pytest.raises(RemoteError, match=r"^connect: connection refused$"):
        await direct.get(REQUEST, 100)


async def test_a_request_that_is_given_up_leaves_no_connection_behind() -> None:
    late = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na"
    async with _serving([b"HTTP/1.1 200 OK\r\n"], [late]) as (server, direct):
        asking = asyncio.ensure_future(direct.get(REQUEST, 100))
        await until(lambda: server.connections)
        asking.cancel()
        await asyncio.wait([asking])
        assert (await direct.get(REQUEST, 100)).body == b"a"
        assert server.connections == 2


def test_gzip_of_several_members_is_one_text() -> None:
    assert gunzip(gzip.compress(b"ab") + gzip.compress(b"cd"), 4) == b"abcd"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda data: data[:-9], "the answer was cut off"),
        (lambda data: b"no" + data, "the answer is not gzip"),
        (lambda data: data + gzip.compress(b"x" * 90), "body size limit exceeded: more than 100 B"),
    ],
)
def test_spoiled_gzip_is_refused(spoil: Callable[[bytes], bytes], reason: str) -> None:
    with pytest.raises(RemoteError, match=reason):
        gunzip(spoil(gzip.compress(b"x" * 20)), 100)
