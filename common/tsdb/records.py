"""Bodies of the write-ahead log's records that are neither frames nor schemas. Pure; FORMAT.md draws the bytes."""

from collections.abc import Iterator, Sequence

import numpy as np
import zstandard
from numpy.typing import NDArray

from common.errors import FormatError
from common.frames.model import SourceId
from common.frames.varint import Reader, put_text, put_uvarint
from common.labels import Labels
from common.tsdb.ints import get_ints, put_ints

_MAX_BYTES = 1 << 28
_HISTOGRAM_BYTES = 1 << 24


def put_labels(out: bytearray, labels: Labels) -> None:
    """Append a label set: uvarint count, then names and values."""
    put_uvarint(out, len(labels))
    for pair in labels:
        for text in pair:
            put_text(out, text)


def get_labels(reader: Reader) -> Labels:
    """The label set that `put_labels` wrote."""
    return Labels([(reader.text(), reader.text()) for _ in range(reader.count(2))])


def pack_target(source: SourceId, labels: Labels) -> bytes:
    """Body of TARGET."""
    out = bytearray(source)
    put_labels(out, labels)
    return bytes(out)


def unpack_target(body: bytes) -> tuple[SourceId, Labels]:
    """The inverse; FormatError for anything else."""
    reader = Reader(body)
    source = SourceId(reader.take(16))
    labels = get_labels(reader)
    reader.end()
    return source, labels


def pack_series(numbers: Sequence[int], labels: Sequence[Labels]) -> bytes:
    """Body of SERIES: which label sets the numbers of LOOSE records of this segment mean."""
    out = bytearray()
    put_ints(out, np.array(numbers, np.int64))
    for each in labels:
        put_labels(out, each)
    return zstandard.ZstdCompressor(level=1).compress(bytes(out))


def unpack_series(body: bytes) -> list[tuple[int, Labels]]:
    """The inverse; FormatError for anything else."""
    reader = Reader(_decompress(body))
    numbers = get_ints(reader).tolist()
    found = [(number, get_labels(reader)) for number in numbers]
    reader.end()
    return found


def pack_loose(rows: NDArray[np.int32], times: NDArray[np.int64], values: NDArray[np.float64]) -> bytes:
    """Body of LOOSE: samples that came together."""
    out = bytearray()
    put_ints(out, rows.astype(np.int64))
    put_ints(out, times)
    out += np.ascontiguousarray(values, "<f8").view(np.uint8).reshape(-1, 8).T.tobytes()
    return zstandard.ZstdCompressor(level=1).compress(bytes(out))


def unpack_loose(body: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """The inverse; FormatError for anything else."""
    reader = Reader(_decompress(body))
    rows, times = get_ints(reader), get_ints(reader)
    planes = np.frombuffer(reader.take(8 * len(rows)), np.uint8).reshape(8, len(rows))
    reader.end()
    if len(times) != len(rows):
        raise FormatError("loose samples whose columns differ in length")
    return rows, times, np.ascontiguousarray(planes.T).view("<f8").reshape(len(rows))


def pack_histograms(rows: NDArray[np.int32], times: NDArray[np.int64], encoded: Sequence[bytes]) -> bytes:
    """Body of HISTOGRAMS: samples that came together, each as `common.tsdb.native.encode` writes it, or of no bytes."""
    out = bytearray()
    put_ints(out, rows.astype(np.int64))
    put_ints(out, times)
    put_ints(out, np.array([len(each) for each in encoded], np.int64))
    return zstandard.ZstdCompressor(level=1).compress(bytes(out) + b"".join(encoded))


def record_parts(encoded: Sequence[bytes]) -> Iterator[slice]:
    """Which of these histograms go into one record each: 16 MiB of them, or a larger one alone."""
    begin = size = 0
    for at, each in enumerate(encoded):
        if size and size + len(each) > _HISTOGRAM_BYTES:
            yield slice(begin, at)
            begin, size = at, 0
        size += len(each)
    yield slice(begin, len(encoded))


def unpack_histograms(body: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64], list[bytes]]:
    """The inverse; FormatError for anything else."""
    reader = Reader(_decompress(body))
    rows, times, lengths = (get_ints(reader) for _ in range(3))
    if not len(rows) == len(times) == len(lengths):
        raise FormatError("histograms whose columns differ in length")
    encoded = [reader.take(length) for length in lengths.tolist()]
    reader.end()
    return rows, times, encoded


def _decompress(body: bytes) -> bytes:
    try:
        if zstandard.get_frame_parameters(body).content_size > _MAX_BYTES:
            raise FormatError(f"record claims more than {_MAX_BYTES} bytes")
        return zstandard.ZstdDecompressor().decompress(body)
    except zstandard.ZstdError as err:
        raise FormatError(f"record cannot be unpacked: {err}") from None
