"""Both frame encoders: round trips, equality, refusal of anything damaged."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-any-generics, no-warn-return-any

import struct
from array import array
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.errors import FrameError
from common.frames import codec, envelope, writer
from common.frames.model import (
    HEADER_SIZE,
    NO_SCHEMA,
    PRESENT,
    Correction,
    Epoch,
    Flags,
    FrameKey,
    Provisional,
    SchemaHash,
    Section,
    SourceId,
    read_header,
)
from common.frames.schema import unzstd

FIXTURES = Path(__file__).parents[2] / "fixtures" / "frames"
KEY = FrameKey(SourceId(bytes(range(16))), Epoch(0xFEDCBA9876543210), 7, 2, SchemaHash(b"s" * 16), Flags.SYNCED)
BARE = FrameKey(KEY.source, KEY.epoch, 8, 0, NO_SCHEMA)
BOOT = bytes(range(100, 116))

special = st.sampled_from(
    [0.0, -0.0, float("inf"), float("-inf"), 5e-324, 1.7976931348623157e308, 1.0, 0.1]
    + [
        struct.unpack("<d", struct.pack("<Q", n))[0]
        for n in (0x7FF8000000000001, 0x7FF0000000000002, 0xFFF8DEADBEEF0001)
    ]
)


decimals = st.builds(lambda n, k: n / 10.0**k, st.integers(-(2**54), 2**54), st.integers(0, 11))
small = st.builds(lambda n, k: n / 10.0**k, st.integers(-200, 10_000), st.integers(0, 10))


@st.composite
def matrices(draw):
    rows, slots = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    kinds = st.sampled_from([special, st.floats(width=64), decimals, small, st.just(0.0), st.one_of(special, small)])
    lines = [draw(st.lists(draw(kinds), min_size=slots, max_size=slots)) for _ in range(rows)]
    values = np.array([struct.pack(f"<{slots}d", *line) for line in lines]).view(np.float64).reshape(rows, slots)
    states = st.sampled_from(draw(st.sampled_from([[1], [0, 1, 2], [1, 1, 1, 1, 1, 1, 2, 0]])))
    presence = draw(hnp.arrays(np.uint8, (rows, slots), elements=states))
    steps = draw(st.lists(st.one_of(st.integers(1, 50), st.integers(1, 2**40)), min_size=slots, max_size=slots))
    first = draw(st.integers(-(2**50), 2**50))
    return (np.cumsum(steps, dtype=np.int64) + first).tolist(), values, presence


def columns(values):
    return [array("d", values[:, t].tobytes()) for t in range(values.shape[1])]


def states(presence):
    return [presence[:, t].tobytes() for t in range(presence.shape[1])]


def bits(values):
    return np.ascontiguousarray(values).view(np.uint64)


@given(matrices())
def test_a_frame_comes_back_bit_for_bit(matrix):
    times, values, presence = matrix
    frame = codec.decode(codec.encode(KEY, times, values, presence))
    assert frame.header.key == KEY
    assert (frame.header.slots, frame.header.rows) == (len(times), len(values))
    assert (frame.header.first, frame.header.last) == (times[0], times[-1])
    assert frame.timestamps.tolist() == times
    assert np.array_equal(frame.cells, presence)
    here = presence == PRESENT
    assert np.array_equal(bits(frame.values)[here], bits(values)[here])


@given(matrices())
def test_values_of_absent_cells_do_not_change_the_bytes(matrix):
    times, values, presence = matrix
    other = np.where(presence == PRESENT, values, 42.5)
    assert codec.encode_body(times, values, presence) == codec.encode_body(times, other, presence)


@given(matrices())
def test_both_encoders_give_the_same_body(matrix):
    times, values, presence = matrix
    provisional, correction = Provisional(BOOT, 12345), Correction(BOOT, -5)
    assert codec.encode_body(times, values, presence, provisional, correction) == writer.encode_body(
        times, columns(values), states(presence), provisional, correction
    )


@given(st.lists(matrices(), max_size=6), st.booleans())
def test_slots_together_become_the_frames_that_each_becomes_alone(many, gaps):
    slots = []
    for times, values, presence in many:
        for at, time in enumerate(times):
            cells = np.ascontiguousarray(presence[:, at]) if gaps else None
            slots.append(codec.Slot(KEY, time, np.ascontiguousarray(values[:, at]), cells))
    alone = [
        codec.encode(KEY, [s.timestamp], s.values[:, None], None if s.presence is None else s.presence[:, None])
        for s in slots
    ]
    assert codec.encode_slots(slots) == alone
    assert all(len(frame) <= len(slot) for frame, slot in zip(alone, slots, strict=True))


def test_slots_beyond_one_batch_become_their_frames_in_order():
    slots = [codec.Slot(KEY, at, np.full(codec.BATCH_CELLS // 3, float(at))) for at in range(7)]
    assert codec.encode_slots(slots) == [codec.encode(KEY, [s.timestamp], s.values[:, None]) for s in slots]


@pytest.mark.parametrize("patterns", [255, 256, 300])
def test_both_encoders_agree_where_pattern_indexes_widen(patterns):
    presence = np.array([[(n >> 2 * t) % 3 for t in range(8)] for n in range(3000)], np.uint8)
    presence = np.unique(presence, axis=0)
    presence = presence[(presence != PRESENT).any(axis=1)][:patterns]
    values = np.arange(presence.size, dtype=np.float64).reshape(presence.shape)
    times = list(range(8))
    body = codec.encode_body(times, values, presence)
    assert body == writer.encode_body(times, columns(values), states(presence))
    frame = codec.decode(envelope.pack(KEY, times, patterns, body))
    assert np.array_equal(frame.cells, presence)


@pytest.mark.parametrize(
    ("row", "scale"),
    [([1.0, 2.0], 0), ([0.5, 12.25], 2), ([1e-9, 3.0], 9), ([0.1 + 0.2, 0.5], 255), ([-0.0, 1.0], 255),
     ([float("nan"), 1.0], 255), ([2.0**53, 0.0], 255), ([2.0**53 - 1, 0.0], 0), ([1e-10, 0.0], 255)],
)  # fmt: skip
def test_a_row_is_decimal_at_the_smallest_scale_that_gives_back_its_bits(row, scale):
    body = codec.encode_body([1, 2], np.array([row]))
    _, payload = envelope.sections(body)[Section.VALUES]
    assert payload[1] == scale


def test_an_all_present_frame_carries_no_presence():
    values = np.ones((3, 2))
    full = np.full((3, 2), PRESENT, np.uint8)
    body = codec.encode_body([1, 2], values, full)
    assert body == codec.encode_body([1, 2], values)
    assert body == writer.encode_body([1, 2], columns(values), [None, bytes([1, 1, 1])])
    assert codec.decode(codec.encode(KEY, [1, 2], values)).presence is None


def test_a_frame_may_carry_records_alone():
    frame = codec.decode(writer.encode(BARE, [], [], [], correction=Correction(BOOT, 1_700_000_000_000)))
    assert frame.correction == Correction(BOOT, 1_700_000_000_000)
    assert frame.values.shape == (0, 0)
    assert envelope.read_records(writer.encode(BARE, [], [], [])) == (
        read_header(writer.encode(BARE, [], [], [])),
        None,
        None,
    )


def test_a_correction_moves_frames_of_its_boot_alone():
    correction = Correction(BOOT, 1_000_000)
    assert correction.shift(Provisional(BOOT, 500), 900_000) == 100_500
    assert correction.shift(Provisional(bytes(16), 500), 900_000) is None


def test_provisional_frames_without_their_clock_record_are_refused():
    key = FrameKey(KEY.source, KEY.epoch, 1, 0, KEY.schema, Flags.PROVISIONAL)
    data = codec.encode(key, [1], np.ones((1, 1)))
    with pytest.raises(FrameError, match="clock record"):
        codec.decode(data)
    with pytest.raises(FrameError, match="clock record"):
        envelope.read_records(data)


@pytest.mark.parametrize("times", [[5, 5], [5, 4], [1, 3, 2]])
def test_timestamps_must_increase(times):
    with pytest.raises(FrameError, match="increase"):
        codec.encode(KEY, times, np.ones((1, len(times))))


def test_wrong_shapes_are_refused_by_both_encoders():
    with pytest.raises(FrameError):
        codec.encode(KEY, [1, 2], np.ones((2, 3)))
    with pytest.raises(FrameError):
        codec.encode(KEY, [1], np.ones((2, 1)), np.full((2, 1), 3, np.uint8))
    with pytest.raises(FrameError):
        writer.encode(KEY, [1], [array("d", [1.0, 2.0])], [b"\1\3"])
    with pytest.raises(FrameError):
        writer.encode(KEY, [1], [array("d", [1.0, 2.0])], [b"\1"])
    with pytest.raises(FrameError):
        writer.encode(KEY, [1, 2], [array("d", [1.0]), array("d", [1.0, 2.0])], [None, None])


def sample_frame():
    values = np.array([[1.0, 2.0, 4.0], [0.5, float("nan"), -0.0], [7e9, 7e9, 7e9]])
    presence = np.array([[1, 1, 1], [1, 0, 2], [1, 1, 1]], np.uint8)
    return codec.encode(KEY, [1000, 2000, 3100], values, presence)


def test_a_frame_cut_at_any_byte_is_refused():
    data = sample_frame()
    for size in range(len(data)):
        with pytest.raises(FrameError):
            codec.decode(data[:size])


def test_any_flipped_bit_is_detected():
    data = sample_frame()
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FrameError):
            codec.decode(damaged)


@settings(max_examples=200)
@given(st.data())
def test_a_damaged_body_under_a_right_checksum_is_refused_or_still_a_frame(data):
    values = np.array([[1.0, 2.0, 4.0], [0.5, 3.0, -0.0]])
    body = bytearray(
        codec.encode_body([1, 2, 4], values, np.array([[1, 0, 1], [1, 1, 2]], np.uint8), Provisional(BOOT, 3))
    )
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del body[data.draw(st.integers(0, len(body) - 1)) :]
    try:
        frame = codec.decode(envelope.pack(KEY, [1, 2, 4], 2, bytes(body)))
    except FrameError:
        return
    assert frame.values.shape == frame.cells.shape == (2, 3)
    assert frame.cells.max() <= 2


@given(st.binary(max_size=300))
def test_noise_is_refused(noise):
    for data in (noise, sample_frame()[:HEADER_SIZE] + noise):
        with pytest.raises(FrameError):
            codec.decode(data)


def patched(**section_fields):
    """A good frame with one more section, made of these raw header fields."""
    raw = struct.pack("<BBBBI", *section_fields["head"], len(section_fields["payload"])) + section_fields["payload"]
    return envelope.pack(KEY, [1], 1, codec.encode_body([1], np.ones((1, 1))) + raw)


def test_an_unknown_section_is_skipped():
    assert codec.decode(patched(head=(200, 0, 0, 0), payload=b"from the future")).values.tolist() == [[1.0]]


def test_an_unknown_critical_section_is_refused():
    with pytest.raises(FrameError, match="section type 200"):
        codec.decode(patched(head=(200, 0, 1, 0), payload=b"from the future"))


def test_values_of_an_unknown_kind_are_refused():
    raw = envelope.timestamps_section([1]) + struct.pack("<BBBBI", 3, 1, 1, 0, 9) + bytes(9)
    with pytest.raises(FrameError, match="kind 1"):
        codec.decode(envelope.pack(KEY, [1], 1, raw))


def test_another_version_is_refused_by_name():
    data = bytearray(sample_frame())
    data[4] = 2
    with pytest.raises(FrameError, match=r"version 2.*reads version 1"):
        read_header(data)


def test_a_body_that_claims_terabytes_costs_nothing():
    zstd_header = bytes.fromhex("28b52ffde0") + (1 << 42).to_bytes(8, "little")
    with pytest.raises(FrameError):
        unzstd(zstd_header + bytes(10), 100)


@pytest.mark.parametrize(
    "content", [b"", b"abc", bytes(400_000), bytes(range(256)) * 1000, np.random.default_rng(1).bytes(300_000)]
)
@pytest.mark.parametrize("checksum", [False, True])
def test_a_compressed_body_is_one_whole_zstd_frame_and_nothing_else(content: bytes, checksum: bool):
    packed = zstandard.ZstdCompressor(write_checksum=checksum).compress(content)
    assert unzstd(packed, len(content)) == content
    for damaged in (packed + b"\0", packed + packed, packed[:-1]):
        with pytest.raises(FrameError, match="damaged"):
            unzstd(damaged, len(content))


def test_a_stream_is_split_into_its_frames():
    one, two = sample_frame(), writer.encode(BARE, [], [], [])
    assert [bytes(f) for f in envelope.split(one + two + one)] == [one, two, one]
    with pytest.raises(FrameError):
        list(envelope.split(one + two[:-1]))


def golden_cases():
    times = [1_700_000_000_000, 1_700_000_015_000, 1_700_000_030_001]
    values = np.array([[1.0, 2.0, 4.0], [0.1, 0.1, -0.0], [float("inf"), 5e-324, 3e9], [36.5, 37.25, 36.0]])
    presence = np.array([[1, 1, 1], [1, 0, 2], [0, 0, 1], [1, 1, 1]], np.uint8)
    yield "full", codec.encode_body(times, values)
    yield "gaps", codec.encode_body(times, values, presence)
    yield "provisional", codec.encode_body(times[:1], values[:, :1], None, Provisional(BOOT, 4242))
    yield "correction", codec.encode_body([], np.empty((0, 0)), None, None, Correction(BOOT, 1_699_999_000_000))


@pytest.mark.parametrize(("name", "body"), list(golden_cases()), ids=[name for name, _ in golden_cases()])
def test_the_uncompressed_body_is_that_of_the_golden_file(name, body):
    assert body.hex(" ", 1) == (FIXTURES / f"{name}.hex").read_text().replace("\n", " ").strip()


def test_the_header_is_that_of_the_golden_file():
    data = bytearray(codec.encode(KEY, [1_700_000_000_000], np.ones((2, 1)), level=1))
    data[8:16] = bytes(8)
    assert bytes(data[:HEADER_SIZE]).hex(" ", 1) == (FIXTURES / "header.hex").read_text().replace("\n", " ").strip()
