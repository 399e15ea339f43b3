"""Sorting in steps."""

import random

from common.order import STEP, in_order


def test_many_items_are_sorted_as_at_once() -> None:
    items = [random.Random(7).randrange(100_000) for _ in range(3 * STEP + 17)]
    items += random.Random(8).choices(range(100_000), k=3 * STEP)
    assert in_order(items, key=lambda item: -item) == sorted(items, key=lambda item: -item)


def test_items_with_equal_keys_stay_in_their_order() -> None:
    items = [(random.Random(at).randrange(9), at) for at in range(2 * STEP + 3)]
    assert in_order(items, key=lambda item: item[0]) == sorted(items, key=lambda item: item[0])


def test_few_items_and_none_are_sorted_too() -> None:
    assert in_order("bca", key=str) == ["a", "b", "c"]
    assert in_order([], key=str) == []
