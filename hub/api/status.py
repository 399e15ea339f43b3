"""`status/*`, health, and endpoints whose answer is short: exemplars, notifications."""

import os
import sys

from aiohttp import web

from common.errors import FormatError, LimitError, QueryError
from common.promql.parser import parse
from common.times import rfc3339
from hub.api import encode
from hub.api.envelope import bad, success
from hub.api.keys import STATE
from hub.api.params import read_form, window_params
from hub.api.state import BuildInfo
from hub.notices import Notice


def _build(build: BuildInfo) -> bytes:
    return encode.text(
        {
            "version": build.version,
            "revision": build.revision,
            "branch": build.branch,
            "buildUser": build.build_user,
            "buildDate": build.build_date,
            "goVersion": f"python{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}",
        }
    )


async def build_info(request: web.Request) -> web.StreamResponse:
    """Version and origin of this program; Grafana parses `version` as semver and looks for no other keys."""
    return success(_build(request.app[STATE].build))


async def version(request: web.Request) -> web.StreamResponse:
    """The same without envelope, as Prometheus's `/version`."""
    return web.Response(body=_build(request.app[STATE].build), content_type="application/json")


async def runtime_info(request: web.Request) -> web.StreamResponse:
    """What runs where since when; Go's own figures have no counterpart and are left out or 0."""
    state = request.app[STATE]
    info = state.runtime()
    return success(
        encode.text(
            {
                "startTime": rfc3339(info.start_time),
                "CWD": info.cwd,
                "hostname": info.hostname,
                "serverTime": rfc3339(state.clock.now()),
                "reloadConfigSuccess": info.config_reloaded,
                "lastConfigTime": rfc3339(info.last_config_time),
                "corruptionCount": info.corruptions,
                "goroutineCount": 0,
                "GOMAXPROCS": os.cpu_count() or 1,
                "GOMEMLIMIT": 0,
                "GOGC": "",
                "GODEBUG": "",
                "storageRetention": info.retention,
            }
        )
    )


async def flags(request: web.Request) -> web.StreamResponse:
    """Command-line flags and their values."""
    return success(encode.text(dict(request.app[STATE].flags())))


async def config(request: web.Request) -> web.StreamResponse:
    """The running configuration as YAML, secrets masked."""
    return success(encode.text({"yaml": request.app[STATE].config_text()}))


async def query_exemplars(request: web.Request) -> web.StreamResponse:
    """No exemplars are stored; Grafana asks anyway, also with times in milliseconds."""
    form = await read_form(request)
    start, end = window_params(form)
    if end.before(start):
        raise bad("end timestamp must not be before start timestamp")
    try:
        parse(form.get("query", ""), request.app[STATE].engine.options.features)
    except (QueryError, FormatError) as err:
        raise bad(str(err)) from None
    return success(b"[]")


async def wal_replay(request: web.Request) -> web.StreamResponse:
    """Progress of reading the write-ahead log, in Prometheus's shape; it is over before the API answers."""
    return success(b'{"min":0,"max":0,"current":0}')


def _notice(note: Notice) -> bytes:
    return encode.text({"text": note.text, "date": rfc3339(note.at), "active": note.active})


async def notifications(request: web.Request) -> web.StreamResponse:
    """What the operator should know now."""
    return success(b"[" + b",".join(map(_notice, request.app[STATE].notices.current())) + b"]")


async def live_notifications(request: web.Request) -> web.StreamResponse:
    """The same and every change, as server-sent events until the client leaves; 204 if too many listen."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    try:
        with request.app[STATE].notices.listening() as queue:
            await response.prepare(request)
            while True:
                await response.write(b"data: %b\n\n" % _notice(await queue.get()))
    except LimitError:
        return web.Response(status=204)
    except ConnectionError:
        return response


async def healthy(request: web.Request) -> web.StreamResponse:
    """200 while the program answers at all."""
    return web.Response(text="Bramble hub is Healthy.\n")


async def ready(request: web.Request) -> web.StreamResponse:
    """200 once requests can be served, 503 with the reason before."""
    reason = request.app[STATE].ready()
    if reason:
        return web.Response(status=503, text=f"Service Unavailable: {reason}\n")
    return web.Response(text="Bramble hub is Ready.\n")
