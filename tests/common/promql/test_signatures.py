"""Signatures say how many arguments a function takes."""

import pytest

from common.promql.errors import ParseError, Problem, position
from common.promql.signatures import AGGREGATORS, FUNCTIONS


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("rate", 1, 1), ("round", 1, 2), ("label_join", 3, None), ("histogram_quantiles", 3, 12), ("time", 0, 0)],
)
def test_a_signature_gives_the_least_and_the_most_arguments(name, least, most):
    function = FUNCTIONS[name]
    assert (function.min_args, function.max_args) == (least, most)


def test_no_function_shares_its_name_with_an_aggregator():
    assert not FUNCTIONS.keys() & AGGREGATORS.keys()


def test_a_position_counts_lines_and_columns_from_one_in_bytes():
    assert position("ä\nüx".encode(), 5) == "2:3"


def test_a_parse_error_reads_as_its_first_problem():
    error = ParseError(b"ab\ncd", (Problem(4, 5, "bad"), Problem(0, 1, "worse")))
    assert str(error) == "2:2: parse error: bad"
    assert error.all_messages() == "2:2: parse error: bad\n1:1: parse error: worse"
