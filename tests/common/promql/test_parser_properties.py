"""The parser on made-up input: printing keeps the meaning, and nothing but a ParseError ever comes out."""

import random

from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.promql.ast import ValueType
from common.promql.errors import ParseError
from common.promql.lexer import AGGREGATIONS, KEYWORDS, OPERATORS
from common.promql.parser import parse, parse_metric, parse_selector
from common.promql.printer import to_pretty_text, to_text
from common.promql.promqltest_series import parse_series
from common.promql.signatures import AGGREGATORS, FEATURES, FUNCTIONS
from common.promql.tree import to_json

NAMES = st.sampled_from(["up", "node_cpu", "job:rate5m", "sum", "by", "on", "offset", "start", "fill", "Inf_x", "_"])
METRICS = NAMES.filter(lambda name: name != "on")
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=8)
NUMBERS = st.one_of(
    st.integers(0, 10**18).map(str),
    st.floats(0, allow_nan=False, allow_infinity=False).map(repr),
    # Not Inf: it prints as +Inf, as in Prometheus, and +Inf ^ 2 is read as +(Inf ^ 2).
    st.sampled_from(["0x1F", "017", "1_000", ".5", "5.", "NaN", "1h30m", "5ms", "1y"]),
)
DURATIONS = st.sampled_from(["5m", "1h30m", "90", "0.5", "1y2w", "100ms"])


