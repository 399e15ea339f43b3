"""Annotations by step: cut and put together they say what is said of the range at once."""

import numpy as np

from common.promql.stepnotes import StepNote, put_together

NOTE = StepNote("rate(m[1m])", "PromQL info: odd", "1:6", np.array([0, 2, 0, 1]))
FIXED = StepNote(
    "q",
    "PromQL info: fixed",
    "1:1",
    np.array([1, 0, 2, 1]),
    np.array([[1.0, np.inf, 0.5, 1.0], [5.0, -np.inf, 2.0, np.inf], [0.25, 0.0, 3.0, 1.0]]),
)


def test_an_info_is_told_with_its_position() -> None:
    assert NOTE.told(0, 1000) == "PromQL info: odd (1:6)"


def test_fixes_are_told_over_the_steps_that_have_some() -> None:
    assert FIXED.told(60_000, 60_000) == (
        "PromQL info: fixed, from buckets 0.5 to +Inf, with a max diff of 3, over 4 samples"
        " from 1970-01-01T00:01:00Z to 1970-01-01T00:04:00Z (1:1)"
    )
    part = FIXED.cut(0, 2)
    assert part is not None
    assert part.told(4_000_000_000_000, 1) == (
        "PromQL info: fixed, from buckets 1 to 5, with a max diff of 0.25, over 1 samples"
        " from 2096-10-02T07:06:40Z to 2096-10-02T07:06:40Z (1:1)"
    )
    assert part.told(60_000, 60_000) == (
        "PromQL info: fixed, from buckets 1 to 5, with a max diff of 0.25, over 1 samples"
        " from 1970-01-01T00:01:00Z to 1970-01-01T00:01:00Z (1:1)"
    )


def test_where_it_does_not_arise_there_is_none() -> None:
    assert NOTE.cut(2, 3) is None
    assert put_together([None, None], [1, 2]) is None


def test_parts_put_together_say_what_the_whole_says() -> None:
    for note in (NOTE, FIXED):
        for cut in (1, 2, 3):
            again = put_together([note.cut(0, cut), note.cut(cut, 4)], [cut, 4 - cut])
            assert again is not None
            assert again.told(0, 1000) == note.told(0, 1000)
            assert again.like(note)
