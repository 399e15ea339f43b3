"""Bodies of answers in chunks: encoded and compressed off the event loop, never copied into one text."""

import zlib
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import zstandard
from aiohttp import web
from aiohttp.payload import AsyncIterablePayload

MIN_BYTES = 1024
"""Smaller bodies are not compressed."""

CHUNK_BYTES = 128 * 1024
"""Joining more at once would hold the GIL, and with it the event loop, for longer than a moment."""

_LEVEL = 1


class Packer(Protocol):
    """A compressor fed in parts, as zlib's and zstandard's."""

    def compress(self, data: bytes, /) -> bytes:
        """The next part, compressed."""
        ...

    def flush(self) -> bytes:
        """The end."""
        ...


CODINGS = ("zstd", "gzip", "deflate")
"""Content codings, the best first."""


def packer(coding: str) -> Packer:
    """A compressor for one of CODINGS."""
    if coding == "zstd":
        return zstandard.ZstdCompressor(level=_LEVEL).compressobj()
    return zlib.compressobj(_LEVEL, zlib.DEFLATED, 31 if coding == "gzip" else 15)


@lru_cache(64)
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
    best = max(CODINGS, key=lambda coding: weights.get(coding, rest))
    return best if weights.get(best, rest) > 0 else ""


@dataclass(frozen=True, slots=True)
class Packed:
    """A body in chunks, and its content coding ('' for none)."""

    chunks: Sequence[bytes]
    coding: str


def _grouped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    group: list[bytes] = []
    size = 0
    for piece in pieces:
        group.append(piece)
        size += len(piece)
        if size >= CHUNK_BYTES:
            yield b"".join(group)
            group, size = [], 0
    if group:
        yield b"".join(group)


WHOLE_BYTES = 1 << 20
"""A body up to this size is sent whole: each chunk costs the event loop more than copying it once."""


def pack(pieces: Iterable[bytes], coding: str) -> Packed:
    """Group `pieces` into chunks and compress them with `coding`, unless they are few bytes."""
    groups = _grouped(pieces)
    first = next(groups, b"")
    if not coding or len(first) < MIN_BYTES:
        return Packed(_whole([first, *groups]), "")
    packing = packer(coding)
    chunks = [packing.compress(first), *map(packing.compress, groups), packing.flush()]
    return Packed(_whole(list(_grouped(chunks))), coding)


def _whole(chunks: list[bytes]) -> list[bytes]:
    return [b"".join(chunks)] if len(chunks) > 1 and sum(map(len, chunks)) <= WHOLE_BYTES else chunks


def respond(packed: Packed, content_type: str) -> web.Response:
    """The response with this body: of known length if it is one chunk, else in HTTP chunks."""
    headers = {"Vary": "Accept-Encoding"}
    if packed.coding:
        headers["Content-Encoding"] = packed.coding
    if len(packed.chunks) == 1:
        return web.Response(body=packed.chunks[0], content_type=content_type, headers=headers)
    return web.Response(body=AsyncIterablePayload(_stream(packed.chunks), content_type=content_type), headers=headers)


async def _stream(chunks: Sequence[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
