"""Stored metrics find the families that the formats want."""

from collections.abc import Iterable, Sequence

import pytest

from common.exposition.encode import Format
from common.exposition.families import Family, arrange
from common.labels import Labels
from common.sample import MetricMeta, MetricType


def series(*texts: str) -> list[Labels]:
    """`name le=1 x=y` as label sets."""
    found = []
    for text in texts:
        name, *pairs = text.split()
        found.append(Labels.of({"__name__": name, **dict(pair.split("=") for pair in pairs)}))
    return found


def families(metas: Sequence[MetricMeta], stored: Sequence[Labels], form: Format = "openmetrics") -> list[Family]:
    metadata: dict[str, list[MetricMeta]] = {}
    for meta in metas:
        metadata.setdefault(meta.name, []).append(meta)

    def listing(names: Sequence[str]) -> Iterable[Labels]:
        return [labels for labels in stored if labels.name in names]

    return arrange({labels.name for labels in stored}, metadata, listing, form)


HISTOGRAM = MetricMeta("h", MetricType.HISTOGRAM, "H.")
WHOLE = series("h_bucket le=1.0", "h_bucket le=+Inf", "h_sum", "h_count")


def test_counters_lose_total_in_openmetrics_only() -> None:
    for name in ("a", "a_total"):
        meta = MetricMeta(name, MetricType.COUNTER, "A.")
        assert families([meta], series("a_total")) == [Family("a", MetricType.COUNTER, ("a_total",), "A.")]
        assert families([meta], series("a_total"), "text") == [
            Family("a_total", MetricType.COUNTER, ("a_total",), "A.")
        ]


def test_a_counter_without_total_and_one_whose_name_is_taken_are_unknown() -> None:
    (alone,) = families([MetricMeta("a", MetricType.COUNTER, "A.")], series("a"))
    assert alone == Family("a", MetricType.UNKNOWN, ("a",), "A.")
    metas = [MetricMeta("a_total", MetricType.COUNTER), MetricMeta("a", MetricType.GAUGE)]
    assert [(each.name, each.type) for each in families(metas, series("a", "a_total"))] == [
        ("a", MetricType.GAUGE),
        ("a_total", MetricType.UNKNOWN),
    ]


@pytest.mark.parametrize("form", ["openmetrics", "text"])
def test_a_whole_histogram_is_one_family(form: Format) -> None:
    (found,) = families([HISTOGRAM], WHOLE, form)
    assert (found.name, found.type, sorted(found.metrics)) == (
        "h", MetricType.HISTOGRAM, ["h_bucket", "h_count", "h_sum"],
    )  # fmt: skip
    assert found.metric(WHOLE[0]) == found.metric(WHOLE[2]) == Labels()
    assert sorted(WHOLE, key=found.place)[:2] == WHOLE[:2]


@pytest.mark.parametrize(
    "stored",
    [
        series("h_bucket le=1.0", "h_sum", "h_count"),
        series("h_bucket le=+Inf", "h_sum"),
        series("h_bucket le=1", "h_bucket le=+Inf", "h_sum", "h_count"),
        series("h_bucket le=x", "h_bucket le=+Inf", "h_sum", "h_count"),
        series("h_bucket le=+Inf", "h_sum", "h_count", "h_count i=2"),
        [*WHOLE, *series("h")],
        [*WHOLE, *series("h_bucket x=y")],
    ],
    ids=["no +Inf", "no count", "bound not canonical", "bound no number", "another's count", "name taken", "no bound"],
)
def test_what_is_no_whole_histogram_becomes_metrics_of_unknown_type(stored: list[Labels]) -> None:
    found = families([HISTOGRAM], stored)
    assert {each.type for each in found} == {MetricType.UNKNOWN}
    assert sorted(name for each in found for name in each.metrics) == sorted({labels.name for labels in stored})
    assert not any(each.grouped for each in found)


def test_summaries_info_and_statesets_have_their_rules() -> None:
    metas = [
        MetricMeta("s", MetricType.SUMMARY),
        MetricMeta("i", MetricType.INFO, "I."),
        MetricMeta("t", MetricType.STATESET),
    ]
    stored = series("s quantile=0.5", "s_sum", "s_count", "i_info v=1", "t t=on")
    assert [(each.name, each.type, each.metrics) for each in families(metas, stored)] == [
        ("i", MetricType.INFO, ("i_info",)),
        ("s", MetricType.SUMMARY, ("s", "s_count", "s_sum")),
        ("t", MetricType.STATESET, ("t",)),
    ]
    assert families(metas, stored, "text")[0] == Family("i_info", MetricType.INFO, ("i_info",), "I.")
    assert families(metas, series("t"))[0].type is MetricType.UNKNOWN


def test_of_several_metadata_the_last_counts() -> None:
    metas = [MetricMeta("a", MetricType.COUNTER, "Old."), MetricMeta("a", MetricType.GAUGE, "New.", "volts")]
    assert families(metas, series("a")) == [Family("a", MetricType.GAUGE, ("a",), "New.", "volts")]


def test_metrics_without_metadata_are_unknown() -> None:
    assert families([], series("a_total", "b_info", "c")) == [
        Family("a_total", MetricType.UNKNOWN, ("a_total",)),
        Family("b_info", MetricType.UNKNOWN, ("b_info",)),
        Family("c", MetricType.UNKNOWN, ("c",)),
    ]
