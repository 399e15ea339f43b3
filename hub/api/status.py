"""`status/*`, health, and endpoints whose answer is short: exemplars, notifications."""

import os
import sys

from aiohttp import web

from hub.api import encode
from hub.api.envelope import success
from hub.api.keys import STATE
from hub.api.times import rfc3339


async def build_info(request: web.Request) -> web.StreamResponse:
    """Version and origin of this program; Grafana parses `version` as semver and looks for no other keys."""
    build = request.app[STATE].build
    return success(
        encode.text(
            {
                "version": build.version,
                "revision": build.revision,
                "branch": build.branch,
                "buildUser": build.build_user,
                "buildDate": build.build_date,
                "goVersion": f"python{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}",
            }
        )
    )


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
    return success(b"[]")


async def healthy(request: web.Request) -> web.StreamResponse:
    """200 while the program answers at all."""
    return web.Response(text="Bramble hub is Healthy.\n")


async def ready(request: web.Request) -> web.StreamResponse:
    """200 once requests can be served, 503 with the reason before."""
    reason = request.app[STATE].ready()
    if reason:
        return web.Response(status=503, text=f"Service Unavailable: {reason}\n")
    return web.Response(text="Bramble hub is Ready.\n")
