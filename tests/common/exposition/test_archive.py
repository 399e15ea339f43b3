"""Long texts are read line by line: what is plain fast, the rest exactly, and what is wrong is named by its line."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.exposition.archive import Archive, LineError
from common.exposition.parse import Format
from common.labels import Labels
from common.sample import MetricMeta, MetricType

LATEST = 2_000_000_000_000
Read = list[tuple[str, int, float]]


def read(text: str, form: Format = Format.OPENMETRICS) -> tuple[Read, list[MetricMeta]]:
    archive = Archive(form, LATEST)
    archive.feed(text.encode().removesuffix(b"\n").split(b"\n"))
    archive.end()
    columns = archive.take()
    samples = zip(columns.rows, columns.times, columns.values, strict=True)
    return [(str(columns.labels[row]), at, value) for row, at, value in samples], list(columns.meta.values())


def test_openmetrics_of_two_families_is_read() -> None:
    text = (
        '# TYPE a counter\n# HELP a Some \\"a\\".\n# UNIT b_seconds seconds\n'
        'a_total{x="1"} 5 1.5\na_total{x="1"} 6 2.001\na_total{x="2"} +Inf 1\nb_seconds -0.25 1e3\n# EOF\n'
    )
    samples, meta = read(text)
    assert samples == [
        ('a_total{x="1"}', 1500, 5.0),
        ('a_total{x="1"}', 2001, 6.0),
        ('a_total{x="2"}', 1000, math.inf),
        ("b_seconds", 1_000_000, -0.25),
    ]
    assert meta == [
        MetricMeta("a", MetricType.COUNTER, 'Some "a".'),
        MetricMeta("b_seconds", MetricType.UNKNOWN, "", "seconds"),
    ]


def test_what_promtool_dumps_is_read() -> None:
    text = (
        'up{instance="a:9100",job="node"} 1 1700000000.123\nup{} 1e+06 1700000015.123\n'
        'x{a="\\\\ \\" \\n"} NaN 0.000\n# EOF\n'
    )
    samples, _ = read(text)
    assert samples[:2] == [
        ('up{instance="a:9100", job="node"}', 1_700_000_000_123, 1.0),
        ("up", 1_700_000_015_123, 1e6),
    ]
    assert samples[2][0] == 'x{a="\\\\ \\" \\n"}'
    assert math.isnan(samples[2][2])


def test_the_text_format_has_milliseconds_comments_and_blank_lines() -> None:
    samples, meta = read('# hello\n\n  # TYPE a untyped\na{b="c",} 1 1500\n a 2\t7\n', Format.TEXT)
    assert samples == [('a{b="c"}', 1500, 1.0), ("a", 7, 2.0)]
    assert meta == [MetricMeta("a", MetricType.UNKNOWN)]


def test_names_in_quotes_and_odd_values_are_read() -> None:
    samples, _ = read('{"my.metric","a b"="ä\\n\\"# {"} 1e300 1\n{"my.metric","a b"="ä\\n\\"# {"} 2 2\n# EOF')
    name = '{"my.metric", "a b"="ä\\n\\"# {"}'
    assert samples == [(name, 1000, 1e300), (name, 2000, 2.0)]


def test_bounds_become_canonical_by_the_type_of_their_family() -> None:
    text = '# TYPE h histogram\nh_bucket{le="1"} 1 1\n# TYPE g gauge\nh_bucket{le="1"} 1 1\n# EOF\n'
    assert [name for name, _, _ in read(text)[0]] == ['h_bucket{le="1.0"}', 'h_bucket{le="1"}']


def test_exemplars_are_left_out_and_counted() -> None:
    archive = Archive(Format.OPENMETRICS, LATEST)
    archive.feed(
        [b'a_bucket{le="+Inf"} 1 2 # {trace="x"} 0.5 1', b'a_bucket{le="+Inf"} 1 3 # {trace="x"} 0.5', b"# EOF"]
    )
    assert (archive.exemplars, list(archive.take().times)) == (2, [2000, 3000])


def test_what_is_said_of_a_family_in_two_batches_stays_together() -> None:
    archive = Archive(Format.OPENMETRICS, LATEST)
    archive.feed([b"x 1 1", b"# TYPE a gauge"])
    assert archive.take().meta == {}
    archive.feed([b"# HELP a Help.", b"a 1 1"])
    assert archive.take().meta == {"a": MetricMeta("a", MetricType.GAUGE, "Help.")}


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a 1 1\nb{ 1 1\n# EOF", 2, "expected label name"),
        ("a 1 1\n\n# EOF", 2, "expected a valid start token"),
        ("a 1 1\na 1\n# EOF", 2, "sample without a timestamp"),
        ("a 1 x\n# EOF", 1, "invalid syntax"),
        ("a 1_0 1\n# EOF", 1, "unsupported character in float"),
        ("a 1 1\n# EOF\na 1 2", 3, "unexpected data after # EOF"),
        ("a 1 1\n# EOF\n\n", 3, "unexpected data after # EOF"),
        ("a 1 1", 2, "ends without # EOF"),
        ("a 1 1700000000000\n# EOF", 1, "lies in the future: timestamps are seconds in OpenMetrics"),
        ("a 1 1.7e12\n# EOF", 1, "lies in the future"),
        ("a 1 -1\n# EOF", 1, "samples before 1970"),
        ('a{b="1",b="2"} 1 1\n# EOF', 1, "occurs twice"),
        ("# TYPE a nonsense\n# EOF", 1, "invalid metric type"),
        ('{""} 1 1\n# EOF', 1, "a series without a name"),
        ('a{""="x"} 1 1\n# EOF', 1, "with a label that has none"),
    ],
)
def test_a_bad_line_is_named_with_what_is_wrong(text: str, line: int, problem: str) -> None:
    with pytest.raises(LineError, match=problem) as raised:
        read(text)
    assert raised.value.line == line


def test_lines_before_a_bad_one_are_taken() -> None:
    archive = Archive(Format.OPENMETRICS, LATEST)
    with pytest.raises(LineError):
        archive.feed([b"a 1 1", b"a 2 2", b"?", b"a 3 3"])
    assert list(archive.take().times) == [1000, 2000]


@given(st.integers(0, LATEST))
def test_a_time_with_three_digits_is_read_exactly(ms: int) -> None:
    for line in (f"a 1 {ms // 1000}.{ms % 1000:03}", f'a{{b="\\\\"}} 1 {ms // 1000}.{ms % 1000:03}'):
        archive = Archive(Format.OPENMETRICS, LATEST)
        archive.feed([line.encode()])
        assert archive.take().times[0] == ms


@given(st.binary(max_size=200), st.sampled_from([Format.TEXT, Format.OPENMETRICS]))
def test_noise_raises_nothing_else(data: bytes, form: Format) -> None:
    archive = Archive(form, LATEST)
    try:
        archive.feed(data.split(b"\n"))
    except LineError as err:
        assert err.line == archive.line
    assert all(isinstance(labels, Labels) for labels in archive.take().labels)
