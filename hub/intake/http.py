"""What pulls and scrapes share: bounded bodies, and errors in words that name the cause."""

import asyncio
import socket
import ssl

import aiohttp

from common.errors import RemoteError
from common.units import format_duration, format_size


def session() -> aiohttp.ClientSession:
    """A session without limits of its own (callers bound time and size) and without proxies or cookies."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, keepalive_timeout=120),
        timeout=aiohttp.ClientTimeout(total=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        max_line_size=16_384,
        max_field_size=1 << 20,
        trust_env=False,
    )


async def read_bounded(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The whole body, decompressed; RemoteError as soon as it is longer than `limit` bytes."""
    size = response.content_length
    if size is not None and size > limit:
        raise RemoteError(f"body size limit exceeded: {format_size(size)} announced, at most {format_size(limit)}")
    parts: list[bytes] = []
    length = 0
    async for part in response.content.iter_any():
        length += len(part)
        if length > limit:
            response.close()
            raise RemoteError(f"body size limit exceeded: more than {format_size(limit)}")
        parts.append(part)
    return b"".join(parts)


def describe(err: BaseException, timeout_ms: float) -> str:
    """Why a request failed, the same words for the same cause each time."""
    match err:
        case TimeoutError():
            return f"context deadline exceeded: no complete answer within {format_duration(int(timeout_ms))}"
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError() | ssl.SSLError():
            return f"TLS failed: {err}"
        case aiohttp.ClientConnectorDNSError() | socket.gaierror():
            return f"no such host: {getattr(err, 'host', '') or err}"
        case aiohttp.ClientConnectorError():
            cause = err.os_error.strerror or str(err.os_error)
            if err.os_error.errno is not None and "Connect call failed" in cause:
                cause = _strerror(err.os_error.errno)
            return f"connect: {cause[:1].lower()}{cause[1:]}"
        case aiohttp.ServerDisconnectedError():
            return "it closed the connection without an answer"
        case aiohttp.ClientPayloadError():
            return "the answer was cut off"
        case aiohttp.ClientResponseError():
            return f"the answer is not HTTP: {err.message}"[:200]
        case aiohttp.InvalidURL():
            return f"not a URL: {err}"
        case OSError():
            return f"read: {(err.strerror or str(err)).lower()}"
        case _:
            return f"{type(err).__name__}: {err}"[:200]


def _strerror(number: int) -> str:
    import os

    return os.strerror(number)


FAILURES = (aiohttp.ClientError, OSError, asyncio.TimeoutError, ValueError)
"""What a request raises when the other side is at fault."""
