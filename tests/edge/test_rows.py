"""edge/rows.py: readings become rows that stay where they are."""

from hypothesis import given
from hypothesis import strategies as st

from common.exposition.model import Desc
from common.frames.model import ABSENT, PRESENT, STALE
from common.sample import MetricType
from edge.collectors.runner import CollectorResult
from edge.rows import RowTable, Slot

A = Desc("a", MetricType.GAUGE, "A.", ("x",))
B = Desc("b", MetricType.GAUGE, "B.", ("x",))


def result(name: str, *readings: tuple[Desc, str, float]) -> CollectorResult:
    return CollectorResult(name, True, 0.0, [(desc, (value,), number) for desc, value, number in readings])


def cells(slot: Slot) -> dict[str, float | str]:
    """What the slot says: series to value, or the state of the cell."""
    state = {ABSENT: "absent", STALE: "stale"}
    return {
        str(labels): state.get(presence, value)
        for labels, value, presence in zip(slot.schema.labels(), slot.values, slot.presence, strict=True)
    }


def test_equal_scrapes_share_one_schema_object() -> None:
    table = RowTable()
    first = table.update([result("c", (A, "1", 1.0), (A, "2", 2.0))])
    second = table.update([result("c", (A, "1", 3.0), (A, "2", 4.0))])
    assert second.schema is first.schema
    assert list(second.values) == [3.0, 4.0]
    assert second.presence == bytes([PRESENT, PRESENT])


def test_each_collector_is_a_sub_schema_that_others_do_not_change() -> None:
    table = RowTable()
    first = table.update([result("c", (A, "1", 1.0)), result("d", (B, "1", 1.0))])
    second = table.update([result("c", (A, "1", 1.0), (A, "2", 1.0)), result("d", (B, "1", 1.0))])
    assert [p.name for p in second.schema.parts] == ["c", "d"]
    assert second.schema.parts[1] is first.schema.parts[1]
    assert second.schema.parts[0] is not first.schema.parts[0]


def test_a_series_that_vanishes_is_stale_once_and_then_absent() -> None:
    table = RowTable()
    table.update([result("c", (A, "1", 1.0), (A, "2", 2.0))])
    assert cells(table.update([result("c", (A, "2", 5.0))])) == {'a{x="1"}': "stale", 'a{x="2"}': 5.0}
    assert cells(table.update([result("c", (A, "2", 6.0))])) == {'a{x="1"}': "absent", 'a{x="2"}': 6.0}


def test_a_series_that_flaps_costs_no_new_schema() -> None:
    table = RowTable()
    first = table.update([result("c", (A, "1", 1.0), (A, "2", 2.0))])
    table.update([result("c", (A, "2", 2.0))])
    table.update([result("c", (A, "2", 2.0))])
    back = table.update([result("c", (A, "1", 9.0), (A, "2", 2.0))])
    assert back.schema is first.schema
    assert cells(back) == {'a{x="1"}': 9.0, 'a{x="2"}': 2.0}


def test_a_collector_that_fails_makes_all_its_series_stale() -> None:
    table = RowTable()
    table.update([result("c", (A, "1", 1.0)), result("d", (B, "1", 1.0))])
    assert cells(table.update([result("c"), result("d", (B, "1", 1.0))])) == {'a{x="1"}': "stale", 'b{x="1"}': 1.0}


def test_a_collector_that_is_missing_from_the_results_is_stale_too() -> None:
    table = RowTable()
    table.update([result("c", (A, "1", 1.0))])
    assert cells(table.update([])) == {'a{x="1"}': "stale"}


def test_new_rows_take_the_place_of_those_long_gone_but_stale_ones_are_still_told() -> None:
    table = RowTable()
    table.update([result("c", (A, "1", 1.0), (A, "2", 2.0))])
    table.update([result("c", (A, "2", 2.0))])
    table.update([result("c", (A, "2", 2.0))])
    assert cells(table.update([result("c", (A, "3", 3.0))])) == {'a{x="2"}': "stale", 'a{x="3"}': 3.0}


def test_a_series_given_twice_counts_once_and_the_first_value_holds() -> None:
    table = RowTable()
    slot = table.update([result("c", (A, "1", 1.0), (A, "1", 2.0)), result("d", (A, "1", 3.0))])
    assert cells(slot) == {'a{x="1"}': 1.0}
    assert table.left_out == 2


def test_equal_label_sets_of_different_descriptions_are_one_series() -> None:
    twin = Desc("a", MetricType.GAUGE, "A.", ("x",))
    table = RowTable()
    first = table.update([result("c", (A, "1", 1.0))])
    second = table.update([result("c", (twin, "1", 2.0))])
    assert second.schema is first.schema
    assert cells(second) == {'a{x="1"}': 2.0}


def test_rows_beyond_the_limit_are_left_out_and_counted() -> None:
    table = RowTable(max_series=2)
    slot = table.update([result("c", *((A, str(i), float(i)) for i in range(5)))])
    assert cells(slot) == {'a{x="0"}': 0.0, 'a{x="1"}': 1.0}
    assert table.left_out == 3


def test_metadata_names_each_family_once() -> None:
    slot = RowTable().update([result("c", (A, "1", 1.0), (A, "2", 1.0), (B, "1", 1.0))])
    assert [m.name for m in slot.schema.meta()] == ["a", "b"]


@given(st.lists(st.dictionaries(st.sampled_from("abcdef"), st.floats(allow_nan=False), max_size=6), max_size=12))
def test_the_cells_always_say_what_a_plain_model_says(scrapes: list[dict[str, float]]) -> None:
    table = RowTable()
    before: dict[str, float] = {}
    for scrape in scrapes:
        slot = table.update([result("c", *((A, x, value) for x, value in scrape.items()))])
        told = {series: cell for series, cell in cells(slot).items() if cell != "absent"}
        expected: dict[str, float | str] = {f'a{{x="{x}"}}': "stale" for x in before if x not in scrape}
        expected.update({f'a{{x="{x}"}}': value for x, value in scrape.items()})
        assert told == expected
        before = scrape
