"""Times and spans, as Go reads, orders and converts them."""

import math

import pytest

from common.times import FIRST, LAST, MAX_TIME, MIN_TIME, Moment, parse_float, parse_span, parse_time, rfc3339


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1.0), ("-.5e1", -5.0), ("1_0.5_0", 10.5), ("0x1p4", 16.0), ("0x_1P-1", 0.5), ("+Inf", math.inf)],
)
def test_numbers_are_read_as_go_reads_them(text: str, value: float) -> None:
    assert parse_float(text) == value


@pytest.mark.parametrize("text", ["", "1__0", "_1", "1_", "0x1", "1e400", "+nan", "٣", "1e", "0x1p9999", "9" * 500])
def test_other_texts_are_no_numbers(text: str) -> None:
    with pytest.raises(ValueError, match="ParseFloat"):
        parse_float(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1.0005", Moment(1, 0)),
        ("2.0006", Moment(2, 1_000_000)),
        ("-1.5", Moment(-2, 500_000_000)),
        ("2023-11-14T22:13:20.123456789Z", Moment(1_700_000_000, 123_456_789)),
        ("1970-01-01T0:00:00+00:01", Moment(-60, 0)),
        ("0000-02-29T00:00:00Z", Moment(-62_162_121_600, 0)),
    ],
)
def test_times_have_seconds_and_nanoseconds(text: str, moment: Moment) -> None:
    assert parse_time(text) == moment


@pytest.mark.parametrize("text", ["", "now", "2023-02-30T00:00:00Z", "2023-01-01T00:00:00+25:00", "2023-01-01"])
def test_other_texts_are_no_times(text: str) -> None:
    with pytest.raises(ValueError, match="to a valid timestamp"):
        parse_time(text)


def test_a_window_without_ends_has_all_samples() -> None:
    assert (FIRST.window_ms, LAST.window_ms) == (MIN_TIME, MAX_TIME)
    assert FIRST.before(LAST)
    assert not LAST.before(FIRST)
    assert LAST.since(FIRST) == 2**63 - 1


def test_a_timestamp_is_kept_to_the_millisecond() -> None:
    assert Moment.at(-1).query_ms == Moment.at(-1).window_ms == -1
    assert Moment.at(1_700_000_000_123).query_ms == 1_700_000_000_123


@pytest.mark.parametrize(("text", "nanos"), [("1.5", 1_500_000_000), ("1m", 60_000_000_000), ("-2", -2_000_000_000)])
def test_spans_are_numbers_of_seconds_or_durations(text: str, nanos: int) -> None:
    assert parse_span(text) == nanos


@pytest.mark.parametrize("text", ["1e300", "9223372037", "x", "", "300y"])
def test_other_texts_are_no_spans(text: str) -> None:
    with pytest.raises(ValueError, match="valid duration"):
        parse_span(text)


def test_text_of_a_time_has_no_needless_zeros() -> None:
    assert rfc3339(1_500) == "1970-01-01T00:00:01.5Z"
    assert rfc3339(1_000) == "1970-01-01T00:00:01Z"
    assert rfc3339(None) == rfc3339(2**62) == "0001-01-01T00:00:00Z"
