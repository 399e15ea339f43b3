"""Schemas: which label set each row of a frame belongs to. FORMAT.md draws the bytes."""

import hashlib
import itertools
import struct
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Final, NewType

import zstandard

from common.errors import FormatError, FrameError
from common.frames.varint import Reader, put_text, put_uvarint
from common.labels import Labels
from common.sample import MetricMeta, MetricType

SchemaHash = NewType("SchemaHash", bytes)
"""16 bytes: BLAKE2b of a schema's or sub-schema's content."""

SCHEMA_MAGIC: Final = b"BRs\xb1"
SCHEMA_VERSION: Final = 1
MAX_SCHEMA_BYTES: Final = 32 << 20
MAX_SCHEMA_ROWS: Final = 1 << 20

_HEADER = struct.Struct("<4sBBHIII")
_INLINE, _REFERENCE = 0, 1
_SUB_VERSION = 1
_RLE_BLOCK = 1
_TYPES: Final = tuple(MetricType)


def _hash(data: bytes) -> SchemaHash:
    return SchemaHash(hashlib.blake2b(data, digest_size=16).digest())


NO_SCHEMA: Final = SchemaHash(bytes(16))
"""Stands in frames without rows (corrections)."""


@dataclass(frozen=True, slots=True)
class SubSchema:
    """Ordered label sets of one collector (or one scrape), without target labels, and its families' metadata.

    A label set occurs once; FormatError otherwise. `encoded` and `hash` are computed once.
    """

    name: str
    rows: tuple[Labels, ...]
    meta: tuple[MetricMeta, ...] = ()
    encoded: bytes = field(default=b"", repr=False, compare=False)
    hash: SchemaHash = field(default=NO_SCHEMA, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(set(self.rows)) != len(self.rows):
            seen: set[Labels] = set()
            twice = next(row for row in self.rows if row in seen or seen.add(row))  # type: ignore[func-returns-value]
            raise FormatError(f"label set {twice} occurs twice in {self.name!r}")
        if not self.encoded:
            object.__setattr__(self, "encoded", _encode_sub(self))
        object.__setattr__(self, "hash", _hash(self.encoded))


@dataclass(frozen=True, slots=True)
class Schema:
    """Ordered sub-schemas; row i of a frame is row i of their concatenation.

    `hash` is that of the sub-schemas' hashes in order; a label set occurs once over all parts (FormatError).
    """

    parts: tuple[SubSchema, ...]
    rows: int = field(default=0, init=False, compare=False)
    hash: SchemaHash = field(default=NO_SCHEMA, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", sum(len(part.rows) for part in self.parts))
        object.__setattr__(self, "hash", _hash(b"".join(part.hash for part in self.parts)))
        if self.rows > MAX_SCHEMA_ROWS:
            raise FormatError(f"schema of {self.rows} rows; at most {MAX_SCHEMA_ROWS} are allowed")
        if len(self.parts) > 1:
            owner: dict[Labels, str] = {}
            for part in self.parts:
                for row in part.rows:
                    if row in owner:
                        raise FormatError(f"label set {row} occurs in both {owner[row]!r} and {part.name!r}")
                    owner[row] = part.name

    def labels(self) -> Iterator[Labels]:
        """Label sets in row order."""
        for part in self.parts:
            yield from part.rows

    def meta(self) -> Iterator[MetricMeta]:
        """Metadata of all parts in order."""
        for part in self.parts:
            yield from part.meta


def _encode_sub(sub: SubSchema) -> bytes:
    symbols: dict[str, int] = {}

    def symbol(text: str) -> int:
        return symbols.setdefault(text, len(symbols))

    rest = bytearray()
    put_uvarint(rest, len(sub.rows))
    codes: dict[tuple[str, str], bytes] = {}
    for row in sub.rows:
        put_uvarint(rest, len(row.pairs))
        for pair in row.pairs:
            code = codes.get(pair)
            if code is None:
                both = bytearray()
                put_uvarint(both, symbol(pair[0]))
                put_uvarint(both, symbol(pair[1]))
                code = codes[pair] = bytes(both)
            rest += code
    put_uvarint(rest, len(sub.meta))
    for meta in sub.meta:
        put_uvarint(rest, symbol(meta.name))
        rest.append(_TYPES.index(meta.type))
        put_uvarint(rest, symbol(meta.help))
        put_uvarint(rest, symbol(meta.unit))
    out = bytearray([_SUB_VERSION])
    put_text(out, sub.name)
    put_uvarint(out, len(symbols))
    for text in symbols:
        put_text(out, text)
    return bytes(out + rest)


def decode_subschema(data: bytes) -> SubSchema:
    """The sub-schema of `SubSchema.encoded`; FrameError if `data` is anything else."""
    reader = Reader(data)
    version = reader.byte()
    if version != _SUB_VERSION:
        raise FrameError(f"sub-schema of version {version}; this program reads version {_SUB_VERSION}")
    name = reader.text()
    symbols = [reader.text() for _ in range(reader.count())]
    rows = []
    try:
        for _ in range(reader.count()):
            pairs = tuple((symbols[reader.uvarint()], symbols[reader.uvarint()]) for _ in range(reader.count(2)))
            if any(left[0] >= right[0] for left, right in itertools.pairwise(pairs)) or not all(
                value for _, value in pairs
            ):
                raise FrameError(f"sub-schema {name!r}: labels of a row unsorted, repeated or empty")
            rows.append(Labels.from_sorted(pairs))
        meta = []
        for _ in range(reader.count(4)):
            family = symbols[reader.uvarint()]
            kind = _TYPES[reader.byte()]
            meta.append(MetricMeta(family, kind, symbols[reader.uvarint()], symbols[reader.uvarint()]))
    except IndexError:
        raise FrameError(f"sub-schema {name!r}: symbol or metric type out of range") from None
    reader.end()
    try:
        return SubSchema(name, tuple(rows), tuple(meta), encoded=bytes(data))
    except FormatError as err:
        raise FrameError(str(err)) from None


def encode_schema(schema: Schema, known: Collection[SchemaHash] = ()) -> bytes:
    """Bytes of a schema; sub-schemas whose hash is in `known` go by hash alone."""
    return join_schema([(part.hash, None if part.hash in known else part.encoded) for part in schema.parts])


def join_schema(parts: list[tuple[SchemaHash, bytes | None]]) -> bytes:
    """Bytes of a schema from its sub-schemas' hashes and encoded forms (None: by hash alone)."""
    body = bytearray()
    put_uvarint(body, len(parts))
    for digest, encoded in parts:
        body.append(_REFERENCE if encoded is None else _INLINE)
        body += digest
        if encoded is not None:
            put_uvarint(body, len(encoded))
            body += encoded
    if len(body) > MAX_SCHEMA_BYTES:
        raise FormatError(f"schema of {len(body)} bytes; at most {MAX_SCHEMA_BYTES} are allowed")
    packed = zstandard.ZstdCompressor(level=9).compress(bytes(body))
    head = _HEADER.pack(SCHEMA_MAGIC, SCHEMA_VERSION, 0, 0, _HEADER.size + len(packed), 0, len(body))
    crc = zlib.crc32(packed, zlib.crc32(head))
    return head[:12] + crc.to_bytes(4, "little") + head[16:] + packed


def schema_length(buffer: bytes | memoryview, offset: int = 0) -> int:
    """The length that the schema at `offset` claims for itself; FrameError if none begins there."""
    if len(buffer) - offset < _HEADER.size or bytes(buffer[offset : offset + 4]) != SCHEMA_MAGIC:
        raise FrameError(f"no schema at byte {offset}")
    _, version, reserved, _, length, _, _ = _HEADER.unpack_from(buffer, offset)
    if version != SCHEMA_VERSION or reserved:
        raise FrameError(f"schema of version {version}; this program reads version {SCHEMA_VERSION}")
    if not _HEADER.size <= length <= MAX_SCHEMA_BYTES:
        raise FrameError(f"schema at byte {offset} claims {length} bytes")
    return int(length)


def split_schema(data: bytes) -> list[tuple[SchemaHash, bytes | None]]:
    """Hash and encoded form (None: by reference) of each sub-schema; hashes are checked, rows are not decoded."""
    if schema_length(data) != len(data):
        raise FrameError(f"schema of {len(data)} bytes says it has {schema_length(data)}")
    _, _, _, _, _, crc, size = _HEADER.unpack_from(data)
    if zlib.crc32(data[_HEADER.size :], zlib.crc32(data[:12] + bytes(4) + data[16 : _HEADER.size])) != crc:
        raise FrameError("schema with a wrong checksum")
    if size > MAX_SCHEMA_BYTES:
        raise FrameError(f"schema of {size} bytes; at most {MAX_SCHEMA_BYTES} are allowed")
    reader = Reader(unzstd(data[_HEADER.size :], size))
    parts: list[tuple[SchemaHash, bytes | None]] = []
    for _ in range(reader.count(17)):
        kind = reader.byte()
        digest = SchemaHash(reader.take(16))
        if kind == _REFERENCE:
            parts.append((digest, None))
            continue
        if kind != _INLINE:
            raise FrameError(f"sub-schema of unknown kind {kind}")
        encoded = reader.take(reader.count())
        if _hash(encoded) != digest:
            raise FrameError(f"sub-schema {digest.hex()} has other content than its hash says")
        parts.append((digest, encoded))
    reader.end()
    return parts


def schema_hash(data: bytes) -> SchemaHash:
    """The hash of the schema in `data`, without decoding its rows; FrameError if it is damaged."""
    return _hash(b"".join(digest for digest, _ in split_schema(data)))


def decode_schema(data: bytes, lookup: Callable[[SchemaHash], SubSchema | None] = lambda _: None) -> Schema:
    """The schema of `encode_schema`; sub-schemas are asked of `lookup` first, so that equal ones are shared."""
    parts = []
    for digest, encoded in split_schema(data):
        part = lookup(digest)
        if part is None:
            if encoded is None:
                raise FrameError(f"schema refers to sub-schema {digest.hex()}, which is not known here")
            part = decode_subschema(encoded)
        parts.append(part)
    try:
        return Schema(tuple(parts))
    except FormatError as err:
        raise FrameError(str(err)) from None


def unzstd(data: bytes | memoryview, size: int) -> bytes:
    """`data` decompressed to exactly `size` bytes; FrameError otherwise, never more memory than `size`."""
    try:
        if zstandard.frame_content_size(data) != size:
            raise FrameError(f"compressed body does not hold {size} bytes")
        if _zstd_frame_size(data) != len(data):
            raise FrameError("compressed body is damaged: bytes follow its end")
        out = zstandard.ZstdDecompressor().decompress(data, max_output_size=size)
    except zstandard.ZstdError as err:
        raise FrameError(f"compressed body is damaged: {err}") from None
    if len(out) != size:
        raise FrameError(f"compressed body does not hold {size} bytes")
    return out


def _zstd_frame_size(data: bytes | memoryview) -> int:
    """Bytes of the one zstd frame at the start of `data`, beyond its end where it was cut (RFC 8878, 3.1.1).

    Releases of zstandard before 0.22 ignore what follows a frame; this looks at its block headers only.
    """
    at = zstandard.frame_header_size(data)
    last = False
    while not last and at + 3 <= len(data):
        header = int.from_bytes(data[at : at + 3], "little")
        last = bool(header & 1)
        at += 3 + (1 if header >> 1 & 3 == _RLE_BLOCK else header >> 3)
    if not last:
        return len(data) + 1
    return at + (4 if zstandard.get_frame_parameters(data).has_checksum else 0)
