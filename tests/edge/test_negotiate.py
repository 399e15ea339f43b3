"""edge/negotiate.py: who gets which format."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.negotiate import encoding, metrics_format, wants_frames

PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text"),
        ("*/*", "text"),
        ("text/plain", "text"),
        (PROMETHEUS_3, "openmetrics"),
        ("application/openmetrics-text", "openmetrics"),
        ("application/openmetrics-text; version=0.0.1", "openmetrics"),
        ('Application/OpenMetrics-Text; Version="1.0.0"', "openmetrics"),
        ("application/openmetrics-text; version=2.0.0", "text"),
        ("application/openmetrics-text; q=0, */*", "text"),
        ("application/openmetrics-text; q=0.3, text/plain; q=0.5", "text"),
        ("text/html, application/xml;q=0.9, */*;q=0.8", "text"),
    ],
)
def test_metrics_are_given_in_the_format_asked_for(accept: str, kind: str) -> None:
    assert metrics_format(accept) == kind


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("application/vnd.bramble.frames;version=1", True),
        ("application/vnd.bramble.frames", True),
        ("text/plain;q=0.1, application/vnd.bramble.frames; version=1", True),
        ("application/vnd.bramble.frames;version=2", False),
        ("application/vnd.bramble.frames;version=1;q=0", False),
        ("*/*", False),
        ("", False),
    ],
)
def test_frames_go_only_to_clients_that_name_them(accept: str, wanted: bool) -> None:
    assert wants_frames(accept) is wanted


@pytest.mark.parametrize(
    ("header", "chosen"),
    [
        ("", "identity"),
        ("gzip", "gzip"),
        ("deflate, gzip;q=0.5", "gzip"),
        ("*", "gzip"),
        ("gzip;q=0, *", "identity"),
        ("br, zstd", "zstd"),
        ("gzip, zstd", "zstd"),
        ("gzip, zstd;q=0.5", "gzip"),
        ("zstd;q=0, *;q=0", "identity"),
        ("gzip;q=x", "identity"),
    ],
)
def test_the_best_coding_that_the_client_takes_is_used(header: str, chosen: str) -> None:
    assert encoding(header) == chosen


@given(st.text())
def test_no_header_is_too_odd(header: str) -> None:
    assert metrics_format(header) in ("text", "openmetrics")
    assert encoding(header) in ("zstd", "gzip", "identity")
