"""Loose samples against a dictionary: any appends, in any order, come back sorted, the first of equal ones."""

from collections.abc import Iterator, Sequence

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from common.labels import Labels, Matcher, MatchType
from common.sample import STALE_NAN, is_stale
from common.tsdb import loose
from common.tsdb.loose import Loose, LooseView

LABELS = [Labels.of(__name__="m", i=str(i), half=str(i % 2)) for i in range(6)]
ODD = [Matcher(MatchType.EQ, "half", "1")]
EVER = (-(2**62), 2**62)

Sample = tuple[int, int, float]
Model = dict[Labels, dict[int, tuple[float | None, int]]]
"""By series and time: value (None for a staleness marker) and arrival."""


@pytest.fixture(autouse=True, scope="module")
def short_tail() -> Iterator[None]:
    """Few samples wait, so that short sequences make and merge parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loose, "TAIL", 3)
        yield


def append(buffer: Loose, samples: Sequence[Sample], arrival: int) -> None:
    numbers = [buffer.table.add(LABELS[row]) for row, _, _ in samples]
    times = np.array([at for _, at, _ in samples], np.int64)
    buffer.append(np.array(numbers, np.int32), times, np.array([value for _, _, value in samples]), arrival)


def read(view: LooseView, start: int, end: int, matchers: Sequence[Matcher] = ()) -> Model:
    """Samples between two times (inclusive), the first arrival of each."""
    found: Model = {}
    for first, index, rows in view.match(matchers):
        for piece in view.pieces(first, index, rows, start, end):
            every = np.arange(len(piece.prints))
            for row, (name, values) in enumerate(zip(piece.labels(every), piece.values(every), strict=True)):
                line = piece.lines[piece.line_of[row]]
                assert (np.diff(line.timestamps) > 0).all()
                mine = found.setdefault(index.rows[name[1]], {})
                for at, time in enumerate(line.timestamps.tolist()):
                    arrival = int(np.asarray(line.arrival)[at])
                    value = None if line.stale is not None and line.stale[at] else float(values[at])
                    if time not in mine or mine[time][1] > arrival:
                        mine[time] = (value, arrival)
    return found


def inside(model: Model, start: int, end: int, half: str = "") -> Model:
    cut = {
        labels: {at: each for at, each in samples.items() if start <= at <= end}
        for labels, samples in model.items()
        if half in labels.get("half")
    }
    return {labels: samples for labels, samples in cut.items() if samples}


TIMES = st.sampled_from([0, 1, 2, 5, 40, 2**40])
SAMPLES = st.lists(
    st.tuples(st.integers(0, 5), TIMES, st.one_of(st.integers(0, 9).map(float), st.just(STALE_NAN))),
    min_size=1,
    max_size=8,
)
OPS = st.one_of(
    SAMPLES, SAMPLES, SAMPLES, st.tuples(st.sampled_from(["delete", "drop", "renumber", "look"]), TIMES, TIMES)
)


@settings(max_examples=60, deadline=None)
@given(st.lists(OPS, max_size=14), TIMES, TIMES)
def test_any_appends_and_deletions_read_back_as_a_dictionary_says(
    ops: list[list[Sample] | tuple[str, int, int]], start: int, end: int
) -> None:
    buffer, model, views = Loose(), Model(), list[tuple[LooseView, Model]]()
    for arrival, op in enumerate(ops):
        match op:
            case [str(), *_] if op[0] == "delete":
                _, low, high = op
                buffer.delete(ODD, low, high)
                for labels, samples in model.items():
                    if labels.get("half") == "1":
                        for at in [at for at in samples if low <= at <= high]:
                            del samples[at]
            case [str(), *_] if op[0] == "drop":
                _, before, _ = op
                buffer.drop(before, arrival)
                for samples in model.values():
                    for at in [at for at in samples if at < before]:
                        del samples[at]
            case [str(), *_] if op[0] == "renumber":
                used = buffer.series.astype(np.intp)
                buffer.renumber(buffer.table.only(used), used)
            case [str(), *_]:
                views.append((buffer.view(), inside(model, *EVER)))
            case _:
                append(buffer, op, arrival)
                for row, at, value in op:
                    each = (None if is_stale(value) else value, arrival)
                    model.setdefault(LABELS[row], {}).setdefault(at, each)
        times = [at for samples in model.values() for at in samples]
        assert buffer.bounds == ((min(times), max(times)) if times else None)
        assert buffer.samples >= len(times)
    view = buffer.view()
    assert read(view, *EVER) == inside(model, *EVER)
    assert read(view, start, end) == inside(model, start, end)
    assert read(view, start, end, ODD) == inside(model, start, end, "1")
    assert view.cells(start, end).sum() >= sum(map(len, inside(model, start, end).values()))
    for view, then in views:
        assert read(view, *EVER) == then


def test_what_came_later_outlasts_a_drop() -> None:
    buffer = Loose()
    append(buffer, [(0, 1, 1.0), (1, 1, 1.0), (1, 9, 1.0)], 4)
    append(buffer, [(0, 2, 2.0), (0, 8, 2.0)], 5)
    buffer.drop(5, 5)
    assert read(buffer.view(), *EVER) == {
        LABELS[1]: {9: (1.0, 4)},
        LABELS[0]: {2: (2.0, 5), 8: (2.0, 5)},
    }


def test_parts_stay_few_and_samples_are_held_once() -> None:
    buffer = Loose()
    for arrival in range(1000):
        append(buffer, [(row, arrival, 1.0) for row in range(6)], arrival)
    view = buffer.view()
    assert len(view.parts) <= 12
    assert sum(map(len, view.parts)) == buffer.samples == 6000
    assert buffer.size < 28 * 6000 + 28 * 64


def test_rows_of_one_request_share_a_line() -> None:
    buffer = Loose()
    for arrival in range(4):
        append(buffer, [(row, 10 * arrival, float(row)) for row in range(6)], arrival)
    (part,) = [part for part in buffer.view().parts if len(part) > 6]
    assert len(part.lines[1]) == 1


def test_what_is_dropped_leaves_no_memory_but_its_series_and_when_they_were_seen() -> None:
    buffer = Loose()
    append(buffer, [(row, 100 if row == 5 else 1, 0.0) for row in range(6)], 0)
    assert buffer.drop(2**62, 1)
    assert not buffer.drop(2**62, 1)
    assert buffer.samples == buffer.size == 0
    assert buffer.bounds is None
    assert buffer.table.seen.tolist() == [1, 1, 1, 1, 1, 100]


def test_values_are_replaced_in_the_order_in_which_they_are_given() -> None:
    buffer = Loose()
    for arrival in range(3):
        append(buffer, [(row, arrival, 10.0 * row + arrival) for row in range(6)], arrival)
    buffer.revalue(buffer.values + 1)
    assert read(buffer.view(), *EVER) == {
        labels: {at: (10.0 * row + at + 1, at) for at in range(3)} for row, labels in enumerate(LABELS)
    }


def test_rows_a_fortnight_apart_are_sorted_by_row() -> None:
    buffer = Loose()
    for row, at in enumerate((0, 0, 2**30 - 1)):
        append(buffer, [(row, at, float(row))], row)
    assert [part.rows.tolist() for part in buffer.view().parts] == [[0, 1, 2]]
