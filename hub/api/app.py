"""The hub's HTTP application: routes, and what surrounds every request."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import lru_cache, partial
from urllib.parse import urlencode

from aiohttp import web
from aiohttp.typedefs import Middleware
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import choose_encoder

from common.labels import compile_regex
from common.logs import EventLog
from common.serve import Connections, tracked
from hub.api import admin, features, federate, metadata, openapi, query, remote, rules, status, targets, tsdb, web_page
from hub.api.compress import compress
from hub.api.envelope import ApiError, ErrorType, bad, classify, failure
from hub.api.express import Express
from hub.api.flights import FLIGHTS, Flights
from hub.api.keys import STATE, Handler
from hub.api.runner import RUNNER, QueryRunner
from hub.api.state import ApiState

_log = EventLog("api")

_BUCKETS = (0.1, 0.2, 0.4, 1, 3, 8, 20, 60, 120)
_CORS = {
    "Access-Control-Allow-Headers": "Accept, Authorization, Content-Type, Origin",
    "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
    "Access-Control-Expose-Headers": "Date",
}

BOTH = ("GET", "POST")
GET = ("GET",)
POST = ("POST",)
CHANGE = ("POST", "PUT")

ROUTES: tuple[tuple[str, tuple[str, ...], Handler], ...] = (
    ("/api/v1/query", BOTH, query.instant),
    ("/api/v1/query_range", BOTH, query.ranged),
    ("/api/v1/query_exemplars", BOTH, status.query_exemplars),
    ("/api/v1/format_query", BOTH, query.format_query),
    ("/api/v1/parse_query", BOTH, query.parse_query),
    ("/api/v1/labels", BOTH, metadata.labels),
    ("/api/v1/label/{name}/values", GET, metadata.label_values),
    ("/api/v1/series", BOTH, metadata.series),
    ("/api/v1/metadata", GET, metadata.metadata),
    ("/api/v1/targets", GET, targets.targets),
    ("/api/v1/targets/metadata", GET, targets.target_metadata),
    ("/api/v1/scrape_pools", GET, targets.scrape_pools),
    ("/api/v1/alertmanagers", GET, targets.alertmanagers),
    ("/api/v1/rules", GET, rules.rules),
    ("/api/v1/alerts", GET, rules.alerts),
    ("/api/v1/status/buildinfo", GET, status.build_info),
    ("/api/v1/status/runtimeinfo", GET, status.runtime_info),
    ("/api/v1/status/flags", GET, status.flags),
    ("/api/v1/status/config", GET, status.config),
    ("/api/v1/status/tsdb", GET, tsdb.tsdb),
    ("/api/v1/status/walreplay", GET, status.wal_replay),
    ("/api/v1/notifications", GET, status.notifications),
    ("/api/v1/notifications/live", GET, status.live_notifications),
    ("/api/v1/features", GET, features.features),
    ("/api/v1/openapi.yaml", GET, openapi.openapi),
    ("/api/v1/write", POST, remote.write),
    ("/api/v1/read", POST, remote.read),
    ("/federate", GET, federate.federate),
    ("/api/v1/bramble/fleet", GET, targets.fleet),
    ("/api/v1/bramble/panel", GET, targets.panel),
    ("/api/v1/admin/tsdb/delete_series", CHANGE, admin.delete_series),
    ("/api/v1/admin/tsdb/clean_tombstones", CHANGE, admin.clean_tombstones),
    ("/api/v1/admin/tsdb/snapshot", CHANGE, admin.snapshot),
    ("/api/v1/admin/bramble/drop_caches", CHANGE, admin.drop_caches),
    ("/-/reload", CHANGE, admin.reload),
    ("/-/quit", CHANGE, admin.terminate),
)
"""Endpoints of the API: path, methods, handler. They answer 503 until the hub is ready."""


def make_app(state: ApiState, connections: Connections | None = None) -> web.Application:
    """The application over `state`; run it with `make_runner`, so that a client's leaving cancels its query.

    `connections` are those of the server, if it watches them.
    """
    watch = [] if connections is None else [tracked(connections)]
    requests, origins = _Requests(state.registry), _Origins(state.web.cors_origin)
    app = web.Application(
        middlewares=[*watch, _measure(requests), _cors(origins), compress, _boundary, *_PLAIN_PATH],
        client_max_size=state.limits.max_body,
    )
    app[STATE] = state
    app[RUNNER] = QueryRunner(state)
    app[FLIGHTS] = Flights()
    app[remote.RECEIVING] = remote.Receiving()
    app[METRICS] = ThreadPoolExecutor(1, "metrics")
    app.on_cleanup.append(_end_metrics)
    prefix = "/" + state.web.route_prefix.strip("/") if state.web.route_prefix.strip("/") else ""
    for path, methods, handler in ROUTES:
        for method in methods:
            app.router.add_route(method, prefix + path, _when_ready(handler))
    for path, handler in PLAIN_ROUTES:
        app.router.add_get(prefix + path, handler)
    for path in GRAPH_PATHS:
        app.router.add_get(prefix + path, _graph)
    if prefix:
        app.router.add_get("/", _redirect(prefix + "/"))
        app.router.add_get(prefix, _redirect(prefix + "/"))
    if connections is not None:
        connections.front = Express(app, prefix, partial(requests.count, 200), origins.fields).front
    return app


MAX_LINE_BYTES = 128 << 10
"""Longest request line, and longest header field: long queries are often asked by GET, and proxies add long fields."""


_NEVER_SECONDS = 1e9


def make_runner(app: web.Application) -> web.AppRunner:
    """A runner that cancels a handler when its client goes away, and logs no line per request.

    It ends no connection that rests, since it does not see each request: `Connections` do.
    """
    return web.AppRunner(
        app,
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=2.0,
        keepalive_timeout=_NEVER_SECONDS,
        max_line_size=MAX_LINE_BYTES,
        max_field_size=MAX_LINE_BYTES,
    )


METRICS: web.AppKey[Executor] = web.AppKey("metrics", Executor)
"""Where `/metrics` is put together."""


async def _end_metrics(app: web.Application) -> None:
    app[METRICS].shutdown(wait=True, cancel_futures=True)


async def own_metrics(request: web.Request) -> web.StreamResponse:
    """The hub's own metrics, in the format the client asks for."""
    encoder, content_type = choose_encoder(request.headers.get("Accept", ""))
    # In a thread of its own: the store may be busy when it is asked for its figures, and queries have all of theirs.
    executor, registry = request.app[METRICS], request.app[STATE].registry
    body = await asyncio.get_running_loop().run_in_executor(executor, encoder, registry)
    return web.Response(body=body, headers={"Content-Type": content_type})


