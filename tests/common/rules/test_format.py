"""Numbers as Go and Prometheus print them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.promql.gotext import short_float
from common.rules import format as fmt


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "-0"),
        (1.0, "1"),
        (1e6, "1000000"),
        (0.1, "0.1"),
        (1e-6, "0.000001"),
        (9.9e-7, "9.9e-07"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (-1.5e300, "-1.5e+300"),
        (5e-324, "5e-324"),
        (123456789012345680.0, "123456789012345680"),
        (math.nan, "NaN"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
    ],
)
def test_samples_are_written_as_prometheus_writes_them(value: float, text: str) -> None:
    assert fmt.sample_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (999999.0, "999999"),
        (1e6, "1e+06"),
        (-1234567.5, "-1.2345675e+06"),
        (1e-4, "0.0001"),
        (0.00001234, "1.234e-05"),
        (-0.0, "-0"),
        (math.inf, "+Inf"),
    ],
)
def test_numbers_in_messages_and_templates_have_exponents_as_in_go(value: float, text: str) -> None:
    assert fmt.go_value(value) == short_float(value) == text


@given(st.floats(allow_nan=False))
def test_a_written_sample_reads_back_as_itself(value: float) -> None:
    assert float(fmt.sample_text(value)) == value
    assert float(fmt.exponent(value)) == value


@pytest.mark.parametrize(("value", "text"), [(1.0, "1e+00"), (0.0, "0e+00"), (1234.5, "1.2345e+03"), (-0.0, "-0e+00")])
def test_alert_values_are_in_scientific_form(value: float, text: str) -> None:
    assert fmt.exponent(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (-1.0, "-1"), (1234567.0, "1.235M"), (0.12, "120m"), (2.0**63, "9.223E"), (math.inf, "+Inf")],
)
def test_humanize_uses_si_prefixes(value: float, text: str) -> None:
    assert fmt.humanize(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(1.0, "1"), (2048.0, "2ki"), (1048576.0, "1Mi"), (0.12, "0.12"), (2.0**64, "16Ei")]
)
def test_humanize1024_uses_binary_prefixes(value: float, text: str) -> None:
    assert fmt.humanize1024(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0s"),
        (1.0, "1s"),
        (60.0, "1m 0s"),
        (3600.0, "1h 0m 0s"),
        (86400.0, "1d 0h 0m 0s"),
        (1234567.0, "14d 6h 56m 7s"),
        (-1.0, "-1s"),
        (899.99, "14m 59s"),
        (0.1, "100ms"),
        (0.0001, "100us"),
        (1.5, "1.5s"),
    ],
)
def test_durations_are_humanized(value: float, text: str) -> None:
    assert fmt.humanize_duration(value) == text


@pytest.mark.parametrize(("value", "text"), [(-0.22222, "-22.22%"), (0.1234567, "12.35%"), (1234567.0, "1.235e+08%")])
def test_ratios_become_percentages(value: float, text: str) -> None:
    assert fmt.humanize_percentage(value) == text


def test_timestamps_are_humanized_as_go_times() -> None:
    assert fmt.humanize_timestamp(1435065584.128) == "2015-06-23 13:19:44.128 +0000 UTC"


@pytest.mark.parametrize(
    ("value", "text"),
    [(4e9, "2096-10-02 07:06:40 +0000 UTC"), (-3e9 + 0.25, "1874-12-07 18:40:00.25 +0000 UTC")],
)
def test_timestamps_beyond_32_bits_are_humanized(value: float, text: str) -> None:
    assert fmt.humanize_timestamp(value) == text


def test_a_timestamp_beyond_int64_nanoseconds_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be represented as a nanoseconds timestamp"):
        fmt.humanize_timestamp(2.0**63)
