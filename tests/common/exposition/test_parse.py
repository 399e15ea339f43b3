"""Both text formats, entry by entry, against Prometheus's own cases and a few of ours."""

import base64
import contextlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ExpositionError
from common.exposition.parse import (
    Comment,
    Entry,
    Exemplar,
    Format,
    Help,
    Series,
    Type,
    Unit,
    format_float,
    go_quote,
    normal_float,
    parse,
)
from common.labels import Labels

FORMATS = {"prometheus": Format.TEXT, "openmetrics": Format.OPENMETRICS}


def exemplar_json(exemplar: Exemplar) -> dict[str, Any]:
    found: dict[str, Any] = {"labels": exemplar.labels.to_dict(), "value": exemplar.value}
    if exemplar.timestamp is not None:
        found["t_ms"] = exemplar.timestamp
    return found


def entry_json(entry: Entry) -> dict[str, Any]:
    """An entry as the conformance data writes it."""
    match entry:
        case Help(metric, text):
            return {"type": "help", "metric": metric, "value": text}
        case Type(metric, kind):
            return {"type": "type", "metric": metric, "value": str(kind)}
        case Unit(metric, unit):
            return {"type": "unit", "metric": metric, "value": unit}
        case Comment(text):
            return {"type": "comment", "text": text}
        case Series():
            found: dict[str, Any] = {
                "type": "series",
                "series": entry.text.decode(),
                "labels": entry.labels.to_dict(),
                "value": entry.value,
            }
            if entry.timestamp is not None:
                found["t_ms"] = entry.timestamp
            if entry.start is not None:
                found["start_ms"] = entry.start
            if entry.exemplar is not None:
                found["exemplars"] = [exemplar_json(entry.exemplar)]
            return found


@pytest.mark.conformance
def test_every_upstream_case_gives_its_entries_or_its_error(shared: Path) -> None:
    cases = json.loads((shared / "promql" / "data" / "textparse.json").read_text("utf-8"))["cases"]
    wrong: list[str] = []
    for case in cases:
        raw = case["input"]
        data = base64.b64decode(raw["base64"]) if isinstance(raw, dict) else raw.encode()
        error = None
        entries: list[dict[str, Any]] = []
        try:
            entries = [entry_json(e) for e in parse(data, FORMATS[case["format"]], skip_created=True)]
        except ExpositionError as err:
            error = str(err)
        if error != case.get("error"):
            wrong.append(f"{case['id']} {data!r}: {error!r} instead of {case.get('error')!r}")
        elif "entries" in case and entries != case["entries"]:
            wrong.append(f"{case['id']} {data!r}: {entries}")
    assert len(cases) >= 87
    assert not wrong, f"{len(wrong)} of {len(cases)} cases:\n" + "\n".join(wrong)


def series(text: str, form: Format = Format.TEXT) -> list[Series]:
    return [e for e in parse(text.encode(), form) if isinstance(e, Series)]


def test_a_duplicate_label_is_an_error_that_shows_the_line() -> None:
    with pytest.raises(
        ExpositionError, match=r"label 'a' occurs twice while parsing: \"m\{a=\\\"1\\\",a=\\\"2\\\"\} 3\""
    ):
        series('m{a="1",a="2"} 3')


@pytest.mark.parametrize("word", ["1e999", "0x10", "1__0", "１", "infinit", "+nan", "", "--1"])
def test_what_go_does_not_take_as_a_float_is_refused(word: str) -> None:
    with pytest.raises(ExpositionError):
        series(f"m {word}\n")


@pytest.mark.parametrize(
    ("word", "value"), [("+Inf", math.inf), ("-infinity", -math.inf), (".5", 0.5), ("1.", 1.0), ("1E+3", 1000.0)]
)
def test_floats_are_read_as_go_reads_them(word: str, value: float) -> None:
    assert series(f"m {word}\n")[0].value == value


def test_a_timestamp_beyond_int64_is_refused() -> None:
    with pytest.raises(ExpositionError, match="out of range"):
        series("m 1 99999999999999999999\n")


def test_a_negative_timestamp_is_taken() -> None:
    assert series("m 1 -5\n")[0].timestamp == -5


def test_created_stays_a_sample_unless_it_is_skipped() -> None:
    text = "# TYPE a counter\na_total 1\na_created 2\n# EOF\n"
    assert [s.labels.name for s in series(text, Format.OPENMETRICS)] == ["a_total", "a_created"]


def test_le_is_a_float_only_in_histograms() -> None:
    found = series('# TYPE h histogram\nh_bucket{le="5"} 1\n# TYPE g gauge\ng{le="5"} 1\n')
    assert [s.labels.get("le") for s in found] == ["5.0", "5"]


def test_an_empty_label_value_is_no_label() -> None:
    assert series('m{a=""} 1')[0].labels == Labels.of(__name__="m")


@pytest.mark.parametrize(
    ("text", "normal"),
    [("1", "1.0"), ("0.005", "0.005"), ("+Inf", "+Inf"), ("1e6", "1e+06"), ("abc", "abc"), ("1e-05", "1e-05"),
     ("12345678", "1.2345678e+07"), ("100000", "100000.0"), ("0.0001", "0.0001"), ("1e100", "1e+100")],
)  # fmt: skip
def test_bucket_bounds_have_one_spelling(text: str, normal: str) -> None:
    assert normal_float(text) == normal


def test_quoting_follows_go() -> None:
    assert go_quote(b'a"\\\n\t\x00\xff\xc3\xa4\xe2\x80\x8b') == '"a\\"\\\\\\n\\t\\x00\\xffä\\u200b"'


@given(st.binary(max_size=200))
def test_garbage_is_parsed_or_refused_but_never_crashes(data: bytes) -> None:
    for form in Format:
        with contextlib.suppress(ExpositionError):
            list(parse(data, form))


@given(st.floats(allow_nan=False))
def test_a_formatted_float_reads_back_equal(value: float) -> None:
    assert float(format_float(value)) == value
