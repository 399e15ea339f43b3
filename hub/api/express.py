"""Short queries without the HTTP server around them: what `common.front` offers and the event loop answers anyway.

The answer is, to the byte, what the application gives. Whatever is not the plain
success of a short query is left to the application: other paths, longer queries, errors, a hub that is not ready.
"""

from collections.abc import Callable, Mapping
from email.utils import formatdate
from functools import lru_cache

from aiohttp import web
from aiohttp.http import SERVER_SOFTWARE
from multidict import MultiDict
from yarl import URL

from common.front import Front, Head
from hub.api.body import choose
from hub.api.envelope import JSON
from hub.api.flights import FLIGHTS
from hub.api.keys import STATE
from hub.api.params import FORM, Form, parse_form
from hub.api.query import asked_at, asked_over, at_once
from hub.api.runner import RUNNER


class Express:
    """Makes what answers short queries; `done(path, seconds)` hears of each, `cors` gives fields for an origin."""

    def __init__(
        self,
        app: web.Application,
        prefix: str,
        done: Callable[[str, float], None],
        cors: Callable[[str | None], Mapping[str, str]],
    ) -> None:
        self._state = app[STATE]
        self._runner = app[RUNNER]
        self._flights = app[FLIGHTS]
        self._asked = {prefix + "/api/v1/query": asked_at, prefix + "/api/v1/query_range": asked_over}
        self._paths = frozenset(self._asked)
        self._done = done
        self._cors = cors

    def front(self, client: str, pass_on: Callable[[bytes], None]) -> Front:
        """For a connection of the client with this address."""
        return Front(lambda head, body: self._answer(head, body, client), self._paths, pass_on)

    def _answer(self, head: Head, body: bytes, client: str) -> bytes | None:
        state, fields = self._state, head.fields
        began = state.clock.monotonic()
        try:
            form = _form(head, body)
            if form is None or state.ready():
                return None
            asked = self._asked[head.path](state, form, choose(fields.get("accept-encoding", "")))
            packed = at_once(state, self._runner, self._flights, asked, head.path, client)
        except Exception:  # noqa: BLE001 - the application finds the same error, and has words for it
            return None
        if packed is None:
            return None
        content = packed.chunks[0] if len(packed.chunks) == 1 else b"".join(packed.chunks)
        coding = f"Content-Encoding: {packed.coding}\r\n" if packed.coding else ""
        cors = "".join(f"{name}: {value}\r\n" for name, value in self._cors(fields.get("origin")).items())
        now = _date(state.clock.now() // 1000)
        self._done(head.path, state.clock.monotonic() - began)
        return (
            f"HTTP/1.1 200 OK\r\nVary: Accept-Encoding\r\n{coding}Content-Type: {JSON}\r\nVary: Origin\r\n{cors}"
            f"X-Content-Type-Options: nosniff\r\nContent-Length: {len(content)}\r\nDate: {now}\r\n"
            f"Server: {SERVER_SOFTWARE}\r\n\r\n"
        ).encode() + content


def _form(head: Head, body: bytes) -> Form | None:
    """The parameters, as `read_form`; None for a body of another kind."""
    form: Form = MultiDict()
    if head.method == "POST":
        if head.fields.get("content-type") != FORM:
            return None
        form = parse_form(body)
    elif body:
        return None
    if head.query:
        form.extend(URL.build(path="/", query_string=head.query, encoded=True).query)
    return form


@lru_cache(maxsize=1)
def _date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)
