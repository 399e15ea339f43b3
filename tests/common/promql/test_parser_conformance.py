"""Every case of the shared parser data: accepted and rejected queries, series descriptions, canonical texts."""

import base64
import json
import math
from pathlib import Path

import pytest

from common.promql.errors import ParseError
from common.promql.parser import parse
from common.promql.printer import to_text
from common.promql.promqltest_series import parse_series
from common.promql.signatures import BINOP_FILL_MODIFIERS, FEATURES

DATA = Path(__file__).resolve().parents[4] / "shared" / "promql" / "data" / "parser.json"
CASES = json.loads(DATA.read_text())["cases"] if DATA.is_file() else []
NODES = {
    "AggregateExpr": "Aggregate",
    "BinaryExpr": "Binary",
    "ParenExpr": "Paren",
    "SubqueryExpr": "Subquery",
    "UnaryExpr": "Unary",
}


def cases(kind):
    found = [case for case in CASES if case["kind"] == kind]
    return pytest.mark.parametrize("case", found, ids=[case["id"] for case in found])


@pytest.mark.conformance
@cases("expression")
def test_an_expression_parses_or_fails_as_in_prometheus(case, shared):
    text = case["input"]
    if isinstance(text, dict):
        text = base64.b64decode(text["base64"])
    if case["ok"]:
        node = parse(text, FEATURES - {BINOP_FILL_MODIFIERS})
        assert type(node).__name__ == NODES.get(case["node"], case["node"])
        return
    with pytest.raises(ParseError) as caught:
        parse(text, FEATURES - {BINOP_FILL_MODIFIERS})
    found = [{"start": p.start, "end": p.end, "message": p.message} for p in caught.value.problems]
    assert found == case["errors"]


@pytest.mark.conformance
@cases("print")
def test_a_query_has_its_canonical_text(case, shared):
    assert to_text(parse(case["input"], FEATURES)) == case["output"]


@pytest.mark.conformance
@cases("series")
def test_a_series_description_expands_to_its_values(case, shared):
    if not case["ok"]:
        with pytest.raises(ParseError):
            parse_series(case["input"])
        return
    series = parse_series(case["input"])
    assert series.labels.to_dict() == case["metric"]
    assert list(series.items) == [None if v is None else math.nan if v == "NaN" else float(v) for v in case["values"]]
