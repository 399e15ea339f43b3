"""What is remembered of matchers' choices."""

import pytest

from common.frames.model import SchemaHash
from common.labels import Matcher, MatchType
from common.tsdb import registry
from common.tsdb.registry import Selector


def test_answers_of_matchers_asked_last_are_kept_where_all_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MOST_ANSWERS", 3)
    selector = Selector()
    a, b, c = ((Matcher(MatchType.EQ, "i", each),) for each in "abc")
    tables = {}
    for each in (a, b):
        tables[each] = selector.answers(each)
        tables[each].update({(SchemaHash(bytes([n]) * 16), n): None for n in range(2)})
    # Counted when the next ones are asked for: those of the first go.
    assert selector.answers(b) is tables[b]
    selector.answers(c)
    assert selector.answers(b) is tables[b]
    assert selector.answers(a) is not tables[a]
