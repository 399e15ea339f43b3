"""XOR chunks, their frames, and CRC-32C."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.labels import Labels
from common.remote.chunks import CHUNK_SAMPLES, chunked_series, crc32c, frame, frames, xor_chunks
from common.sample import STALE_NAN
from common.wire import fields


class Bits:
    """Reads a chunk as the format's description has it, bit by bit."""

    def __init__(self, data: bytes) -> None:
        self._text = "".join(f"{byte:08b}" for byte in data)
        self._at = 0

    def read(self, count: int) -> int:
        part = self._text[self._at : self._at + count]
        assert len(part) == count, "the chunk is too short"
        self._at += count
        return int(part or "0", 2)

    def uvarint(self) -> int:
        value = shift = 0
        while True:
            byte = self.read(8)
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    @property
    def rest(self) -> str:
        return self._text[self._at :]


def decoded(chunk: bytes) -> list[tuple[int, bytes]]:
    """Times, and values as bytes."""
    bits = Bits(chunk)
    count = bits.read(16)
    zigzag = bits.uvarint()
    time, value = zigzag >> 1 ^ -(zigzag & 1), bits.read(64)
    found = [(time, value)]
    delta = leading = trailing = 0
    for number in range(1, count):
        if number == 1:
            delta = bits.uvarint()
        else:
            size = 0
            for candidate in (14, 17, 20, 64):
                if not bits.read(1):
                    break
                size = candidate
            twice = bits.read(size)
            if size == 64 and twice >= 1 << 63:
                twice -= 1 << 64
            elif size and size < 64 and twice > 1 << (size - 1):
                twice -= 1 << size
            delta += twice
        time += delta
        if bits.read(1):
            if bits.read(1):
                leading, significant = bits.read(5), bits.read(6) or 64
                trailing = 64 - leading - significant
            value ^= bits.read(64 - leading - trailing) << trailing
        found.append((time, value))
    assert len(bits.rest) < 8
    assert set(bits.rest) <= {"0"}
    return [(time, struct.pack(">Q", value)) for time, value in found]


VALUES = st.floats(width=64) | st.integers(-100, 100).map(float) | st.sampled_from([STALE_NAN, 0.0, -0.0])
GAPS = st.integers(1, 3) | st.sampled_from([15_000, 8192, 8193, 65_536, 65_537, 524_288, 524_289, 1 << 40])


@given(st.integers(-(1 << 40), 1 << 42), st.lists(st.tuples(GAPS, VALUES), max_size=300))
def test_a_reader_finds_every_sample(first: int, samples: list[tuple[int, float]]) -> None:
    times = first + np.cumsum([gap for gap, _ in samples], dtype=np.int64)
    values = np.array([value for _, value in samples], np.float64)
    chunks = xor_chunks(times, values)
    assert len(chunks) == -(-len(samples) // CHUNK_SAMPLES)
    found = [sample for chunk in chunks for sample in decoded(chunk)]
    assert found == [
        (time, struct.pack(">d", value)) for time, value in zip(times.tolist(), values.tolist(), strict=True)
    ]


@pytest.mark.parametrize("gap", [0, 1, 8191, 8192, 8193, 65_535, 65_536, 65_537, 524_287, 524_288, 524_289])
@pytest.mark.parametrize("sign", [1, -1])
def test_times_may_be_off_by_any_step(gap: int, sign: int) -> None:
    times = np.cumsum([0, 1_000_000, 1_000_000 + sign * gap])
    (chunk,) = xor_chunks(times, np.zeros(3))
    assert [time for time, _ in decoded(chunk)] == times.tolist()


def test_regular_times_and_equal_values_cost_two_bits_a_sample() -> None:
    (chunk,) = xor_chunks(np.arange(120, dtype=np.int64) * 1000, np.ones(120))
    assert len(chunk) == 2 + 1 + 8 + -(-(16 + 1 + 118 * 2) // 8)


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"", 0), (b"a", 0xC1D04330), (b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43)],
)
def test_crc_of_known_texts(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected


@pytest.mark.parametrize("length", [8191, 8192, 8193, 16_384, 16_385, 100_001])
def test_crc_of_long_texts_is_that_of_their_bytes_one_by_one(length: int) -> None:
    data = np.random.default_rng(length).integers(0, 256, length, np.uint8).tobytes()
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    assert crc32c(data) == crc ^ 0xFFFFFFFF


def test_a_frame_holds_a_series_and_the_query_it_answers() -> None:
    times, values = np.arange(130, dtype=np.int64), np.arange(130.0)
    data = chunked_series(Labels.of(__name__="m"), times, values, 3)
    (message,) = frames(data)
    parts = [(number, value) for number, _, value, _ in fields(message, 0, len(message))]
    assert [number for number, _ in parts] == [1, 2]
    assert parts[1][1] == 3
    with pytest.raises(ValueError, match="damaged"):
        list(frames(data[:-1] + b"?"))
    assert list(frames(frame(b"a") + frame(b""))) == [b"a", b""]
