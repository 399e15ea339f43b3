"""A lean HTTP/1.1 client for what is scraped over and over: plain http, one kept connection a target, GET only.

It knows what exporters answer with (a length, chunks, or all until the end of the connection; RFC 9112, section 6) and
leaves redirects, TLS and the rest to others. Bodies come as they were sent: undoing the content coding is the caller's.
"""

import asyncio
import ipaddress
import re
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass

import aiohappyeyeballs

from common.errors import RemoteError
from common.units import format_size
from hub.intake.http import BodyLimitError, strerror

MAX_HEAD_BYTES = 64 << 10
"""Status line and header fields of an answer; also the most that trailing fields and size lines of chunks may take."""

RECEIVE_BYTES = 256 << 10
NEXT_SECONDS = 0.25
"""How long one address of a host may take before the next one is tried, too (RFC 8305, section 5)."""

_LISTS = frozenset({"connection", "content-encoding", "content-length", "transfer-encoding"})
_END = re.compile(rb"\r?\n\r?\n")
_CHUNK_SIZE = re.compile(rb"[0-9a-fA-F]+\Z")
_ERRNO = re.compile(r"\[Errno (\d+)\]")


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer; names of header fields are in lower case. Of a repeated one the first counts, lists are joined."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes


class _NoAnswerError(RemoteError):
    """The connection ended before the first byte of an answer."""


class Direct:
    """The connection to one host and port. One request at a time; after any error the next makes a new connection."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._connection: _Connection | None = None
        self.busy = False
        """Whether a request is under way."""

    async def get(self, request: bytes, limit: int) -> Answer:
        """The answer to a whole request head, its body at most `limit` bytes; RemoteError says what went wrong.

        A kept connection that turns out to be closed is replaced once, as RFC 9112, 9.3.1 allows for GET.
        """
        assert not self.busy
        self.busy = True
        try:
            return await self._get(request, limit)
        finally:
            self.busy = False

    async def _get(self, request: bytes, limit: int) -> Answer:
        kept = self._connection
        if kept is not None and kept.usable:
            try:
                return await self._ask(kept, request, limit)
            except _NoAnswerError:
                pass
        self._connection = fresh = await self._connect()
        return await self._ask(fresh, request, limit)

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        try:
            if _is_address(self._host):
                return (await loop.create_connection(_Connection, self._host, self._port))[1]
            found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            sock = await aiohappyeyeballs.start_connection(found, happy_eyeballs_delay=NEXT_SECONDS, interleave=1)
            return (await loop.create_connection(_Connection, sock=sock))[1]
        except (socket.gaierror, UnicodeError):
            raise RemoteError(f"no such host: {self._host}") from None
        except OSError as err:
            raise RemoteError(f"connect: {_reason(err)}") from None

    async def _ask(self, connection: "_Connection", request: bytes, limit: int) -> Answer:
        try:
            return await connection.ask(request, limit)
        except BaseException:
            connection.usable = False
            raise
        finally:
            if not connection.usable:
                connection.close()

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _is_address(host: str) -> bool:
    """Whether the host is no name that must be looked up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _reason(err: OSError) -> str:
    """What the system says, without the address that asyncio puts around it; of several addresses, of the last."""
    if err.errno is None and (numbers := _ERRNO.findall(str(err))):
        err = OSError(int(numbers[-1]), "")
    text = strerror(err.errno) if err.errno is not None and err.errno > 0 else err.strerror or str(err)
    return text[:1].lower() + text[1:]


def _parse_head(head: bytes) -> tuple[str, int, str, dict[str, str]]:
    """Protocol, status, reason and header fields of an answer."""
    # A line feed alone ends a line, too (RFC 9112, 2.2), and some servers fold long fields (5.2).
    first, *lines = (line.removesuffix("\r") for line in head.decode("latin-1").split("\n"))
    protocol, _, rest = first.partition(" ")
    code, _, reason = rest.partition(" ")
    if not protocol.startswith("HTTP/1.") or len(code) != 3 or not code.isascii() or not code.isdigit():
        raise RemoteError(f"the answer is not HTTP: {first[:60]!r}")
    headers: dict[str, str] = {}
    key = ""
    for line in lines:
        if key and line[:1] in (" ", "\t"):
            headers[key] = " ".join((headers[key], line.strip(" \t"))).strip()
            continue
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise RemoteError(f"the answer is not HTTP: header field {line[:60]!r}")
        key, value = name.lower(), value.strip(" \t")
        if key not in headers:
            headers[key] = value
        elif key in _LISTS:
            headers[key] += f", {value}"
    return protocol, int(code), reason, headers


def _equals(data: bytes, at: int, begin: int, step: int) -> int:
    """How many whole chunks from `at` on, one every `step` bytes, have the size line `data[at:begin]`; servers write
    most of an answer in chunks of one size.
    """
    count = (len(data) - at) // step
    for place in range(at, begin):
        row = data[place : at + count * step : step]
        count = min(count, len(row) - len(row.lstrip(row[:1])))
    return count


