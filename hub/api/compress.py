"""Compression of answers as the client accepts it: zstd, gzip, deflate."""

import asyncio
import zlib
from collections.abc import Callable
from concurrent.futures import Executor

import zstandard
from aiohttp import web

from hub.api.keys import STATE, Handler

MIN_BYTES = 1024
"""Smaller answers are sent as they are."""

INLINE_BYTES = 32 * 1024
"""Larger answers are compressed off the event loop."""

_LEVEL = 1


def _gzip(data: bytes) -> bytes:
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=_LEVEL).compress(data)


def _deflate(data: bytes) -> bytes:
    return zlib.compress(data, _LEVEL)


_CODINGS: dict[str, Callable[[bytes], bytes]] = {"zstd": _zstd, "gzip": _gzip, "deflate": _deflate}


def choose(accept: str) -> str:
    """The coding to use for an Accept-Encoding header (RFC 9110, 12.5.3), or '' for none."""
    weights: dict[str, float] = {}
    for part in accept.lower().split(","):
        coding, _, parameter = part.strip().partition(";")
        name, _, value = parameter.strip().partition("=")
        try:
            weights[coding.strip()] = float(value) if name.strip() == "q" else 1.0
        except ValueError:
            weights[coding.strip()] = 0.0
    rest = weights.get("*", 0.0)
    best = max(_CODINGS, key=lambda coding: weights.get(coding, rest))
    return best if weights.get(best, rest) > 0 else ""


@web.middleware
async def compress(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Compress plain bodies of some size."""
    response = await handler(request)
    if not isinstance(response, web.Response) or not isinstance(response.body, bytes):
        return response
    if len(response.body) < MIN_BYTES or "Content-Encoding" in response.headers:
        return response
    response.headers.add("Vary", "Accept-Encoding")
    coding = choose(request.headers.get("Accept-Encoding", ""))
    if not coding:
        return response
    if len(response.body) <= INLINE_BYTES:
        packed = _CODINGS[coding](response.body)
    else:
        executor: Executor = request.app[STATE].executor
        packed = await asyncio.get_running_loop().run_in_executor(executor, _CODINGS[coding], response.body)
    response.body = packed
    response.headers["Content-Encoding"] = coding
    return response
