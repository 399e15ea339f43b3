"""Endpoints that change or end something: deletion behind `--web.enable-admin-api`, `/-/reload` and `/-/quit` behind
`--web.enable-lifecycle`."""

import asyncio

from aiohttp import web

from common.labels import Matcher
from hub.api import encode
from hub.api.envelope import ApiError, ErrorType, bad_parameter, success
from hub.api.keys import STATE
from hub.api.params import match_params, read_form, window_params
from hub.api.state import Admin


def _admin(request: web.Request) -> Admin:
    admin = request.app[STATE].admin
    if admin is None:
        raise ApiError(ErrorType.UNAVAILABLE, "admin APIs disabled")
    return admin


async def delete_series(request: web.Request) -> web.StreamResponse:
    """Delete samples of the series of all `match[]` from `start` to `end` (all without them); durable when answered."""
    admin = _admin(request)
    form = await read_form(request)
    sets = match_params(form, required=True)
    start, end = window_params(form)
    if end.before(start):
        raise bad_parameter("end", "end timestamp must not be before start time")

    def delete(matchers: list[tuple[Matcher, ...]]) -> None:
        for each in matchers:
            admin.delete(each, start.window_ms, end.window_ms)

    await asyncio.to_thread(delete, [tuple(each) for each in sets])
    return web.Response(status=204)


async def clean_tombstones(request: web.Request) -> web.StreamResponse:
    """Take what was deleted out of the blocks on the disk."""
    await asyncio.to_thread(_admin(request).clean_deletions)
    return web.Response(status=204)


async def snapshot(request: web.Request) -> web.StreamResponse:
    """Copy the stored data into `snapshots/NAME` of the data directory; answers the name."""
    admin = _admin(request)
    name = await asyncio.to_thread(admin.snapshot)
    return success(encode.text({"name": name}))


async def drop_caches(request: web.Request) -> web.StreamResponse:
    """Forget decoded data, so that the next query reads from the disk: for measurements."""
    _admin(request).empty_cache()
    return web.Response(status=204)


async def reload(request: web.Request) -> web.StreamResponse:
    """Load the configuration again; 500 says why the old one stays."""
    lifecycle = request.app[STATE].lifecycle
    if lifecycle is None:
        return web.Response(status=403, text="Lifecycle API is not enabled.\n")
    problem = await lifecycle.reload()
    if problem:
        return web.Response(status=500, text=f"failed to reload config: {problem}\n")
    return web.Response()


async def terminate(request: web.Request) -> web.StreamResponse:
    """Stop the hub, in order."""
    lifecycle = request.app[STATE].lifecycle
    if lifecycle is None:
        return web.Response(status=403, text="Lifecycle API is not enabled.\n")
    lifecycle.quit()
    return web.Response(text="Requesting termination... Goodbye!\n")
