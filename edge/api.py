"""The agent's HTTP interface: `/metrics`, `/federate`, `/federate/schema`, health, and a page at `/`."""

import asyncio
import gzip
import html
import re
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import zstandard
from aiohttp import web

from common.clock import Clock
from common.errors import FormatError, LimitError, QueryError, StorageError
from common.exposition.encode import (
    OPENMETRICS_CONTENT_TYPE,
    TEXT_CONTENT_TYPE,
    Encoder,
    sample_line,
    series_text,
)
from common.frames.model import MEDIA_TYPE, PRESENT, VERSION, SchemaHash
from common.frames.ranges import format_have, parse_have
from common.labels import Matcher, match_all
from common.logs import EventLog
from common.serve import Connections, tracked
from edge.collectors.runner import CollectorResult, Outcome, Runner
from edge.config import WebConfig
from edge.log import Log, Order
from edge.metrics import OWN, EdgeMetrics, OwnReadings
from edge.negotiate import encoding, metrics_format, wants_frames
from edge.sampler import Latest

MAX_LINE_BYTES = 64 * 1024
"""Longest request line: a hub's `have=` must fit."""

MAX_FIELD_BYTES = 8 * 1024
MAX_BODY_BYTES = 1024
MAX_CONNECTIONS = 256
KEEPALIVE_SECONDS = 75.0
SEND_SECONDS = 30.0
LOOKBACK_MS = 300_000
MAX_MATCHERS = 64
DEFAULT_FRAME_BYTES = 1 << 20
MAX_FRAME_BYTES = 8 << 20
MAX_LOG_HEADER = 4096
"""Characters of `Bramble-Log`: HTTP clients refuse header fields of more than 8 KB."""

_HASH = re.compile(r"[0-9a-f]{32}\Z")
_log = EventLog("api")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


ROUTES = ("/", "/metrics", "/federate", "/federate/schema", "/-/healthy", "/-/ready")


@dataclass(frozen=True, slots=True)
class About:
    """What the landing page and the headers say of the agent."""

    version: str
    host: str


class Gatherer:
    """Reads collectors and own metrics, for pages and for the sampler. Methods block and may run in any thread."""

    def __init__(self, runner: Runner, metrics: EdgeMetrics, show_own: bool = True) -> None:
        """`show_own`: whether pages have the agent's own metrics too; they are always stored."""
        self.runner = runner
        self._show_own = show_own
        self._own = OwnReadings(metrics.registry)
        self._encoders = {"text": Encoder("text"), "openmetrics": Encoder("openmetrics")}
        self._lock = threading.Lock()

    def collect(self, names: Sequence[str] | None = None) -> list[CollectorResult]:
        """The named collectors' results (None: all), and the agent's own metrics as one more."""
        results = self.runner.collect(names)
        with self._lock:
            results.append(CollectorResult(OWN, True, 0.0, self._own.read()))
        return results

    def page(self, names: Sequence[str] | None, kind: str, coding: str) -> bytes:
        """A page of fresh readings as `text` or `openmetrics`, in the coding `zstd`, `gzip` or `identity`."""
        results = self.collect(names) if self._show_own else self.runner.collect(names)
        with self._lock:
            body = self._encoders[kind].encode(reading for result in results for reading in result.samples)
        if coding == "zstd":
            return zstandard.compress(body)
        return gzip.compress(body, 4, mtime=0) if coding == "gzip" else body


def federate_text(latest: Latest | None, selections: Sequence[Sequence[Matcher]], now: int) -> str:
    """The latest samples of series that satisfy any selection, as Prometheus's /federate gives them.

    Untyped families sorted by name, series by labels, each with its time stamp and an `instance` label; series
    without a value in the last five minutes are left out.
    """
    if latest is None or now - latest.timestamp > LOOKBACK_MS:
        return ""
    found = []
    for part in (latest, *(lane for lane in latest.lanes if now - lane.timestamp <= LOOKBACK_MS)):
        slot = part.slot
        for labels, value, state in zip(slot.schema.labels(), slot.values, slot.presence, strict=True):
            if state == PRESENT and any(match_all(matchers, labels) for matchers in selections):
                found.append((labels.name, labels, value, part.timestamp))
    found.sort(key=lambda item: (item[0], item[1]))
    lines: list[str] = []
    family = ""
    for name, labels, value, timestamp in found:
        if name != family:
            lines.append(f"# TYPE {name} untyped\n")
            family = name
        pairs = list(labels.without_name())
        if "instance" not in labels:
            pairs.append(("instance", ""))
        lines.append(sample_line(series_text(name, pairs), value, timestamp, "text"))
    return "".join(lines)


