"""Snappy's block format, as remote write and remote read use it, with a limit on what comes out."""

import cramjam

from common.errors import FormatError, LimitError


def decompress(data: bytes, limit: int) -> bytes:
    """The content of a Snappy block; FormatError if it is none, LimitError if it would be longer than `limit` bytes."""
    try:
        length = cramjam.snappy.decompress_raw_len(data)
        if length > limit:
            raise LimitError(f"request is {length} bytes uncompressed, the limit is {limit}")
        return bytes(cramjam.snappy.decompress_raw(data))
    except cramjam.DecompressionError as err:
        raise FormatError(f"not a Snappy block: {err}") from None


def compress(data: bytes) -> bytes:
    """A Snappy block that holds `data`."""
    return bytes(cramjam.snappy.compress_raw(data))
