"""Label sets and matchers."""

import pytest

from common.errors import FormatError
from common.labels import Labels, Matcher, MatchType


def test_labels_are_sorted_and_drop_empty_values() -> None:
    assert Labels([("b", "2"), ("a", "1"), ("c", "")]).pairs == (("a", "1"), ("b", "2"))


def test_a_label_given_twice_is_refused() -> None:
    with pytest.raises(FormatError, match="'a' occurs twice"):
        Labels([("a", "1"), ("a", "2")])


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ({}, "{}"),
        ({"__name__": "up"}, "up"),
        ({"__name__": "up", "job": 'a"b\\c\n'}, 'up{job="a\\"b\\\\c\\n"}'),
        ({"__name__": "my.metric", "dotted.label": "x"}, '{"my.metric", "dotted.label"="x"}'),
    ],
)
def test_text_follows_prometheus(labels: dict[str, str], text: str) -> None:
    assert str(Labels.of(labels)) == text


@pytest.mark.parametrize(
    ("kind", "pattern", "value", "hit"),
    [
        ("=", "a", "a", True),
        ("=", "", "", True),
        ("!=", "a", "", True),
        ("=~", "a|b", "b", True),
        ("=~", "a|b", "ab", False),
        ("=~", "a.*", "a\nb", True),
        ("=~", "a", "ab", False),
        ("!~", "a.+", "a", True),
        ("=~", "", "", True),
        ("=~", "x|", "", True),
    ],
)
def test_matchers_are_anchored_and_dot_matches_newline(kind: str, pattern: str, value: str, hit: bool) -> None:
    assert Matcher(MatchType(kind), "l", pattern).matches(value) is hit


def test_a_bad_regular_expression_says_why() -> None:
    with pytest.raises(FormatError, match="error parsing regexp"):
        Matcher(MatchType.RE, "l", "(a")


def test_merge_overrides_and_empty_removes() -> None:
    assert Labels.of(a="1", b="2").merge({"a": "", "c": "3"}) == Labels.of(b="2", c="3")