def parse_selections(texts: Sequence[str]) -> list[tuple[Matcher, ...]]:
    """The matchers of each `match[]`; FormatError or ParseError says what is wrong."""
    from common.promql.ast import VectorSelector  # only federation needs the parser
    from common.promql.parser import parse

    if len(texts) > MAX_MATCHERS:
        raise LimitError(f"more than {MAX_MATCHERS} match[] parameters")
    selections = []
    for text in texts:
        node = parse(text)
        if not isinstance(node, VectorSelector) or node.offset or node.offset_expr or node.timestamp is not None:
            raise FormatError(f'match[]: expected a series selector like up{{job="node"}}, got {text[:200]!r}')
        selections.append(node.matchers)
    return selections


class EdgeApi:
    """The handlers; `app` is the aiohttp application."""

    def __init__(
        self,
        gatherer: Gatherer,
        log: Log,
        latest: Callable[[], Latest | None],
        metrics: EdgeMetrics,
        clock: Clock,
        executor: Executor,
        about: About,
        config: WebConfig,
        connections: Connections,
    ) -> None:
        """`executor` runs what blocks; `connections` are those of the server."""
        self._gatherer = gatherer
        self._held = log
        self._latest = latest
        self._metrics = metrics
        self._clock = clock
        self._executor = executor
        self._about = about
        self._max_requests = config.max_requests
        self._telemetry_path = config.telemetry_path
        self._running = 0
        self._pages: dict[tuple[object, ...], asyncio.Future[bytes]] = {}
        metrics.counter(
            "http_connections_cut",
            "Connections cut that held a place without a whole request.",
            lambda: connections.cut.total(),
        )
        metrics.gauge("http_requests_in_flight", "Requests being answered.", lambda: self._running)
        self.app = web.Application(middlewares=[tracked(connections), self._guard], client_max_size=MAX_BODY_BYTES)
        handlers = (self._landing, self._metrics_page, self._federate, self._schema, self._healthy, self._ready)
        for path, handler in zip(ROUTES, handlers, strict=True):
            self.app.router.add_get(config.telemetry_path if path == "/metrics" else path, handler)
        self.app.on_response_prepare.append(self._sign)

    async def _sign(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers["Server"] = f"bramble-edge/{self._about.version}"

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Limits, errors and counting around every request."""
        resource = request.match_info.route.resource
        name = resource.canonical if resource else "other"
        if self._max_requests and self._running >= self._max_requests:
            self._metrics.refused_requests.inc()
            self._metrics.requests.labels(name, "503").inc()
            return _error(503, f"Limit of concurrent requests reached ({self._max_requests}), try again later.")
        self._running += 1
        try:
            response = await self._answer(request, handler)
            self._metrics.requests.labels(name, str(response.status)).inc()
            return await self._send(request, response)
        finally:
            self._running -= 1

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as err:
            response = _error(err.status, err.reason)
            if "Allow" in err.headers:
                response.headers["Allow"] = err.headers["Allow"]
            return response
        except (FormatError, QueryError, LimitError, ValueError) as err:
            return _error(400, str(err))
        except StorageError as err:
            return _error(503, str(err))
        except Exception as err:  # noqa: BLE001 - one broken request must not cost the others
            _log.error("request failed", err, path=request.path)
            return _error(500, f"internal error: {type(err).__name__}; see the agent's log")

    async def _send(self, request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        """Send within SEND_SECONDS, or cut the client off."""
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await response.prepare(request)
                await response.write_eof()
        except TimeoutError:
            self._metrics.slow_clients.inc()
            if request.transport is not None:
                request.transport.abort()
        return response

    async def _metrics_page(self, request: web.Request) -> web.Response:
        chosen, without = request.query.getall("collect[]", []), request.query.getall("exclude[]", [])
        names = self._gatherer.runner.select(chosen, without) if chosen or without else None
        kind = metrics_format(",".join(request.headers.getall("Accept", [])))
        coding = encoding(",".join(request.headers.getall("Accept-Encoding", [])))
        key = (None if names is None else tuple(names), kind, coding)
        page = self._pages.get(key)
        if page is None:
            # Equal scrapes that arrive together share one run, so that twenty of them cost the machine one.
            page = asyncio.get_running_loop().run_in_executor(self._executor, self._gatherer.page, names, kind, coding)
            self._pages[key] = page
            page.add_done_callback(lambda _: self._pages.pop(key, None))
        body = await asyncio.shield(page)
        headers = {"Content-Type": OPENMETRICS_CONTENT_TYPE if kind == "openmetrics" else TEXT_CONTENT_TYPE}
        if coding != "identity":
            headers["Content-Encoding"] = coding
        return web.Response(body=body, headers={**headers, "Vary": "Accept, Accept-Encoding"})

    async def _federate(self, request: web.Request) -> web.Response:
        loop = asyncio.get_running_loop()
        if not wants_frames(",".join(request.headers.getall("Accept", []))):
            texts = request.query.getall("match[]", [])
            if not texts:
                # As in Prometheus: no selection, no series.
                return web.Response(text="", headers={"Content-Type": TEXT_CONTENT_TYPE})
            text = await loop.run_in_executor(self._executor, self._federated, texts)
            return web.Response(body=text.encode(), headers={"Content-Type": TEXT_CONTENT_TYPE})
        have = parse_have(request.query.get("have", ""))
        order = Order(_one_of(request.query, "order", "newest", tuple(Order)))
        max_bytes = min(_positive(request.query, "max_bytes", DEFAULT_FRAME_BYTES), MAX_FRAME_BYTES)
        reply = await loop.run_in_executor(self._executor, self._held.read, have, order, max_bytes)
        body = b"".join(reply.frames)
        self._metrics.frames_sent.inc(len(reply.frames))
        self._metrics.bytes_sent.inc(len(body))
        return web.Response(
            body=body,
            headers={
                "Content-Type": f"{MEDIA_TYPE};version={VERSION}",
                "Bramble-Source": self._held.source_id.hex(),
                "Bramble-Epoch": f"{self._held.epoch:016x}",
                "Bramble-Log": format_have(reply.available, MAX_LOG_HEADER),
            },
        )

    def _federated(self, texts: list[str]) -> str:
        return federate_text(self._latest(), parse_selections(texts), self._clock.now())

    async def _schema(self, request: web.Request) -> web.Response:
        text = request.query.get("hash", "")
        if not _HASH.match(text):
            raise FormatError(f"hash: expected 32 hex digits, got {text[:40]!r}")
        loop = asyncio.get_running_loop()
        schema = await loop.run_in_executor(self._executor, self._held.schema, SchemaHash(bytes.fromhex(text)))
        if schema is None:
            return _error(404, f"no schema with hash {text} here")
        return web.Response(body=schema, content_type="application/octet-stream")

    async def _healthy(self, request: web.Request) -> web.Response:
        return web.Response(text="Bramble Edge is Healthy.\n")

    async def _ready(self, request: web.Request) -> web.Response:
        if self._latest() is None:
            return _error(503, "Bramble Edge is not ready: nothing was stored yet.")
        return web.Response(text="Bramble Edge is Ready.\n")

    async def _landing(self, request: web.Request) -> web.Response:
        return web.Response(
            text=landing(self._about, self._telemetry_path, self._gatherer.runner.outcomes()), content_type="text/html"
        )


def landing(about: About, telemetry_path: str, outcomes: Mapping[str, Outcome]) -> str:
    """The page at `/`: where to go from here, and how the collectors fare."""
    rows = "".join(f"<tr><td>{html.escape(n)}</td><td>{html.escape(o)}</td></tr>" for n, o in outcomes.items())
    links = "".join(
        f'<li><a href="{path}">{path}</a> {text}</li>'
        for path, text in (
            (html.escape(telemetry_path), "readings of now, for Prometheus"),
            ("/federate?match[]={__name__!=%22%22}", "latest stored samples, for Prometheus's federation"),
            ("/-/healthy", "is the program up"),
            ("/-/ready", "are samples being stored"),
        )
    )
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>Bramble Edge on {html.escape(about.host)}</title>"
        "<style>body{font:16px/1.5 system-ui,sans-serif;margin:2em auto;max-width:40em;padding:0 1em}"
        "td{padding:.1em 1em .1em 0}</style>"
        f"<h1>Bramble Edge</h1><p>{html.escape(about.host)}, version {html.escape(about.version)}</p>"
        f"<ul>{links}</ul><h2>Collectors</h2><table>{rows}</table></html>"
    )


def _error(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text + "\n")


def _positive(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 18 or int(text) == 0:
        raise FormatError(f"{name}: expected a whole number above 0, got {text[:40]!r}")
    return int(text)


def _one_of(query: Mapping[str, str], name: str, default: str, known: Sequence[str]) -> str:
    text = query.get(name, default)
    if text not in known:
        raise FormatError(f"{name}: expected one of {', '.join(known)}, got {text[:40]!r}")
    return text