class _Room(threading.local):
    """Where what comes is received, for all connections of a thread: they take it away before another receives."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(RECEIVE_BYTES))


_room = _Room()


class _Connection(asyncio.BufferedProtocol):
    """Collects what comes, and settles the future of the request that waits."""

    def __init__(self) -> None:
        self.usable = True
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Answer] | None = None
        self._limit = 0
        self._reset()

    def _reset(self) -> None:
        self._buffer = bytearray()
        """What came and could not be taken yet."""
        self._need = 0
        """How long that has to be before another look is worth it."""
        self._head: tuple[int, str, dict[str, str]] | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._left: int | None = 0
        """Bytes of the body, or of the chunk, that are missing; None: all until the end."""
        self._chunked = False

    def ask(self, request: bytes, limit: int) -> asyncio.Future[Answer]:
        """Send a request; the answer."""
        assert self._transport is not None
        self._reset()
        self._limit = limit
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._waiting

    def close(self) -> None:
        """Give up what waits."""
        self._fail(RemoteError("the connection was given up"))
        self._waiting = None
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        """See asyncio.BufferedProtocol."""
        return _room.view

    def buffer_updated(self, nbytes: int) -> None:
        """See asyncio.BufferedProtocol."""
        if self._waiting is None or self._waiting.done():
            # Nobody asked: whoever asks next must not get this.
            self.close()
            return
        data = bytes(_room.view[:nbytes])
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._need:
                return
            data = bytes(self._buffer)
            self._keep(b"")
        try:
            if self._head is None:
                self._begin(data)
            elif self._chunked:
                self._chunks(data)
            else:
                self._take(data)
        except RemoteError as err:
            self._fail(err)

    def eof_received(self) -> None:
        """See asyncio.Protocol."""

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self.usable = False
        if self._waiting is None or self._waiting.done():
            return
        if self._head is None:
            if isinstance(exc, OSError):
                self._fail(_NoAnswerError(f"read: {_reason(exc)}"))
            else:
                self._fail(_NoAnswerError("it closed the connection without an answer"))
        elif self._left is None and not self._chunked and exc is None:
            self._done()
        else:
            self._fail(RemoteError("the answer was cut off"))

    # The answer

    def _fail(self, err: RemoteError) -> None:
        self.usable = False
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(err)

    def _keep(self, data: bytes, need: int = 0) -> None:
        self._buffer, self._need = bytearray(data), need

    def _begin(self, data: bytes) -> None:
        while True:
            end = _END.search(data)
            if end is None:
                if len(data) > MAX_HEAD_BYTES:
                    limit = format_size(MAX_HEAD_BYTES)
                    raise RemoteError(f"the answer is not HTTP: more than {limit} of header fields")
                self._keep(data)
                return
            protocol, status, reason, headers = _parse_head(data[: end.start()])
            data = data[end.end() :]
            # Interim answers (1xx) are passed over: the real one follows.
            if status >= 200:
                break
        self._head = status, reason, headers
        options = {each.strip() for each in headers.get("connection", "").lower().split(",")}
        self.usable = "close" not in options and (protocol != "HTTP/1.0" or "keep-alive" in options)
        length = headers.get("content-length")
        if "transfer-encoding" in headers:
            if headers["transfer-encoding"].lower() != "chunked":
                raise RemoteError(f"the answer is not HTTP: transfer coding {headers['transfer-encoding'][:40]!r}")
            self._chunked = True
            self._chunks(data)
        elif status in (204, 304):
            self.usable = self.usable and not data
            self._done()
        elif length is None:
            self._left, self.usable = None, False
            self._take(data)
        else:
            # The same once more is none the worse (RFC 9110, 8.6).
            first, *others = (each.strip() for each in length.split(","))
            if not first.isascii() or not first.isdigit() or any(each != first for each in others):
                raise RemoteError(f"the answer is not HTTP: Content-Length {length[:40]!r}")
            self._left = int(first)
            if self._left > self._limit:
                raise BodyLimitError(
                    f"body size limit exceeded: {format_size(self._left)} announced, at most {format_size(self._limit)}"
                )
            self._take(data)

    def _add(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._limit:
            raise BodyLimitError(f"body size limit exceeded: more than {format_size(self._limit)}")
        self._parts.append(data)

    def _take(self, data: bytes) -> None:
        if self._left is None:
            self._add(data)
            return
        if len(data) > self._left:
            # More than was announced: the rest belongs to nothing.
            data, self.usable = data[: self._left], False
        self._left -= len(data)
        self._add(data)
        if not self._left:
            self._done()

    def _chunks(self, data: bytes) -> None:
        """Take whole chunks (RFC 9112, 7.1), and keep what is left."""
        at = need = 0
        while True:
            end = data.find(b"\r\n", at)
            if end < 0:
                if len(data) - at > MAX_HEAD_BYTES:
                    raise RemoteError("the answer is not HTTP: a chunk without its size")
                break
            text = data[at:end].partition(b";")[0].strip()
            if not _CHUNK_SIZE.match(text):
                raise RemoteError(f"the answer is not HTTP: chunk size {text[:40]!r}")
            size = int(text, 16)
            if not size:
                if self._trailer(data, end):
                    return
                break
            if self._size + size > self._limit:
                raise BodyLimitError(f"body size limit exceeded: more than {format_size(self._limit)}")
            if len(data) < end + 4 + size:
                need = end + 4 + size - at
                break
            begin, step = end + 2, end + 4 + size - at
            for start in range(begin, begin + step * _equals(data, at, begin, step), step):
                if data[start + size : start + size + 2] != b"\r\n":
                    raise RemoteError("the answer is not HTTP: a chunk is longer than its size")
                self._add(data[start : start + size])
                at = start + size + 2
        self._keep(data[at:], need)

    def _trailer(self, data: bytes, end: int) -> bool:
        """The last chunk's size ends at `end`: done once the fields behind it have ended with an empty line."""
        rest = data[end : end + MAX_HEAD_BYTES]
        stop = rest.find(b"\r\n\r\n")
        if stop < 0:
            if len(rest) >= MAX_HEAD_BYTES:
                raise RemoteError(f"the answer is not HTTP: more than {format_size(MAX_HEAD_BYTES)} of trailers")
            return False
        if len(data) > end + stop + 4:
            self.usable = False
        self._done()
        return True

    def _done(self) -> None:
        assert self._head is not None
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(Answer(*self._head, b"".join(self._parts)))
