"""What the parser accepts, however deep, the printer prints and the engine evaluates; deeper text is refused."""

import pytest

from common.labels import MAX_REGEX_LENGTH
from common.promql.engine import Engine
from common.promql.errors import ParseError
from common.promql.parser import parse
from common.promql.printer import to_pretty_text, to_text
from common.promql.tokens import MAX_NESTING, MAX_QUERY_BYTES, MAX_TOKENS
from common.promql.tree import to_json
from common.promql.typecheck import MAX_DEPTH
from common.tsdb.memory import MemoryQuerier

LEVELS = MAX_NESTING - 2
DEEPEST = {
    "sums": "+".join(["vector(1)"] * (MAX_DEPTH - 1)),
    "sets": " or ".join(["vector(1)"] * (MAX_DEPTH - 1)),
    "parentheses": "(" * LEVELS + "1" + ")" * LEVELS,
    "calls": "abs(" * LEVELS + "vector(1)" + ")" * LEVELS,
    "subqueries": "max_over_time(" * LEVELS + "vector(1)" + "[1m:1m])" * LEVELS,
    "signs": "-" * (MAX_DEPTH - 2) + "vector(1)",
    "powers": "^".join(["vector(1)"] * LEVELS),
}


@pytest.mark.parametrize("text", DEEPEST.values(), ids=DEEPEST)
def test_the_deepest_queries_are_printed_and_evaluated(text):
    tree = parse(text)
    assert to_text(parse(to_text(tree))) == to_text(parse(to_pretty_text(tree)))
    assert to_json(tree)
    Engine().instant(MemoryQuerier(), text, 0)


@pytest.mark.parametrize("part", ["(", "abs(", "sum(", "a^", "-(", "max_over_time(("])
def test_deeper_nesting_is_refused_with_the_limit(part):
    with pytest.raises(ParseError, match=f"nested more than {MAX_NESTING} levels deep"):
        parse(part * (MAX_NESTING + 1))


@pytest.mark.parametrize("part", ["(", "1^", "-(", "min_of(1,"])
def test_deeper_nesting_of_durations_is_refused_with_the_limit(part):
    with pytest.raises(ParseError, match=f"nested more than {MAX_NESTING} levels deep"):
        parse("a[" + part * (MAX_NESTING + 1))


def test_a_longer_chain_is_refused_with_the_limit():
    with pytest.raises(ParseError, match=f"nested more than {MAX_DEPTH} levels deep"):
        parse("+".join(["1"] * (MAX_DEPTH + 1)))


def test_a_long_chain_with_an_error_in_it_gets_that_error():
    text = "up" + " + up" * 5000 + " or {}"
    with pytest.raises(ParseError, match="1:25007: parse error: vector selector must contain at least one non-empty"):
        parse(text)


def test_too_many_tokens_are_refused():
    with pytest.raises(ParseError, match=f"more than {MAX_TOKENS} tokens"):
        parse("+1" * MAX_TOKENS)


def test_too_long_a_query_is_refused():
    with pytest.raises(ParseError, match=f"longer than {MAX_QUERY_BYTES} bytes"):
        parse(" " * MAX_QUERY_BYTES + "1")


def test_too_long_a_regular_expression_is_refused():
    with pytest.raises(ParseError, match="expression too large"):
        parse('{a=~"' + "a.*" * (MAX_REGEX_LENGTH // 3 + 1) + '"}')
