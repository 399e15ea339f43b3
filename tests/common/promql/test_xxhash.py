"""XXH64, and the hash of label sets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.labels import Labels
from common.promql.xxhash import label_hashes, xxh64

MASK = (1 << 64) - 1
P1, P2, P3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
P4, P5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5


def rotated(x: int, by: int) -> int:
    return (x << by | x >> (64 - by)) & MASK


def mixed(lane: int, word: int) -> int:
    return rotated((lane + word * P2) & MASK, 31) * P1 & MASK


def reference(data: bytes) -> int:
    """The algorithm's description, step by step."""
    at = 0
    if len(data) >= 32:
        lanes = [P1 + P2, P2, 0, -P1 & MASK]
        while at + 32 <= len(data):
            for lane in range(4):
                lanes[lane] = mixed(lanes[lane] & MASK, int.from_bytes(data[at : at + 8], "little"))
                at += 8
        result = sum(rotated(lane, by) for lane, by in zip(lanes, (1, 7, 12, 18), strict=True)) & MASK
        for lane in lanes:
            result = ((result ^ mixed(0, lane)) * P1 + P4) & MASK
    else:
        result = P5
    result = (result + len(data)) & MASK
    while at + 8 <= len(data):
        result = (rotated(result ^ mixed(0, int.from_bytes(data[at : at + 8], "little")), 27) * P1 + P4) & MASK
        at += 8
    if at + 4 <= len(data):
        result = (rotated(result ^ int.from_bytes(data[at : at + 4], "little") * P1 & MASK, 23) * P2 + P3) & MASK
        at += 4
    for byte in data[at:]:
        result = rotated(result ^ byte * P5 & MASK, 11) * P1 & MASK
    result = (result ^ result >> 33) * P2 & MASK
    result = (result ^ result >> 29) * P3 & MASK
    return result ^ result >> 32


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", 0xEF46DB3751D8E999),
        (b"a", 0xD24EC4F1A98C6E5B),
        (b"abc", 0x44BC2CF5AD770999),
        (b"Nobody inspects the spammish repetition", 0xFBCEA83C8A378BF1),
    ],
)
def test_known_hashes(text: bytes, expected: int) -> None:
    assert xxh64([text]).tolist() == [expected] == [reference(text)]


@given(st.lists(st.binary(max_size=120), max_size=20))
def test_many_texts_are_hashed_as_each_is(texts: list[bytes]) -> None:
    assert xxh64(texts).tolist() == [reference(text) for text in texts]


def test_label_sets_are_hashed_with_the_length_before_each_text() -> None:
    long = "x" * 300
    series = [Labels.of(), Labels.of(__name__="m", a="é"), Labels.of(b="y" * 254, c="z" * 255), Labels.of(a=long)]
    expected = [
        b"",
        b"\x08__name__\x01m\x01a\x02\xc3\xa9",
        b"\x01b\xfe" + b"y" * 254 + b"\x01c\xff\xff\x00\x00" + b"z" * 255,
        b"\x01a\xff\x2c\x01\x00" + long.encode(),
    ]
    assert label_hashes(series).tolist() == [reference(text) for text in expected]
