"""Takes HTTP connections from a listening socket, and cuts off those that only hold a place.

aiohttp waits for ever for the rest of a request's head. Here every connection is in one of three states: its request's
head is awaited, the request is being answered, or the client rests between requests. The first and the last have a
deadline. At the limit of connections a new one takes the place of the one that has been at rest, or without a whole
head, for longest; while all are being answered, new ones wait in the kernel's queue.
"""

import asyncio
import errno
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum

from aiohttp import web
from aiohttp.typedefs import Middleware

from common.clock import Clock
from common.front import Front
from common.logs import EventLog

HEAD_SECONDS = 15.0
RETRY_SECONDS = 1.0
"""How long to wait when the machine has no file descriptors or memory left for a connection."""

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_OF_THE_CLIENT = (
    errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.EHOSTDOWN, errno.EHOSTUNREACH,
    errno.ENETUNREACH, errno.EOPNOTSUPP, errno.ETIMEDOUT,
)  # fmt: skip
"""Errors of the new connection that are reported as errors of the listening socket (accept(2))."""
_log = EventLog("http")


class Cut(StrEnum):
    """Why a connection was cut off."""

    HEAD = "head"
    """No whole head of a request in time."""
    IDLE = "idle"
    """No new request in time."""
    PLACE = "place"
    """Another one needed its place."""


@dataclass(frozen=True, slots=True)
class ServeLimits:
    """Seconds that a client may take for a request's head and rest between requests; most connections at a time."""

    head_seconds: float = HEAD_SECONDS
    idle_seconds: float = 300.0
    most: int = 512


class _State(StrEnum):
    HEAD = "head"
    ANSWERED = "answered"
    REST = "rest"


class _Connection(asyncio.Protocol):
    """Stands between the transport and the protocol that does the work, and knows the connection's state."""

    __slots__ = ("front", "inner", "owner", "since", "state", "transport")

    def __init__(self, inner: asyncio.Protocol, owner: "Connections") -> None:
        self.inner = inner
        self.owner = owner
        self.state = _State.HEAD
        self.since = 0.0
        self.transport: asyncio.Transport | None = None
        self.front: Front | None = None

    def enter(self, state: _State) -> None:
        """Be in this state from now on."""
        self.state, self.since = state, self.owner.clock.monotonic()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.enter(_State.HEAD)
        self.owner.opened(self)
        self.inner.connection_made(transport)
        if self.owner.front is not None:
            peer = transport.get_extra_info("peername")
            self.front = self.owner.front(str(peer[0]) if isinstance(peer, tuple) else "", self.inner.data_received)

    def connection_lost(self, exc: Exception | None) -> None:
        self.owner.lost(self)
        self.inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.state is _State.REST:
            self.enter(_State.HEAD)
        if self.front is None:
            self.inner.data_received(data)
            return
        answer = self.front.take(data, not self.sending())
        if answer is not None:
            assert self.transport is not None
            self.transport.write(answer)
            self.enter(_State.REST)

    def eof_received(self) -> bool | None:
        return self.inner.eof_received()

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()

    def sending(self) -> bool:
        """Whether the client has yet to take a part of an answer."""
        return self.transport is not None and self.transport.get_write_buffer_size() > 0


class Connections:
    """The connections of a server, their limits, and what became of them. Used on the event loop only."""

    def __init__(self, limits: ServeLimits, clock: Clock) -> None:
        self.limits = limits
        self.clock = clock
        self.front: Callable[[str, Callable[[bytes], None]], Front] | None = None
        """Makes what stands before a new connection's protocol, of the client's address and what takes bytes."""
        self.accepted = 0
        self.cut: Counter[Cut] = Counter()
        self._open: dict[asyncio.BaseProtocol, _Connection] = {}
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._open)

    def wrap(self, make: Callable[[], asyncio.Protocol]) -> Callable[[], asyncio.Protocol]:
        """A protocol factory whose connections are watched."""
        return lambda: _Connection(make(), self)

    def opened(self, connection: _Connection) -> None:
        """A connection is there."""
        self.accepted += 1
        self._open[connection.inner] = connection

    def lost(self, connection: _Connection) -> None:
        """It is gone."""
        self._open.pop(connection.inner, None)
        self._changed.set()

    @contextmanager
    def answering(self, protocol: asyncio.BaseProtocol) -> Iterator[Front | None]:
        """Around answering one request of the connection with this protocol, and with what stands before it."""
        connection = self._open.get(protocol)
        if connection is not None:
            connection.enter(_State.ANSWERED)
        try:
            yield None if connection is None else connection.front
        finally:
            if connection is not None:
                connection.enter(_State.REST)
                self._changed.set()

    def sweep(self) -> None:
        """Cut off what is over its deadline."""
        now = self.clock.monotonic()
        for connection in list(self._open.values()):
            if connection.front is not None:
                connection.front.release()
            spent = now - connection.since
            if connection.state is _State.HEAD and spent >= self.limits.head_seconds:
                self._drop(connection, Cut.HEAD)
            elif connection.state is _State.REST and spent >= self.limits.idle_seconds:
                self._drop(connection, Cut.IDLE)

    async def room(self) -> None:
        """Return once one more connection may be opened."""
        while len(self._open) >= self.limits.most:
            self._changed.clear()
            resting = [c for c in self._open.values() if c.state is not _State.ANSWERED and not c.sending()]
            if resting:
                self._drop(min(resting, key=lambda c: c.since), Cut.PLACE)
            await self._changed.wait()

    def _drop(self, connection: _Connection, why: Cut) -> None:
        assert connection.transport is not None
        if not connection.transport.is_closing():
            self.cut[why] += 1
        connection.transport.abort()

    async def watch(self) -> None:
        """Sweep for ever, several times in the shortest deadline."""
        while True:
            await self.clock.sleep(min(self.limits.head_seconds, self.limits.idle_seconds) / 4)
            self.sweep()

    async def accept(self, sock: socket.socket, make: Callable[[], asyncio.Protocol]) -> None:
        """Take connections from a listening, non-blocking socket for ever; `make` is an HTTP server's factory."""
        loop, factory = asyncio.get_running_loop(), self.wrap(make)
        exhausted = False
        while True:
            try:
                taken, _ = await loop.sock_accept(sock)
            except OSError as err:
                if err.errno in _OF_THE_CLIENT:
                    continue
                if err.errno not in _EXHAUSTED:
                    raise
                if not exhausted:
                    _log.error("no new connections for lack of resources", error=err)
                exhausted = True
                await self.clock.sleep(RETRY_SECONDS)
                continue
            exhausted = False
            try:
                await self.room()
                await loop.connect_accepted_socket(factory, taken)
            except BaseException as err:
                taken.close()
                if not isinstance(err, OSError):
                    raise

    async def run(self, sock: socket.socket, make: Callable[[], asyncio.Protocol]) -> None:
        """Accept and watch until cancelled; open connections stay open then."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.accept(sock, make), name="accept")
            group.create_task(self.watch(), name="watch connections")


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def tracked(connections: Connections) -> Middleware:
    """The outermost middleware of an application: tells `connections` which of them are being answered."""

    @web.middleware
    async def track(request: web.Request, handler: Handler) -> web.StreamResponse:
        with connections.answering(request.protocol) as front:
            response = await handler(request)
            if front is not None:
                # Here, since it must have left before the next request may be answered by another way.
                with suppress(ConnectionError):
                    await response.prepare(request)
                    await response.write_eof()
                    front.answered(bool(response.keep_alive))
            return response

    return track
