"""Derived label sets that are remembered, and numbers of equal ones."""

from common.labels import Labels
from common.promql.labelcache import MAX_DERIVATIONS, LabelCache, Numbering, by_number


def test_groupings_of_hundreds_of_rules_are_remembered_and_the_oldest_go_beyond_the_limit() -> None:
    cache, labels = LabelCache(), [Labels.of(a="1", b="2")]
    names = [frozenset(("a", f"name{number}")) for number in range(MAX_DERIVATIONS)]
    found = [cache.keep(labels, each)[0] for each in names]
    assert all(cache.keep(labels, each)[0] is before for each, before in zip(names, found, strict=True))
    assert cache.drop(labels, frozenset("a")) == [Labels.of(b="2")]
    assert cache.keep(labels, names[-1])[0] is found[-1]
    assert cache.keep(labels, names[0])[0] is not found[0]
    assert cache.keep(labels, names[0]) == [Labels.of(a="1")]


def test_equal_label_sets_have_one_number_whichever_object_they_are() -> None:
    first, second = Labels.of(a="1"), Labels.of(a="2")
    numbering = Numbering()
    assert numbering.all_of([second, first, second]).tolist() == [0, 1, 0]
    assert numbering.all_of([Labels.of(a="1"), Labels.of(a="3"), Labels.of(a="2")]).tolist() == [1, 2, 0]
    assert numbering.all_of([first, Labels.of(a="3")]).tolist() == [1, 2]
    assert [each.get("a") for each in numbering.labels] == ["2", "1", "3"]
    again = Numbering()
    assert again.all_of([first, Labels.of(a="1"), second]).tolist() == [0, 0, 1]


def test_places_by_number_are_in_order() -> None:
    numbers = Numbering().all_of([Labels.of(a=each) for each in "xyxxy"])
    assert [each.tolist() for each in by_number(numbers, 3)] == [[0, 2, 3], [1, 4], []]
    assert [each.tolist() for each in by_number(numbers, 2, -numbers.astype(float) - [3, 0, 1, 2, 5])] == [
        [0, 3, 2],
        [4, 1],
    ]