def quoted(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


# A selector's metric name must not be set twice.
LABEL_TEXTS = TEXTS.filter(lambda text: text not in ("", "__name__"))
LABELS = st.one_of(NAMES.filter(lambda name: ":" not in name), LABEL_TEXTS.map(quoted))
MATCHERS = st.one_of(
    st.builds(lambda name, op, value: f"{name}{op}{quoted(value)}", LABELS, st.sampled_from(["=", "!="]), TEXTS),
    st.builds(lambda name, value: f"{name}=~{value}", LABELS, st.sampled_from(['"a.*"', "'x|y'", "`[0-9]+`"])),
)
SELECTORS = st.builds(
    lambda name, matchers: name + ("{" + ",".join(matchers) + "}" if matchers else ""),
    METRICS,
    st.lists(MATCHERS, max_size=3),
)
OFFSETS = st.sampled_from(
    ["", " offset 5m", " offset -1h", " offset (5m * 2)", " offset -step()", " offset min_of(1, 2)"]
)
AT = st.sampled_from(["", " @ 1.5", " @ -7", " @ start()", " @ end()"])
EXTENSIONS = st.sampled_from(["", " anchored", " smoothed"])
RANGES = st.one_of(DURATIONS, st.sampled_from(["5m * 2", "step() ^ 2", "(1h) - range()", "max_of(step(), 5s)"]))
GROUPS = st.lists(LABELS, max_size=2).map(lambda names: "(" + ", ".join(names) + ")")


def vectors(inner):
    vector, scalar = inner
    arithmetic = st.sampled_from(["+", "-", "*", "/", "%", "^", "atan2", "</", ">/"])
    comparison = st.sampled_from(["==", "!=", "<", "<=", ">", ">=", "> bool"])
    matching = st.one_of(
        st.just(""),
        st.builds("{} {}".format, st.sampled_from(["on", "ignoring"]), GROUPS),
        st.builds(lambda group, include: f"ignoring {group} group_left {include}", GROUPS, GROUPS),
        st.sampled_from(["fill(0)", "fill_left(-1.5)", "fill_right(Inf) fill_left(1)", "on (x) group_right fill(1e9)"]),
    )
    ranged = st.one_of(
        st.builds("{}[{}]{}{}{}".format, SELECTORS, RANGES, EXTENSIONS, AT, OFFSETS),
        st.builds("({})[{}:{}]{}{}".format, vector, DURATIONS, st.one_of(st.just(""), RANGES), AT, OFFSETS),
    )
    of_matrix = sorted(name for name, f in FUNCTIONS.items() if f.arg_types == (ValueType.MATRIX,))
    of_vector = sorted(name for name, f in FUNCTIONS.items() if f.arg_types == (ValueType.VECTOR,) and name != "scalar")
    of_nothing = sorted(name for name, f in FUNCTIONS.items() if f.arg_types == ())
    plain = sorted(name for name, a in AGGREGATORS.items() if a.param is None)
    with_param = sorted(name for name, a in AGGREGATORS.items() if a.param is ValueType.SCALAR)
    clause = st.one_of(st.just(""), st.builds(" {} {} ".format, st.sampled_from(["by", "without"]), GROUPS))
    new_vector = st.one_of(
        # In parentheses, since `offset (1) + 2` is one offset.
        st.builds("({}{}{})".format, SELECTORS, AT, OFFSETS),
        st.builds("({})".format, vector),
        st.builds("{}{}".format, st.sampled_from("+-"), vector),
        st.builds("{} {} {} {}".format, vector, arithmetic, matching, vector),
        st.builds("{} {} {}".format, vector, comparison, vector),
        st.builds("({} {} {})".format, vector, comparison, scalar),
        st.builds("{} {} {}".format, vector, st.sampled_from(["and", "or", "unless"]), vector),
        st.builds("{}({})".format, st.sampled_from(of_matrix), ranged),
        st.builds("{}({})".format, st.sampled_from(of_vector), vector),
        st.builds("{}{}({})".format, st.sampled_from(plain), clause, vector),
        st.builds("{}({}, {}){}".format, st.sampled_from(with_param), scalar, vector, clause),
        st.builds("label_replace({}, {}, {}, '', '.*')".format, vector, LABELS.map(repr), TEXTS.map(quoted)),
    )
    new_scalar = st.one_of(
        NUMBERS,
        st.builds("-{}".format, scalar),
        st.builds("({} {} {})".format, scalar, arithmetic.filter(lambda op: "/" not in op or op == "/"), scalar),
        st.builds("scalar({})".format, vector),
        st.builds("{}()".format, st.sampled_from(of_nothing)),
    )
    return new_vector, new_scalar


def sorted_matchers(node):
    """The JSON of a tree with its matchers in one order; printing sorts them."""
    if isinstance(node, list):
        return [sorted_matchers(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {key: sorted(value, key=str) if key == "matchers" else sorted_matchers(value) for key, value in node.items()}


def queries():
    grammar = (SELECTORS, NUMBERS)
    for _ in range(2):
        grammar = vectors(grammar)
    return st.one_of(grammar)


QUERIES = queries()
TOKENS = sorted(
    {*AGGREGATIONS, *KEYWORDS, *OPERATORS, "start()", "foo", "rate", "5m", "1.5", "0x", '"x"', "'", "`", "\\"}
    | {"(", ")", "[", "]", "{", "}", ",", ":", "=", "#", " ", "\n", "$", "é", "\ufffd", "\x00", "step", "min_of"}
)


@settings(max_examples=80, deadline=None)
@given(QUERIES)
def test_the_printed_text_parses_to_the_same_tree(query):
    tree = parse(query, FEATURES)
    text = to_text(tree)
    again = parse(text, FEATURES)
    assert to_text(again) == text
    assert sorted_matchers(to_json(again)) == sorted_matchers(to_json(tree))


@settings(max_examples=40, deadline=None)
@given(QUERIES)
@example("""(offset) + ignoring ("INF", "nan") (up)""")
@example("""sum by ("without", "by", "1") (up)""")
def test_the_pretty_text_parses_to_the_same_tree(query):
    tree = parse(query, FEATURES)
    assert to_text(parse(to_pretty_text(tree), FEATURES)) == to_text(tree)


def only_parse_errors(function, text):
    try:
        function(text)
    except ParseError as error:
        source = text if isinstance(text, bytes) else text.encode(errors="surrogatepass")
        for problem in error.problems:
            assert 0 <= problem.start <= len(source)
            assert 0 <= problem.end <= len(source)
        assert ": parse error: " in str(error)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(TOKENS), max_size=25).map("".join))
@example("foo offset NaN")
@example("sum by (")
@example("foo[5m:5m:")
def test_any_row_of_tokens_parses_or_gives_a_parse_error(text):
    only_parse_errors(lambda t: to_pretty_text(parse(t, FEATURES)), text)
    only_parse_errors(parse_selector, text)
    only_parse_errors(parse_metric, text)


@settings(max_examples=80, deadline=None)
@given(st.one_of(st.binary(max_size=40), st.text(max_size=40)))
def test_any_bytes_parse_or_give_a_parse_error(text):
    only_parse_errors(parse, text)


@settings(max_examples=80, deadline=None)
@given(QUERIES, st.randoms(use_true_random=False))
def test_a_damaged_query_parses_or_gives_a_parse_error(query, rng: random.Random):
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(query) + 1)
        query = query[:at] + rng.choice(("", rng.choice(TOKENS))) + query[at + rng.randrange(4) :]
    only_parse_errors(lambda t: to_text(parse(t, FEATURES)), query)


@settings(max_examples=80, deadline=None)
@given(st.text("01_xe+-. stalenaif{}[]:buckts", max_size=40))
def test_any_series_values_parse_or_give_a_parse_error(text):
    only_parse_errors(parse_series, 'up{a="b"} ' + text)
