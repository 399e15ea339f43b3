"""Answers of remote read as chunks: XOR chunks of floats in checked frames (STREAMED_XOR_CHUNKS). Pure.

Formats: Prometheus's documentation of remote read and of chunks (tsdb/docs/format/chunks.md). Of the two ways to write
a changed value only that with a width of its own is used, for which a writer needs no history: so all samples are
worked out at once.
"""

from collections.abc import Iterator
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from common.labels import Labels
from common.wire import read_varint, write_bytes, write_int, write_text, write_varint

CHUNKED = "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse"
CHUNK_SAMPLES = 120
"""Samples a chunk, as in Prometheus's own."""

_XOR = 1
_CASTAGNOLI = 0x82F63B78
_FIELDS = 5
_ONE = np.uint64(1)
_FULL = np.uint64(2**64 - 1)

_ALL = 0xFFFFFFFF
_LONG = 1 << 13
_LANE = 64

Words = NDArray[np.uint64]
Widths = NDArray[np.int64]
Checks = NDArray[np.uint32]


def xor_chunks(times: NDArray[np.int64], values: NDArray[np.float64]) -> list[bytes]:
    """Samples (ms, ascending) of one series as XOR chunks of at most CHUNK_SAMPLES."""
    count = len(times)
    if not count:
        return []
    starts = np.arange(0, count, CHUNK_SAMPLES)
    # Each sample is four fields of bits, and the last of a chunk has a fifth that fills its last byte.
    words = np.zeros((count, _FIELDS), np.uint64)
    widths = np.zeros((count, _FIELDS), np.int64)
    _put_times(times, words, widths)
    _put_values(np.ascontiguousarray(values, np.float64).view(np.uint64), words, widths)
    ends = np.append(starts[1:], count)
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        _put_head(
            end - start, int(times[start]), int(values[start : start + 1].view(np.uint64)[0]), words, widths, start
        )
        if end - start > 1:
            _put_bytes(write_varint(int(times[start + 1] - times[start])), words[start + 1], widths[start + 1])
    sizes = np.add.reduceat(widths.sum(axis=1), starts)
    widths[ends - 1, 4] = -sizes % 8
    data = _packed(words.reshape(-1), widths.reshape(-1))
    cuts = np.concatenate([[0], np.cumsum((sizes + 7) // 8)]).tolist()
    return [data[begin:end] for begin, end in pairwise(cuts)]


def _put_times(times: NDArray[np.int64], words: Words, widths: Widths) -> None:
    """Prefix and difference of differences, for all but the first two samples of a chunk."""
    twice = np.zeros(len(times), np.int64)
    twice[2:] = times[2:] - 2 * times[1:-1] + times[:-2]
    words[:, 0], widths[:, 0] = 0b1111, 4
    widths[:, 1] = 64
    for size, prefix, length in ((20, 0b1110, 4), (17, 0b110, 3), (14, 0b10, 2), (0, 0, 1)):
        half = 1 << (size - 1) if size else 0
        fits = (twice >= min(0, 1 - half)) & (twice <= half)
        words[fits, 0], widths[fits, 0], widths[fits, 1] = prefix, length, size
    words[:, 1] = twice.view(np.uint64)


def _put_values(bits: Words, words: Words, widths: Widths) -> None:
    """Whether the value changed, how, and the bits of its XOR with the one before."""
    change = np.zeros_like(bits)
    change[1:] = bits[1:] ^ bits[:-1]
    leading = np.minimum(64 - _lengths(change), 31)
    lowest = change & (~change + _ONE)
    trailing = np.maximum(_lengths(lowest) - 1, 0)
    significant = 64 - leading - trailing
    changed = change != 0
    control = (3 << 11) | (leading << 6) | (significant & 63)
    words[:, 2] = np.where(changed, control, 0).astype(np.uint64)
    widths[:, 2] = np.where(changed, 13, 1)
    words[:, 3] = change >> trailing.astype(np.uint64)
    widths[:, 3] = np.where(changed, significant, 0)


def _lengths(words: Words) -> Widths:
    """Bits that each number needs."""
    high = (words >> np.uint64(32)).astype(np.float64)
    low = (words & np.uint64(0xFFFFFFFF)).astype(np.float64)
    lengths: Widths = np.where(high > 0, np.frexp(high)[1] + 32, np.frexp(low)[1]).astype(np.int64)
    return lengths


def _put_head(count: int, time: int, value: int, words: Words, widths: Widths, row: int) -> None:
    """The first sample of a chunk: the number of samples, time and value as they are."""
    zigzag = write_varint(time << 1 ^ time >> 63)
    _put_bytes(count.to_bytes(2, "big") + zigzag, words[row], widths[row])
    words[row, 2:4], widths[row, 2:4] = (0, value), (0, 64)


def _put_bytes(data: bytes, words: Words, widths: Widths) -> None:
    """Up to twelve bytes as the first two fields of a sample."""
    for field, part in enumerate((data[:6], data[6:])):
        words[field], widths[field] = int.from_bytes(part, "big"), 8 * len(part)


def _packed(words: Words, widths: Widths) -> bytes:
    """The lowest `widths[i]` bits of each number, highest first, one after the other; they fill whole bytes."""
    used = np.flatnonzero(widths)
    widths = widths[used]
    words = words[used] & (_FULL >> (64 - widths).astype(np.uint64))
    ends = np.cumsum(widths)
    starts = ends - widths
    first = starts >> 6
    # How many bits go into the second of two words.
    over = widths - (64 - (starts & 63))
    inside = over <= 0
    left = np.where(inside, words << np.where(inside, -over, 0).astype(np.uint64), 0)
    left |= np.where(inside, 0, words >> np.where(inside, 0, over).astype(np.uint64))
    out = np.zeros((int(ends[-1]) >> 6) + 2, np.uint64)
    heads = np.flatnonzero(np.concatenate([[True], first[1:] != first[:-1]]))
    out[first[heads]] = np.bitwise_or.reduceat(left, heads)
    across = np.flatnonzero(~inside)
    out[first[across] + 1] |= words[across] << (64 - over[across]).astype(np.uint64)
    return out.astype(">u8").tobytes()[: int(ends[-1]) // 8]


def chunked_series(labels: Labels, times: NDArray[np.int64], values: NDArray[np.float64], query: int) -> bytes:
    """A frame with one series, its samples in chunks, as answer to the query of this number."""
    body = b"".join(write_bytes(1, write_text(1, name) + write_text(2, value)) for name, value in labels)
    for number, chunk in enumerate(xor_chunks(times, values)):
        at = number * CHUNK_SAMPLES
        first, last = int(times[at]), int(times[min(at + CHUNK_SAMPLES, len(times)) - 1])
        body += write_bytes(2, write_int(1, first) + write_int(2, last) + write_int(3, _XOR) + write_bytes(4, chunk))
    return frame(write_bytes(1, body) + (write_int(2, query) if query else b""))


def frame(message: bytes) -> bytes:
    """A message with its length and its CRC-32C before it."""
    return write_varint(len(message)) + crc32c(message).to_bytes(4, "big") + message


def frames(data: bytes) -> Iterator[bytes]:
    """The messages of frames one after the other (for tools and tests); ValueError where one is damaged."""
    at = 0
    while at < len(data):
        length, at = read_varint(data, at, len(data))
        message = data[at + 4 : at + 4 + length]
        if len(message) < length or crc32c(message).to_bytes(4, "big") != data[at : at + 4]:
            raise ValueError(f"frame before byte {at} is damaged")
        yield message
        at += 4 + length


def crc32c(data: bytes) -> int:
    """CRC-32 with Castagnoli's polynomial."""
    if len(data) >= _LONG:
        return _long_crc32c(data)
    table, crc = _listed(), _ALL
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ _ALL


def _long_crc32c(data: bytes) -> int:
    """As `crc32c`, in lanes of _LANE bytes side by side, whose CRCs are then joined in pairs."""
    lanes = 1 << (-(-len(data) // _LANE) - 1).bit_length()
    # Zeros in front change no CRC that begins with 0; beginning with ones is the same as inverting four bytes.
    filled = np.zeros(lanes * _LANE, np.uint8)
    begin = len(filled) - len(data)
    filled[begin:] = np.frombuffer(data, np.uint8)
    filled[begin : begin + 4] ^= 0xFF
    table = _table()
    crcs = np.zeros(lanes, np.uint32)
    for column in np.ascontiguousarray(filled.reshape(lanes, _LANE).T):
        crcs = table[(crcs ^ column) & 0xFF] ^ (crcs >> 8)
    level = 0
    while len(crcs) > 1:
        crcs = _advanced(crcs[0::2], _zeros(level)) ^ crcs[1::2]
        level += 1
    return int(crcs[0]) ^ _ALL


def _advanced(crcs: Checks, operator: Checks) -> Checks:
    """CRCs as they are some zero bytes later: `operator` [4, 256] says that of each byte of them."""
    out: Checks = operator[0][crcs & 0xFF]
    for number in range(1, 4):
        out = out ^ operator[number][(crcs >> np.uint32(8 * number)) & 0xFF]
    return out


@cache
def _zeros(level: int) -> Checks:
    """What _LANE * 2**level zero bytes make of each byte of a CRC."""
    if level:
        half = _zeros(level - 1)
        return np.stack([_advanced(row, half) for row in half])
    table = _table()
    crcs = (np.arange(256, dtype=np.uint32)[None, :] << np.array([[0], [8], [16], [24]], np.uint32)).astype(np.uint32)
    for _ in range(_LANE):
        crcs = table[crcs & 0xFF] ^ (crcs >> 8)
    return crcs


@cache
def _table() -> Checks:
    """What each byte makes of a CRC."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(_CASTAGNOLI), table >> 1).astype(np.uint32)
    return table


@cache
def _listed() -> list[int]:
    return list(_table().tolist())
