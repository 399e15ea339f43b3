"""Recording rules."""

import pytest

from common.errors import LimitError, QueryError
from common.labels import Labels
from common.promql.ast import NumberLiteral, Span
from common.rules.model import RecordingRule
from common.rules.recording import record, recorded

RULE = RecordingRule("job:up:sum", NumberLiteral(1.0, Span(0, 1)), "1", {"team": "a", "gone": ""})


def test_the_series_get_the_rules_name_and_labels() -> None:
    rows = record(RULE, [(Labels.of(__name__="up", job="x", gone="y"), 3.0)])
    assert rows == [(Labels.of(__name__="job:up:sum", job="x", team="a"), 3.0)]


def test_equal_label_sets_fail_the_rule() -> None:
    with pytest.raises(QueryError, match="same labelset after applying rule labels"):
        record(RULE, [(Labels.of(team="x"), 1.0), (Labels.of(team="y"), 2.0)])


def test_more_series_than_the_limit_fail_the_rule() -> None:
    with pytest.raises(LimitError, match="exceeded limit of 1 with 2 series"):
        record(RULE, [(Labels.of(a="x"), 1.0), (Labels.of(a="y"), 2.0)], limit=1)


def test_what_is_remembered_of_label_sets_changes_nothing() -> None:
    found = [Labels.of(job=each, team=each) for each in "abc"]
    naming = recorded(RULE)
    for some in ([0, 1], [1, 0], [2, 0], [], [0, 1, 2]):
        vector = [(found[each], float(each)) for each in some]
        assert record(RULE, vector, naming=naming) == record(RULE, vector)
    alike = Labels.of(job="a", team="z")
    with pytest.raises(QueryError, match="same labelset"):
        record(RULE, [(found[0], 1.0), (alike, 2.0)], naming=naming)
    assert record(RULE, [(alike, 2.0)], naming=naming) == record(RULE, [(found[0], 2.0)])
    with pytest.raises(QueryError, match="same labelset"):
        record(RULE, [(found[0], 1.0), (alike, 2.0)], naming=naming)


def test_the_same_label_sets_are_named_by_the_same_objects() -> None:
    found = [(Labels.of(job=each), 1.0) for each in "ab"]
    naming = recorded(RULE)
    first, again = (record(RULE, found, naming=naming) for _ in range(2))
    assert all(one is other for (one, _), (other, _) in zip(first, again, strict=True))
