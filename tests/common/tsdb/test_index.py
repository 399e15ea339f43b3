"""Indexes over label sets, asked by several threads at once."""

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from common.frames.model import Schema, SubSchema
from common.labels import Labels, Matcher, MatchType
from common.tsdb import index as module
from common.tsdb.index import Column, RowIndex, pair_print
from common.tsdb.registry import StoredSchema

ROWS = tuple(Labels.of(__name__=name, core=str(core), mode="user") for name in ("a", "b") for core in range(3))


def elsewhere(ask: Callable[[], Any]) -> list[Any]:
    """What another thread gets now; nothing if this is that thread."""
    if threading.current_thread() is not threading.main_thread():
        return []
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(ask()))
    thread.start()
    thread.join()
    return found


def test_who_asks_while_an_index_is_built_gets_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = RowIndex(ROWS)
    answers = []

    class Watched(Column):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            answers.extend(elsewhere(lambda: rows.match([Matcher(MatchType.EQ, "mode", "user")], [False]).tolist()))

    monkeypatch.setattr(module, "Column", Watched)
    rows.columns()
    assert answers == [list(range(6))] * 3


def test_who_asks_while_the_metrics_of_a_schema_are_found_gets_all_of_them() -> None:
    answers = []

    class Watched(Schema):
        def labels(self) -> Iterator[Labels]:
            for labels in super().labels():
                yield labels
                answers.extend(elsewhere(lambda: sorted(stored.metrics())))

    schema = Watched((SubSchema("p", ROWS),))
    stored = StoredSchema(schema, b"", [RowIndex(ROWS)])
    stored.metrics()
    assert answers == [["a", "b"]] * 6


def test_what_two_values_differ_by_in_prints_depends_on_the_label() -> None:
    # Else the sums of two label sets that have swapped the values of two labels would be equal: one series.
    names, values = [f"name{i}" for i in range(20)], [str(i) for i in range(10)]
    for one, other in itertools.combinations(values, 2):
        steps = [pair_print(name, one) - pair_print(name, other) for name in names]
        for half in (0, 32):
            assert len({step >> half & 0xFFFFFFFF for step in steps}) == len(names)
