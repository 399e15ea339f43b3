"""XXH64 of many byte strings at once: the hash by which Prometheus picks series for `limit_ratio`. Pure."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.labels import Labels

Hashes = NDArray[np.uint64]

_P1, _P2, _P3, _P4, _P5 = (
    np.uint64(number)
    for number in (
        0x9E3779B185EBCA87,
        0xC2B2AE3D27D4EB4F,
        0x165667B19E3779F9,
        0x85EBCA77C2B2AE63,
        0x27D4EB2F165667C5,
    )
)
_LONG = 255
"""Texts of so many bytes have their length in three bytes behind this one."""


def xxh64(texts: Sequence[bytes]) -> Hashes:
    """XXH64 with seed 0 of each text; those of one length are worked out together."""
    lengths = np.array([len(text) for text in texts], np.intp)
    out = np.zeros(len(texts), np.uint64)
    for length in np.unique(lengths).tolist():
        at = np.flatnonzero(lengths == length)
        rows = np.frombuffer(b"".join(texts[row] for row in at.tolist()), np.uint8).reshape(len(at), length)
        with np.errstate(over="ignore"):
            out[at] = _equal_lengths(rows)
    return out


def _equal_lengths(rows: NDArray[np.uint8]) -> Hashes:
    count, length = rows.shape
    at = 0
    if length >= 32:
        lanes = [np.full(count, start, np.uint64) for start in (_P1 + _P2, _P2, np.uint64(0), np.uint64(0) - _P1)]
        while at + 32 <= length:
            words = np.ascontiguousarray(rows[:, at : at + 32]).view("<u8").astype(np.uint64)
            lanes = [_round(lane, words[:, number]) for number, lane in enumerate(lanes)]
            at += 32
        result = np.zeros(count, np.uint64)
        for lane, by in zip(lanes, (1, 7, 12, 18), strict=True):
            result = result + _rotated(lane, by)
        for lane in lanes:
            result = (result ^ _round(np.zeros_like(lane), lane)) * _P1 + _P4
    else:
        result = np.full(count, _P5, np.uint64)
    result = result + np.uint64(length)
    while at + 8 <= length:
        word = np.ascontiguousarray(rows[:, at : at + 8]).view("<u8")[:, 0].astype(np.uint64)
        result = _rotated(result ^ _round(np.zeros_like(word), word), 27) * _P1 + _P4
        at += 8
    if at + 4 <= length:
        word = np.ascontiguousarray(rows[:, at : at + 4]).view("<u4")[:, 0].astype(np.uint64)
        result = _rotated(result ^ (word * _P1), 23) * _P2 + _P3
        at += 4
    for column in range(at, length):
        result = _rotated(result ^ (rows[:, column].astype(np.uint64) * _P5), 11) * _P1
    result = (result ^ (result >> np.uint64(33))) * _P2
    result = (result ^ (result >> np.uint64(29))) * _P3
    return result ^ (result >> np.uint64(32))


def _rotated(words: Hashes, by: int) -> Hashes:
    return (words << np.uint64(by)) | (words >> np.uint64(64 - by))


def _round(lane: Hashes, word: Hashes) -> Hashes:
    return _rotated(lane + word * _P2, 31) * _P1


def label_hashes(series: Sequence[Labels]) -> Hashes:
    """The hash of each label set, as Prometheus 3 has it: XXH64 of names and values in order, each after its length."""
    return xxh64([b"".join(_sized(text) for pair in labels for text in pair) for labels in series])


def _sized(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    if len(data) < _LONG:
        return bytes((len(data),)) + data
    return bytes((_LONG,)) + len(data).to_bytes(3, "little") + data
