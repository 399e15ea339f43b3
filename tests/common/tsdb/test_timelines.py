"""Timelines of blocks: what is written is read back, all of it or some."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import FormatError
from common.frames.varint import Reader
from common.tsdb.ints import get_ints, put_ints
from common.tsdb.querier import Timeline
from common.tsdb.timelines import Part, Times, encode_timelines

INT64 = st.integers(-(2**63), 2**63 - 1)


@st.composite
def lines(draw: st.DrawFn) -> Times:
    steps = draw(st.lists(st.integers(1, 2**40), min_size=1, max_size=6))
    times = np.cumsum(np.array(steps, np.int64)) + draw(st.integers(-(2**45), 2**45))
    stale = np.array(draw(st.lists(st.booleans(), min_size=len(steps), max_size=len(steps))), np.bool_)
    return times, stale if stale.any() else None


def shown(line: Timeline) -> tuple[list[int], list[bool] | None]:
    return line.timestamps.tolist(), None if line.stale is None else line.stale.tolist()


@given(st.lists(lines(), min_size=1, max_size=6), st.data())
def test_some_lines_are_those_of_all(written: list[Times], data: st.DataObject) -> None:
    body = encode_timelines(written)
    which = np.array(sorted(data.draw(st.sets(st.integers(0, len(written) - 1), min_size=1))), np.intp)
    part = Part(body)
    whole, some = part.lines(), part.lines(which)
    assert len(whole) == len(written)
    for number, (times, stale) in enumerate(written):
        assert shown(whole[number]) == shown(Timeline(times, stale))
    for at, number in enumerate(which.tolist()):
        assert shown(some[at]) == shown(whole[number])


@st.composite
def grids(draw: st.DrawFn) -> Times:
    """Lines as they come from scraping: on a grid, but for jitter and gaps."""
    slots = draw(st.integers(1, 12))
    step = draw(st.sampled_from([1, 7, 1000, 15_000]))
    jitter = np.array(draw(st.lists(st.integers(0, 40), min_size=slots, max_size=slots)), np.int64)
    gaps = np.array(draw(st.lists(st.sampled_from([0, 0, 0, 3, 5000]), min_size=slots, max_size=slots)), np.int64)
    times = np.cumsum(step * (1 + gaps)) + np.minimum(jitter, step - 1)
    stale = np.array(draw(st.lists(st.booleans(), min_size=slots, max_size=slots)), np.bool_)
    return times, stale if stale.any() else None


@given(st.lists(grids() | lines(), min_size=1, max_size=6), st.data())
def test_a_part_of_lines_is_what_of_them_lies_between_two_times(written: list[Times], data: st.DataObject) -> None:
    part = Part(encode_timelines(written))
    which = np.array(sorted(data.draw(st.sets(st.integers(0, len(written) - 1), min_size=1))), np.intp)
    every = np.concatenate([times for times, _ in written])
    near = st.sampled_from(every.tolist()).flatmap(lambda time: st.integers(time - 2, time + 2))
    start, end = sorted(data.draw(st.tuples(near | st.integers(-(2**45), 2**45), near)))
    found, skips = part.between(which, start, end)
    for at, number in enumerate(which.tolist()):
        times, stale = written[number]
        inside = (times >= start) & (times <= end)
        marks = None if stale is None or not stale[inside].any() else stale[inside]
        assert shown(found[at]) == shown(Timeline(times[inside], marks))
        assert not inside.any() or skips[at] == inside.argmax()


def test_timelines_of_any_other_length_are_refused() -> None:
    times = np.arange(20) * 15_000 + 7
    jumps = np.cumsum(np.array([1, 70_000, 1 << 33]))
    body = encode_timelines([(times, None), (jumps, np.array([False, True, False]))])
    for cut in range(len(body)):
        with pytest.raises(FormatError):
            Part(body[:cut])
    with pytest.raises(FormatError):
        Part(body + b"\0")


def test_an_even_line_takes_a_byte_a_slot_and_one_with_a_gap_does_not_cost_others_more() -> None:
    even = [(np.arange(480) * 15_000 + at, None) for at in range(10)]
    gap = np.concatenate((np.arange(10), np.arange(500, 970))) * 15_000
    alone, both = encode_timelines(even), encode_timelines([*even, (gap, None)])
    assert len(alone) < 10 * (480 + 40)
    assert len(both) - len(alone) < 4 * 480 + 40


@given(st.lists(INT64 | st.integers(-300, 300) | st.integers(-70_000, 70_000)))
def test_integers_of_any_width_are_read_back(numbers: list[int]) -> None:
    out = bytearray()
    put_ints(out, np.array(numbers, np.int64))
    assert get_ints(Reader(bytes(out))).tolist() == numbers


def test_integers_of_an_unknown_width_are_refused() -> None:
    with pytest.raises(FormatError, match="3 bytes"):
        get_ints(Reader(b"\x01\x03abc"))
