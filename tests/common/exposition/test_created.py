"""Start timestamps that OpenMetrics tells by `_created` samples."""

import pytest

from common.exposition.created import StartReader
from common.exposition.lines import Exposed, LineParser
from common.exposition.nhcb import Converter
from common.exposition.parse import Format, Series, parse
from common.labels import Labels

BODY = """# TYPE c counter
c_total{x="1"} 5
c_created{x="1"} 1000.5
c_total{x="2"} 6
# TYPE h histogram
h_bucket{le="1.0"} 2
h_bucket{le="+Inf"} 3
h_count 3
h_sum 4
h_created 20
# TYPE s summary
s{quantile="0.5"} 2
s_count 3
s_sum 4
s_created 30
# TYPE g gauge
g_created 7
# TYPE t gauge
t 8
# EOF
"""


def shown(found: Exposed) -> dict[Labels, tuple[float, int]]:
    starts = [0] * len(found.labels) if found.starts is None else found.starts.tolist()
    return {labels: (value, start) for labels, value, start in zip(found.labels, found.values, starts, strict=True)}


def read(body: str = BODY) -> Exposed:
    return StartReader().read(LineParser().parse(body.encode(), Format.OPENMETRICS))


def test_starts_are_those_of_the_reader_line_by_line() -> None:
    expected = {
        each.labels: (each.value, each.start or 0)
        for each in parse(BODY.encode(), Format.OPENMETRICS, skip_created=True)
        if isinstance(each, Series)
    }
    assert shown(read()) == expected
    assert {start for _, start in expected.values()} == {0, 1_000_500, 20_000, 30_000}


@pytest.mark.parametrize("text", ["NaN", "+Inf", "1e300"])
def test_what_is_no_time_is_no_start(text: str) -> None:
    assert shown(read(BODY.replace("1000.5", text)))[Labels.of(__name__="c_total", x="1")] == (5.0, 0)


def test_without_created_samples_a_scrape_stays_as_it_is() -> None:
    parsed = LineParser().parse(b"# TYPE c counter\nc_total 1\n# EOF\n", Format.OPENMETRICS)
    assert StartReader().read(parsed) is parsed


def test_timestamps_stay_with_their_samples() -> None:
    found = read("# TYPE c counter\nc_created 5\nc_total 1 9\n# EOF\n")
    assert (found.timestamps, [] if found.starts is None else found.starts.tolist()) == ([9_000], [5_000])


def test_a_scrape_of_the_same_series_keeps_the_objects_that_name_them() -> None:
    parser, reader = LineParser(), StartReader()
    first = reader.read(parser.parse(BODY.encode(), Format.OPENMETRICS))
    second = reader.read(parser.parse(BODY.replace("1000.5", "2000.5").encode(), Format.OPENMETRICS))
    assert second.labels is first.labels
    assert second.starts is not None
    assert second.starts[0] == 2_000_500


def test_a_converted_histogram_has_the_start_of_its_series() -> None:
    found = Converter(keep=False).convert(read())
    assert [(each.labels.name, each.start) for each in found.histograms] == [("h", 20_000)]
    assert found.starts is not None
    assert len(found.starts) == len(found.labels) == len(found.values)
