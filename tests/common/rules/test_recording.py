"""Recording rules."""

import pytest

from common.errors import LimitError, QueryError
from common.labels import Labels
from common.promql.ast import NumberLiteral, Span
from common.rules.model import RecordingRule
from common.rules.recording import record

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