PLAIN_ROUTES: tuple[tuple[str, Handler], ...] = (
    ("/-/healthy", status.healthy),
    ("/-/ready", status.ready),
    ("/metrics", own_metrics),
    ("/version", status.version),
    ("/", web_page.page),
)
"""What also answers while the hub starts: path and handler of GET requests."""


def _redirect(target: str) -> Handler:
    async def redirect(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(target)

    return redirect


GRAPH_PATHS = ("/graph", "/query")
"""Where links to a query in Prometheus's own page lead, those of Grafana too."""


async def _graph(request: web.Request) -> web.StreamResponse:
    # By a relative path: behind a proxy the browser may see another prefix than the hub.
    text = request.query.get("g0.expr", "")
    raise web.HTTPFound(f"./?{urlencode({'expr': text})}" if text else "./")


def _when_ready(handler: Handler) -> Handler:
    async def guarded(request: web.Request) -> web.StreamResponse:
        reason = request.app[STATE].ready()
        if reason:
            raise ApiError(ErrorType.UNAVAILABLE, f"Service Unavailable: {reason}")
        return await handler(request)

    return guarded


@web.middleware
async def _boundary(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error becomes the API's envelope; only HTTP errors of the router pass."""
    try:
        return await handler(request)
    except web.HTTPNotFound:
        return web.Response(status=404, text="404 page not found\n")
    except web.HTTPMethodNotAllowed as err:
        allow = {"Allow": ", ".join(sorted({*err.allowed_methods, "OPTIONS"}))}
        if request.method == "OPTIONS":
            return web.Response(status=200, headers=allow)
        return web.Response(status=405, text="Method Not Allowed\n", headers=allow)
    except web.HTTPException:
        raise
    except web.RequestPayloadError as err:
        return failure(bad(f"the body cannot be read: {str(err).splitlines()[-1].strip()}"))
    except Exception as err:  # noqa: BLE001 - the boundary of a request
        error = classify(err)
        if error.kind is ErrorType.INTERNAL:
            _log.error("request failed", err, path=request.path)
        return failure(error)


_PLAIN_PATH = (
    web.normalize_path_middleware(append_slash=False),
    web.normalize_path_middleware(append_slash=False, merge_slashes=False, remove_slash=True),
)
"""Send clients from `//-/ready`, which a URL with a slash at its end leads to, and `/metrics/` to the plain path.

They are two: both in one would also take the last letter from an unknown path.
"""


class _Requests:
    """Counts requests and their time."""

    def __init__(self, registry: CollectorRegistry) -> None:
        requests = Counter(
            "prometheus_http_requests", "HTTP requests by handler and status.", ["handler", "code"], registry=registry
        )
        duration = Histogram(
            "prometheus_http_request_duration_seconds",
            "Time to answer HTTP requests.",
            ["handler"],
            registry=registry,
            buckets=_BUCKETS,
        )
        # Finding a metric by its labels takes longer than all else that is done here.
        self._request_of = lru_cache(1024)(requests.labels)
        self._duration_of = lru_cache(256)(duration.labels)

    def count(self, code: int, handler: str, seconds: float) -> None:
        """One request was answered."""
        self._request_of(handler, str(code)).inc()
        self._duration_of(handler).observe(seconds)


def _measure(requests: _Requests) -> Middleware:
    @web.middleware
    async def measure(request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        name = resource.canonical if resource is not None else "unknown"
        clock = request.app[STATE].clock
        began = clock.monotonic()
        code = 499
        try:
            response = await handler(request)
            code = response.status
        except web.HTTPException as err:
            code = err.status
            raise
        except asyncio.CancelledError:
            raise
        finally:
            requests.count(code, name, clock.monotonic() - began)
        if not response.prepared:
            response.headers.setdefault("X-Content-Type-Options", "nosniff")
        return response

    return measure


class _Origins:
    """Which origins' pages may read answers."""

    def __init__(self, pattern: str) -> None:
        self._allowed = compile_regex(pattern)

    def fields(self, asking: str | None) -> Mapping[str, str]:
        """Fields of the answer to a request with this Origin."""
        if asking is None or not self._allowed.fullmatch(asking):
            return {}
        return {**_CORS, "Access-Control-Allow-Origin": asking}


def _cors(origins: _Origins) -> Middleware:
    @web.middleware
    async def cors(request: web.Request, handler: Handler) -> web.StreamResponse:
        if "/api/v1/" not in request.path:
            return await handler(request)
        response = web.Response(status=204) if request.method == "OPTIONS" else await handler(request)
        if response.prepared:
            return response
        response.headers.add("Vary", "Origin")
        response.headers.update(origins.fields(request.headers.get("Origin")))
        return response

    return cors
