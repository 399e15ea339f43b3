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


def put_label_sets(out: bytearray, sets: Sequence[Labels]) -> None:
    """Append label sets, each distinct label once."""
    places: dict[tuple[str, str], int] = {}
    flat = [places.setdefault(pair, len(places)) for labels in sets for pair in labels.pairs]
    names: dict[str, int] = {}
    values: dict[str, int] = {}
    of_name = [names.setdefault(name, len(names)) for name, _ in places]
    of_value = [values.setdefault(value, len(values)) for _, value in places]
    for texts in (names, values):
        encoded = [text.encode() for text in texts]
        put_ints(out, np.array([len(each) for each in encoded], np.int64))
        out += b"".join(encoded)
    for numbers in (of_name, of_value, [len(labels) for labels in sets], flat):
        put_ints(out, np.array(numbers, np.int64))


def get_label_sets(reader: Reader) -> list[Labels]:
    """The label sets that `put_label_sets` wrote; equal labels are one object."""
    names, values = _texts(reader), _texts(reader)
    of_name, of_value, counts, flat = (get_ints(reader) for _ in range(4))
    if (
        len(of_name) != len(of_value)
        or _beyond(of_name, len(names))
        or _beyond(of_value, len(values))
        or _beyond(flat, len(of_name))
        or _beyond(counts, len(flat) + 1)
        or counts.sum() != len(flat)
    ):
        raise FormatError("label sets that refer to labels which are not there")
    pairs = [(names[name], values[value]) for name, value in zip(of_name.tolist(), of_value.tolist(), strict=True)]
    labels = [pairs[at] for at in flat.tolist()]
    ends = np.cumsum(counts).tolist()
    return [Labels.from_sorted(tuple(labels[low:high])) for low, high in zip([0, *ends], ends, strict=False)]


def _texts(reader: Reader) -> list[str]:
    lengths = get_ints(reader)
    if _beyond(lengths, 1 << 31):
        raise FormatError("texts of impossible lengths")
    data = reader.take(int(lengths.sum()))
    ends = np.cumsum(lengths).tolist()
    try:
        return [data[low:high].decode() for low, high in zip([0, *ends], ends, strict=False)]
    except UnicodeDecodeError as err:
        raise FormatError(f"text is not UTF-8: {err.reason}") from None


def _beyond(numbers: NDArray[np.int64], limit: int) -> bool:
    return bool(len(numbers)) and (int(numbers.min()) < 0 or int(numbers.max()) >= limit)


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
    put_label_sets(out, labels)
    return zstandard.ZstdCompressor(level=1).compress(bytes(out))


def unpack_series(body: bytes) -> list[tuple[int, Labels]]:
    """The inverse; FormatError for anything else."""
    reader = Reader(_decompress(body))
    numbers = get_ints(reader).tolist()
    labels = get_label_sets(reader)
    reader.end()
    if len(numbers) != len(labels):
        raise FormatError(f"{len(labels)} label sets for {len(numbers)} series")
    return list(zip(numbers, labels, strict=True))


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
