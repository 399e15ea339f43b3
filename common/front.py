"""What stands before an HTTP server's protocol, and answers at once what needs nothing of it.

For a query that takes a tenth of a millisecond, most of the time goes into what a server does for any request: tasks,
headers as objects, routes. Here whole requests of the plainest kind are offered to a function that gives the bytes of
their answer, or nothing. All else goes to the server's protocol as it came: what is not answered, and every connection
on which something came that is less than plain.

Answers must leave in the order of requests. So nothing is answered here while the server has a request of this
connection, and never again once the client did not wait for an answer before it sent more.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

MAX_HEAD = 4096
MAX_BODY = 1 << 16
"""Bytes of a request that may be answered here."""

_END = b"\r\n\r\n"
_REQUEST = re.compile(r"(GET|POST) (/[!-~]*) HTTP/1\.1\Z")
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([ -~]*?)[ \t]*\Z")
_LENGTH = re.compile(r"[0-9]{1,9}\Z")
_SPECIAL = frozenset({"transfer-encoding", "content-encoding", "expect", "upgrade", "trailer", "te"})
"""Fields that change how a request is read or answered."""


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a plain request: path and query string as they came, fields by name in small letters."""

    method: str
    path: str
    query: str
    fields: Mapping[str, str]
    length: int
    """Bytes of the body."""


@lru_cache(maxsize=128)
def parse_head(head: bytes) -> Head | None:
    """A head without its empty line; None if it is not of the plainest kind, or no HTTP at all.

    Clients repeat themselves, often to the letter.
    """
    first, *lines = head.decode("latin-1").split("\r\n")
    request = _REQUEST.match(first)
    if request is None:
        return None
    fields: dict[str, str] = {}
    for line in lines:
        field = _FIELD.match(line)
        if field is None:
            return None
        name = field[1].lower()
        if name in fields or name in _SPECIAL:
            return None
        fields[name] = field[2]
    length = fields.get("content-length", "0")
    alive = fields.get("connection", "keep-alive").lower() == "keep-alive"
    if not _LENGTH.match(length) or not fields.get("host") or not alive:
        return None
    path, _, query = request[2].partition("?")
    return Head(request[1], path, query, fields, int(length))


Answer = Callable[[Head, bytes], bytes | None]
"""The whole answer to a request with this body, or None to let the server give it."""


class Front:
    """Stands before one connection's protocol: `pass_on` gives it bytes.

    Requests whose path is none of `paths` go by unread, but for their head.
    """

    __slots__ = ("_answer", "_held", "_left", "_off", "_pass_on", "_paths", "_theirs")

    def __init__(self, answer: Answer, paths: frozenset[str], pass_on: Callable[[bytes], None]) -> None:
        self._answer = answer
        self._paths = paths
        self._pass_on = pass_on
        self._held = b""
        self._theirs = False
        """Whether the protocol has a request."""
        self._left = 0
        """Bytes that have yet to come of what it has, or of what is held."""
        self._off = False

    def take(self, data: bytes, ready: bool) -> bytes | None:
        """The answer to what came, if it is a request that can be answered; else it is held or passed on.

        `ready`: earlier answers have left.
        """
        if self._off:
            self._pass_on(data)
            return None
        if self._theirs:
            self._left -= len(data)
            self._off = self._left < 0
            self._pass_on(data)
            return None
        data = self._held + data
        self._held = b""
        end = data.find(_END, 0, MAX_HEAD)
        head = parse_head(data[:end]) if end >= 0 else None
        if head is None:
            self._off = True
            self._pass_on(data)
            return None
        size = end + len(_END) + head.length
        if head.path in self._paths and head.length <= MAX_BODY and ready:
            if len(data) < size:
                self._held, self._left = data, size - len(data)
                return None
            if len(data) == size and (answer := self._answer(head, data[end + len(_END) :])) is not None:
                return answer
        self._theirs, self._left = True, size - len(data)
        self._off = self._left < 0
        self._pass_on(data)
        return None

    def release(self) -> None:
        """Pass on what is held: its rest does not come, and the server has words for that."""
        if self._held:
            held, self._held = self._held, b""
            self._theirs = True
            self._pass_on(held)

    def answered(self, whole: bool) -> None:
        """The protocol's answer has left; it is `whole` if the connection is then as before the request."""
        self._theirs = False
        self._off |= not whole or self._left > 0
