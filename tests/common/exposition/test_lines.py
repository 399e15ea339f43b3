"""The fast parser gives what the exact one gives, whatever it remembers."""

import itertools
import json
import math
import random
from base64 import b64decode
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ExpositionError
from common.exposition.lines import LONGEST_SHARED, RELEARN, LineParser, Pool, Shared
from common.exposition.parse import Format, Series, parse
from common.labels import Labels

Result = list[tuple[Labels, str, int | None]] | str


def exact(body: bytes, form: Format) -> Result:
    """What the exact parser says, duplicates dropped, or its error."""
    found: dict[tuple[Labels, int | None], float] = {}
    try:
        for entry in parse(body, form):
            if isinstance(entry, Series):
                found.setdefault((entry.labels, entry.timestamp), entry.value)
    except ExpositionError as err:
        return str(err)
    return [(labels, repr(value), timestamp) for (labels, timestamp), value in found.items()]


def fast(parser: LineParser, body: bytes, form: Format) -> Result:
    """What the fast parser says, or its error."""
    try:
        found = parser.parse(body, form)
    except ExpositionError as err:
        return str(err)
    stamps = found.timestamps or [None] * len(found.labels)
    return [(lb, repr(v), t) for lb, v, t in zip(found.labels, found.values.tolist(), stamps, strict=True)]


BODIES = [
    b"",
    b"a 1\n",
    b"a 2\n",
    b"a 2",
    b"a 1\nb 2\n",
    b"5\n",
    b'a{x="1"} 1\n',
    b'a{x="1",} 1\n',
    b'a{x="1" y="2"} 1\n',
    b'a{x="1",y="2"} 1\n',
    b'a{x="1",x="2"} 1\n',
    b"a{x=\"\xff\"} 1\n",
    b'a{x="\\n"} 1\n',
    b'a{x="two\nlines"} 1\nb 2\n',
    b"a 1 5\na 1 6\na 2 5\n",
    b"a 1\na 2\n",
    b"a 1\na 33\n",
    b"# TYPE h histogram\nh_bucket{le=\"1\"} 2\n",
    b"# TYPE h gauge\nh_bucket{le=\"1\"} 2\n",
    b"# TYPE h histogram\nh_bucket{le=\"1\"} 1_0\n",
    b"# HELP a b\n\n\na +Inf\n",
    b"a NaN\n",
    b"a 1e999\n",
    b"a 1e99\n",
    b"  a  1\n",
    b"a 1\n# EOF\n",
    b"# TYPE a counter\na_total 1 # {t=\"1\"} 2\n# EOF\n",
    b"a 1\n# EOF",
    b"a 1\n# EOF\nb 1\n",
    b"a 1 # x\n",
    b"\n",
    b"a\r 1\n",
]  # fmt: skip


@pytest.mark.parametrize("form", [Format.TEXT, Format.OPENMETRICS])
def test_every_order_of_two_scrapes_gives_what_the_exact_parser_gives(form: Format) -> None:
    for first, second in itertools.product(BODIES, repeat=2):
        parser = LineParser()
        assert fast(parser, first, form) == exact(first, form), first
        assert fast(parser, second, form) == exact(second, form), (first, second)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(BODIES).flatmap(lambda b: st.sampled_from([b, b[:-1], b + b"a 7\n"])), max_size=6),
    st.sampled_from([Format.TEXT, Format.OPENMETRICS]),
)
def test_scrapes_put_together_give_what_the_exact_parser_gives(pieces: list[bytes], form: Format) -> None:
    body = b"".join(pieces)
    parser = LineParser()
    assert fast(parser, body, form) == exact(body, form)
    changed = body.replace(b"1\n", b"41.5\n")
    assert fast(parser, changed, form) == exact(changed, form)


@pytest.mark.conformance
def test_upstream_inputs_give_what_the_exact_parser_gives(shared: Path) -> None:
    for case in json.loads((shared / "promql" / "data" / "textparse.json").read_text("utf-8"))["cases"]:
        raw = case["input"]
        body = b64decode(raw["base64"]) if isinstance(raw, dict) else raw.encode()
        form = Format.TEXT if case["format"] == "prometheus" else Format.OPENMETRICS
        parser = LineParser()
        for _ in range(2):
            assert fast(parser, body, form) == exact(body, form), body


def test_label_sets_of_an_unchanged_target_are_the_same_objects() -> None:
    parser = LineParser()
    first = parser.parse(b'# HELP a b c\na{x="1"} 1\nb 2\n', Format.TEXT)
    second = parser.parse(b'# HELP a b c\na{x="1"} 10.5\nb -Inf\n', Format.TEXT)
    assert second.labels is first.labels
    assert second.values.tolist() == [10.5, -math.inf]
    assert [m.help for m in second.meta] == ["b c"]


