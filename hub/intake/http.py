"""What pulls and scrapes share: bounded bodies, and errors in words that name the cause."""

import asyncio
import socket
import ssl
import zlib

import aiohttp

from common.errors import RemoteError
from common.units import format_duration, format_size


class BodyLimitError(RemoteError):
    """A body is longer than its limit."""


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
    """The whole body, decompressed; BodyLimitError as soon as it is longer than `limit` bytes."""
    size = response.content_length
    if size is not None and size > limit:
        raise BodyLimitError(f"body size limit exceeded: {format_size(size)} announced, at most {format_size(limit)}")
    parts: list[bytes] = []
    length = 0
    async for part in response.content.iter_any():
        length += len(part)
        if length > limit:
            response.close()
            raise BodyLimitError(f"body size limit exceeded: more than {format_size(limit)}")
        parts.append(part)
    return b"".join(parts)


def gunzip(data: bytes, limit: int) -> bytes:
    """The content of a gzip file (RFC 1952) of one or more members; BodyLimitError beyond `limit` bytes."""
    parts: list[bytes] = []
    left = limit
    while data:
        member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        try:
            parts.append(member.decompress(data, left + 1))
        except zlib.error as err:
            raise RemoteError(f"the answer is not gzip: {err}") from None
        left -= len(parts[-1])
        if left < 0:
            raise BodyLimitError(f"body size limit exceeded: more than {format_size(limit)}")
        if not member.eof:
            raise RemoteError("the answer was cut off")
        data = member.unused_data
    return parts[0] if len(parts) == 1 else b"".join(parts)


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
                cause = strerror(err.os_error.errno)
            return f"connect: {cause[:1].lower()}{cause[1:]}"
        case aiohttp.ServerDisconnectedError():
            return "it closed the connection without an answer"
        case aiohttp.ClientPayloadError():
            return "the answer was cut off"
        case aiohttp.TooManyRedirects():
            return f"stopped after {len(err.history)} redirects"
        case aiohttp.ClientResponseError():
            return f"the answer is not HTTP: {err.message}"[:200]
        case aiohttp.InvalidURL():
            return f"not a URL: {err}"
        case OSError():
            return f"read: {(err.strerror or str(err)).lower()}"
        case _:
            return f"{type(err).__name__}: {err}"[:200]


def strerror(number: int) -> str:
    """The system's words for an error number."""
    import os

    return os.strerror(number)


FAILURES = (aiohttp.ClientError, OSError, asyncio.TimeoutError, ValueError)
"""What a request raises when the other side is at fault."""
