"""Compression of answers that come as one text, as the client accepts it."""

import asyncio

from aiohttp import web

from hub.api.body import MIN_BYTES, choose, pack
from hub.api.keys import STATE, Handler

INLINE_BYTES = 32 * 1024
"""Larger answers are compressed off the event loop."""


@web.middleware
async def compress(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Compress plain bodies of some size; query results have been already."""
    response = await handler(request)
    if not isinstance(response, web.Response) or not isinstance(response.body, bytes):
        return response
    if "Vary" in response.headers or "Content-Encoding" in response.headers:
        return response
    if len(response.body) < MIN_BYTES:
        return response
    response.headers["Vary"] = "Accept-Encoding"
    coding = choose(request.headers.get("Accept-Encoding", ""))
    if not coding:
        return response
    if len(response.body) <= INLINE_BYTES:
        packed = pack([response.body], coding)
    else:
        executor = request.app[STATE].executor
        packed = await asyncio.get_running_loop().run_in_executor(executor, pack, [response.body], coding)
    response.body = b"".join(packed.chunks)
    response.headers["Content-Encoding"] = coding
    return response
