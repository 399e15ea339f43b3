"""Bodies of log records: what was packed is unpacked, and anything else is refused."""

import hypothesis.strategies as st
import pytest
import zstandard
from hypothesis import given

from common.errors import FormatError
from common.labels import Labels
from common.tsdb.records import pack_series, unpack_series

TEXTS = st.sampled_from(["a", "b", "zone", "ä", "x" * 300])
SETS = st.lists(st.dictionaries(TEXTS, TEXTS | st.text(max_size=3), max_size=4).map(Labels.of), max_size=8)


@given(SETS)
def test_label_sets_come_back_with_their_numbers(sets: list[Labels]) -> None:
    numbers = [7 * at for at in range(len(sets))]
    assert unpack_series(pack_series(numbers, sets)) == list(zip(numbers, sets, strict=True))


def test_equal_labels_are_one_object() -> None:
    sets = [Labels.of(job="node", i=str(i)) for i in range(2)]
    left, right = (labels for _, labels in unpack_series(pack_series([0, 1], sets)))
    assert left.pairs[1] is right.pairs[1]


@given(st.integers(0, 200), st.integers(0, 255))
def test_what_is_no_list_of_series_is_refused_or_read_as_labels(at: int, byte: int) -> None:
    body = bytearray(zstandard.decompress(pack_series([1, 2], [Labels.of(a="b", c="d"), Labels.of(a="b")])))
    body[at % len(body)] = byte
    try:
        found = unpack_series(zstandard.compress(bytes(body)))
    except FormatError:
        return
    assert all(isinstance(labels, Labels) for _, labels in found)


def test_a_cut_list_of_series_is_refused() -> None:
    body = zstandard.decompress(pack_series([1], [Labels.of(a="b")]))
    for end in range(len(body)):
        with pytest.raises(FormatError):
            unpack_series(zstandard.compress(body[:end]))