def test_a_changed_help_text_is_noticed() -> None:
    parser = LineParser()
    parser.parse(b"# HELP a b c\na 1\n", Format.TEXT)
    assert [m.help for m in parser.parse(b"# HELP a b d\na 1\n", Format.TEXT).meta] == ["b d"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 1),
            st.sampled_from(["", "# HELP b x\n# TYPE b histogram\n", "# HELP b y\n"]),
            st.lists(st.sampled_from(["1", "2.5", "1e3", "-0", ".5", "1e999", "NaN", "+Inf", "x", "1 7"]), max_size=3),
        ),
        max_size=12,
    )
)
def test_parsers_that_share_give_what_the_exact_parser_gives(scrapes: list[tuple[int, str, list[str]]]) -> None:
    shared = Shared(4)
    parsers = [LineParser(shared), LineParser(shared)]
    for which, head, numbers in scrapes:
        body = head + "".join(f'b{{le="{at}"}} {number}\n' for at, number in enumerate(numbers))
        assert fast(parsers[which], body.encode(), Format.TEXT) == exact(body.encode(), Format.TEXT), body


def test_values_that_come_and_go_are_right_beyond_the_time_that_changes_are_remembered() -> None:
    parser = LineParser()
    for scrape in range(3 * RELEARN):
        values = [float(scrape), float(scrape // 7), 5.0, float(scrape == RELEARN)]
        body = "".join(f"a{at} {value}\n" for at, value in enumerate(values))
        assert parser.parse(body.encode(), Format.TEXT).values.tolist() == values


@pytest.mark.parametrize("end", [b"\n", b""])
def test_any_values_may_change_at_any_time(end: bytes) -> None:
    rng = random.Random(7)
    shared = Shared(64)
    parsers = [LineParser(shared) for _ in range(3)]
    values = [[float(at) for at in range(300)] for _ in parsers]
    for scrape in range(60):
        which = scrape % len(parsers)
        for at in rng.sample(range(300), rng.choice([0, 1, 2, 40])) + [299] * (scrape % 5 == 0):
            values[which][at] = rng.choice([rng.random(), float(rng.randrange(10**9)), 0.0, -1e-7])
        text = "".join(f"# HELP a{at} b\na{at} {value!r}\n" for at, value in enumerate(values[which]))
        body = text.encode().removesuffix(b"\n") + end
        assert parsers[which].parse(body, Format.TEXT).values.tolist() == values[which]


def test_long_texts_are_not_remembered_for_other_targets() -> None:
    shared = Shared()
    label = b"x" * LONGEST_SHARED
    for value in (b"1", b"2", b"3"):
        body = b"# HELP a " + label + b'\na{b="' + label + b'"} ' + value + b"\n# TYPE c gauge\nc 1\n"
        assert fast(LineParser(shared), body, Format.TEXT) == exact(body, Format.TEXT)
    assert shared.comments.get((Format.TEXT, b"# HELP a " + label)) is None
    assert shared.comments.get((Format.TEXT, b"# TYPE c gauge")) is not None
    assert shared.series.get(("", b"c ")) is not None
    assert shared.series.get(("", b'a{b="' + label + b'"} ')) is None


@pytest.mark.parametrize(
    "body", [b"a 1" + b"0" * 400 + b"\n", b"a 1" + b"0" * 250 + b"e99\n", b"a NaN\nb 1" + b"0" * 400 + b"\n"]
)
def test_a_number_beyond_the_largest_is_none(body: bytes) -> None:
    parser = LineParser()
    parser.parse(b"a 1\nb 1\n" if b"b" in body else b"a 1\n", Format.TEXT)
    for each in (parser, LineParser()):
        with pytest.raises(ExpositionError, match="value out of range"):
            each.parse(body, Format.TEXT)


def test_equal_targets_share_their_label_sets_and_metadata() -> None:
    shared = Shared()
    body = b'# HELP a b c\n# TYPE a gauge\na{x="1"} 1\nb 2\n'
    first, second = (LineParser(shared).parse(body, Format.TEXT) for _ in range(2))
    assert [x is y for x, y in zip(first.labels, second.labels, strict=True)] == [True, True]
    assert first.meta == second.meta


def test_a_type_from_memory_still_says_which_label_is_a_float() -> None:
    shared = Shared()
    body = b'# TYPE h histogram\nh_bucket{le="1"} 2\n\nh_bucket{le="\\n",le="2"} 3\n'
    for _ in range(2):
        assert fast(LineParser(shared), body, Format.TEXT) == exact(body, Format.TEXT)
    good = b'# TYPE h histogram\nh_bucket{le="1"} 2\nh_bucket{ le = "5" } 3\n'
    for _ in range(2):
        assert fast(LineParser(shared), good, Format.TEXT) == exact(good, Format.TEXT)


def test_a_pool_remembers_the_latest() -> None:
    pool = Pool[int, str](10)
    for number in range(100):
        pool.put(number, str(number))
        assert pool.get(0) == "0"
    assert [pool.get(number) for number in range(90, 100)] == [str(number) for number in range(90, 100)]
    assert pool.get(50) is None
