"""Protocol buffers as bytes: the few wire types that remote write, remote read and exposition use.

https://protobuf.dev/programming-guides/encoding/ is the source of the format.
"""

import struct
from collections.abc import Iterator

from common.errors import FormatError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_FIELD = 2**29 - 1

_DOUBLE = struct.Struct("<d")
_SIZES = {FIXED64: 8, FIXED32: 4}


class WireError(FormatError):
    """Bytes that are not the expected protocol buffer message."""


def read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The unsigned varint at `at` and where it ends; WireError if it is cut off or longer than 64 bits."""
    value = shift = 0
    while at < end:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, at
        shift += 7
        if shift > 63:
            break
    raise WireError(f"bad varint at byte {at}")


def fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Fields of the message in `data[at:end]`: (number, wire type, value, position).

    VARINT: the value as unsigned. BYTES: value is the length, from the position on. FIXED64, FIXED32: position only.
    """
    while at < end:
        tag = data[at]
        if tag < 0x80:
            at += 1
        else:
            tag, at = read_varint(data, at, end)
        number, kind = tag >> 3, tag & 7
        if number == 0 or number > MAX_FIELD:
            raise WireError(f"bad field number {number} at byte {at}")
        if kind in (BYTES, VARINT):
            if at < end and data[at] < 0x80:
                value = data[at]
                at += 1
            else:
                value, at = read_varint(data, at, end)
            if kind == BYTES:
                if at + value > end:
                    raise WireError(f"field {number} at byte {at} is longer than its message")
                yield number, kind, value, at
                at += value
            else:
                yield number, kind, value, at
        elif kind in _SIZES:
            if at + _SIZES[kind] > end:
                raise WireError(f"field {number} at byte {at} is cut off")
            yield number, kind, 0, at
            at += _SIZES[kind]
        else:
            raise WireError(f"unsupported wire type {kind} of field {number} at byte {at}")


def need(number: int, kind: int, wanted: int) -> None:
    """WireError unless the wire type is the wanted one."""
    if kind != wanted:
        raise WireError(f"field {number} has wire type {kind}, expected {wanted}")


def read_double(data: bytes, at: int) -> float:
    """The double at `at` (bounds were checked by `fields`)."""
    value: float = _DOUBLE.unpack_from(data, at)[0]
    return value


def read_text(data: bytes, at: int, length: int) -> str:
    """A UTF-8 string; WireError if it is not."""
    try:
        return data[at : at + length].decode()
    except UnicodeDecodeError:
        raise WireError(f"string at byte {at} is not UTF-8") from None


def signed(value: int) -> int:
    """An int64 or int32 from its unsigned varint."""
    return value - (1 << 64) if value >= 1 << 63 else value


def zigzag(value: int) -> int:
    """A sint64 or sint32 from its varint."""
    return (value >> 1) ^ -(value & 1)


def packed_varints(data: bytes, at: int, length: int) -> list[int]:
    """The unsigned varints of a packed field."""
    found = []
    end = at + length
    while at < end:
        value, at = read_varint(data, at, end)
        found.append(value)
    return found


def packed_doubles(data: bytes, at: int, length: int) -> tuple[float, ...]:
    """The doubles of a packed field."""
    if length % 8:
        raise WireError(f"packed doubles at byte {at} have a length of {length}")
    return struct.unpack_from(f"<{length // 8}d", data, at)


def write_varint(value: int) -> bytes:
    """An unsigned or (as two's complement of 64 bits) negative varint."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def write_bytes(number: int, payload: bytes) -> bytes:
    """A length-delimited field."""
    return write_varint(number << 3 | BYTES) + write_varint(len(payload)) + payload


def write_text(number: int, text: str) -> bytes:
    """A string field."""
    return write_bytes(number, text.encode(errors="surrogateescape"))


def write_int(number: int, value: int) -> bytes:
    """A varint field."""
    return write_varint(number << 3 | VARINT) + write_varint(value)


def write_double(number: int, value: float) -> bytes:
    """A double field."""
    return write_varint(number << 3 | FIXED64) + _DOUBLE.pack(value)
