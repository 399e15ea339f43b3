"""Trailers round trip and are refused when damaged; noise is never taken for items."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.edgelog.segment import Summary, decode_trailer, encode_header, header_source, scan, trailer_length
from common.errors import FrameError
from common.frames.model import Epoch, SchemaHash, SourceId
from common.frames.ranges import RangeSet
from common.sample import Millis

SUMMARY = Summary(
    5,
    Millis(1),
    Millis(9),
    3,
    {Epoch(7): RangeSet([(0, 3)]), Epoch(2**64 - 1): RangeSet([(0, 0), (5, 9)])},
    {SchemaHash(b"h" * 16)},
)


def test_a_trailer_comes_back_whole() -> None:
    data = SUMMARY.encode()
    assert decode_trailer(data) == SUMMARY
    assert trailer_length(data[-8:]) == len(data)


def test_a_damaged_trailer_is_refused() -> None:
    data = SUMMARY.encode()
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1
        with pytest.raises(FrameError):
            decode_trailer(bytes(damaged))
        with pytest.raises(FrameError):
            decode_trailer(data[:at])


def test_a_header_names_its_source_unless_damaged() -> None:
    data = encode_header(SourceId(b"s" * 16), 123, b"b" * 16)
    assert header_source(data) == b"s" * 16
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1
        assert header_source(bytes(damaged)) is None


@given(st.binary(max_size=500))
def test_noise_holds_no_frames(noise: bytes) -> None:
    found = scan(noise)
    assert not found.entries
    assert not found.schemas
    assert found.end == 0


@given(st.lists(st.sampled_from([b"BRf\xb1", b"BRs\xb1", b"BRt\xb1", bytes(50), b"\xff" * 40]), max_size=20))
def test_noise_with_magics_holds_no_frames(parts: list[bytes]) -> None:
    assert not scan(b"".join(parts)).entries
