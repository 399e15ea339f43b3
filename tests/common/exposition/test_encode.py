import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families as parse_text

from common.exposition.encode import Encoder, Format, format_value, sample_line
from common.exposition.model import Desc
from common.sample import MetricType, Millis

parse_openmetrics: Any = openmetrics_parser.text_string_to_metric_families

UP = Desc("node_up_seconds_total", MetricType.COUNTER, "Up\\time,\nin seconds.", ("cpu", "mode"))
TEMP = Desc("node_temp_celsius", MetricType.GAUGE, "", ("zone",))


def test_text_has_help_type_and_escaped_labels() -> None:
    page = Encoder().encode([(UP, ("0", 'a"b\\c\nd'), 1.5), (UP, ("1", ""), 2.0)])
    assert page.decode() == (
        "# HELP node_up_seconds_total Up\\\\time,\\nin seconds.\n"
        "# TYPE node_up_seconds_total counter\n"
        'node_up_seconds_total{cpu="0",mode="a\\"b\\\\c\\nd"} 1.5\n'
        'node_up_seconds_total{cpu="1",mode=""} 2.0\n'
    )


def test_openmetrics_strips_total_from_the_family_and_names_the_unit_and_the_end() -> None:
    page = Encoder("openmetrics").encode([(UP, ("0", "idle"), 1.5)])
    assert page.decode() == (
        "# TYPE node_up_seconds counter\n"
        "# UNIT node_up_seconds seconds\n"
        "# HELP node_up_seconds Up\\\\time,\\nin seconds.\n"
        'node_up_seconds_total{cpu="0",mode="idle"} 1.5\n'
        "# EOF\n"
    )


def test_interleaved_families_are_brought_together() -> None:
    page = Encoder().encode([(TEMP, ("0",), 1.0), (UP, ("0", "x"), 1.0), (TEMP, ("1",), 2.0)]).decode()
    assert page.index('zone="1"') < page.index("node_up")
    assert page.count("# TYPE node_temp_celsius gauge\n") == 1


def test_a_second_page_does_not_repeat_the_first() -> None:
    encoder = Encoder()
    encoder.encode([(TEMP, ("0",), 1.0)])
    assert encoder.encode([(TEMP, ("1",), 2.0)]).decode() == (
        '# TYPE node_temp_celsius gauge\nnode_temp_celsius{zone="1"} 2.0\n'
    )


def test_a_counter_without_total_keeps_its_sample_name_in_openmetrics() -> None:
    page = Encoder("openmetrics").encode([(Desc("node_intr", MetricType.COUNTER, "X."), (), 1.0)]).decode()
    assert page == "# TYPE node_intr unknown\n# HELP node_intr X.\nnode_intr 1.0\n# EOF\n"


@pytest.mark.parametrize("order", [1, -1])
def test_a_gauge_and_a_counter_of_the_same_stem_stay_apart_in_openmetrics(order: int) -> None:
    descs = [Desc("x", MetricType.GAUGE, ""), Desc("x_total", MetricType.COUNTER, "")][::order]
    page = Encoder("openmetrics").encode([(d, (), 1.0) for d in descs]).decode()
    families = {family.name: family.type for family in parse_openmetrics(page)}
    assert families == {"x": "gauge", "x_total": "unknown"}


def test_parts_of_a_histogram_stand_under_one_head() -> None:
    bucket = Desc("h_bucket", MetricType.HISTOGRAM, "H.", ("le",), family="h")
    count = Desc("h_count", MetricType.HISTOGRAM, "H.", family="h")
    total = Desc("h_sum", MetricType.HISTOGRAM, "H.", family="h")
    page = Encoder().encode([(bucket, ("1.0",), 1.0), (bucket, ("+Inf",), 2.0), (count, (), 2.0), (total, (), 3.0)])
    (family,) = parse_text(page.decode())
    assert (family.name, family.type, len(family.samples)) == ("h", "histogram", 4)


@pytest.mark.parametrize(
    ("value", "text"),
    [(math.nan, "NaN"), (math.inf, "+Inf"), (-math.inf, "-Inf"), (-0.0, "-0.0"), (5e-324, "5e-324"), (1e300, "1e+300")],
)
def test_special_values(value: float, text: str) -> None:
    assert format_value(value) == text
    assert Encoder().encode([(Desc("x", MetricType.GAUGE, ""), (), value)]).decode().endswith(f"x {text}\n")


def test_names_beyond_the_legacy_alphabet_are_quoted_inside_the_braces() -> None:
    desc = Desc("größe.bytes", MetricType.GAUGE, "", ("a.b",))
    assert Encoder().encode([(desc, ("1",), 1.0)]).decode().endswith('{"größe.bytes","a.b"="1"} 1.0\n')


@pytest.mark.parametrize(("kind", "stamp"), [("text", "1500"), ("openmetrics", "1.5")])
def test_timestamps_have_the_unit_of_the_format(kind: Format, stamp: str) -> None:
    assert sample_line("x", 1.0, Millis(1500), kind) == f"x 1.0 {stamp}\n"


@given(st.lists(st.tuples(st.text(st.characters(codec="utf-8")), st.floats(allow_nan=False)), max_size=20))
def test_any_label_value_and_number_reads_back_as_it_was(rows: list[tuple[str, float]]) -> None:
    rows = list(dict(rows).items())
    desc = Desc("m", MetricType.GAUGE, "Help.", ("l",))
    for kind, parse in (("text", parse_text), ("openmetrics", parse_openmetrics)):
        page = Encoder(kind).encode([(desc, (label,), value) for label, value in rows]).decode()  # type: ignore[arg-type]
        got = [(s.labels["l"], s.value) for family in parse(page) for s in family.samples]
        assert got == rows
