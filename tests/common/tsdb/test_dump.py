"""What a Querier has comes out as valid text, and goes back in as it was."""

import math
import tempfile
from collections import Counter
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from common.exposition.archive import Archive
from common.exposition.encode import Format
from common.exposition.parse import Format as Syntax
from common.frames.model import SourceId
from common.histogram import FloatHistogram
from common.histogram_grid import Grid
from common.labels import Labels, Matcher, MatchType
from common.sample import STALE_NAN, MetricMeta, MetricType, Millis, is_stale
from common.testing import FakeClock
from common.testing_files import UnsyncedFiles
from common.tsdb.dump import Dump, seconds
from common.tsdb.importing import OPTIONS, Importer
from common.tsdb.memory import MemoryQuerier, read_all
from common.tsdb.querier import Querier, RowBatch, Timeline, ValueKind
from common.tsdb.store import Store

EVER = Millis(-(2**62)), Millis(2**62)
NOW = 1_700_000_000_000
DAY = 86_400_000
WRITER = SourceId(bytes(16))


def dump(
    querier: MemoryQuerier | Store, form: Format = "openmetrics", max_cells: int = 1 << 22, **more: object
) -> Dump:
    cells = Counter(labels.name for labels in querier.series([], *EVER))
    most = {name: 100 * count for name, count in cells.items()}
    asked = {"start": EVER[0], "end": EVER[1], **more}
    return Dump(querier, most, form=form, max_cells=max_cells, **asked)  # type: ignore[arg-type]


def text(querier: Querier, form: Format = "openmetrics", **more: object) -> str:
    return "".join(dump(querier, form, **more).pages())  # type: ignore[arg-type]


def model(*samples: tuple[str, int, float], meta: tuple[MetricMeta, ...] = ()) -> MemoryQuerier:
    """A model of (`name label=value ...`, ms, value)."""
    out = MemoryQuerier(rows_per_batch=1)
    for series, at, value in samples:
        name, *pairs = series.split()
        out.add(Labels.of({"__name__": name, **dict(pair.split("=") for pair in pairs)}), at, value)
    for each in meta:
        out.add_metadata(each)
    return out


def test_families_stand_together_with_what_is_known_of_them() -> None:
    metas = (
        MetricMeta("a_seconds_total", MetricType.COUNTER, "Some \\ a.\n", "seconds"),
        MetricMeta("b", MetricType.GAUGE),
    )
    data = model(
        ("b x=2", 1000, 0.5), ("a_seconds_total", 1500, 1.0), ("b x=1", 1000, -0.0),
        ("a_seconds_total", 2000, math.inf), ("b x=1", 2000, math.nan), ("c", 1000, 1e300), meta=metas,
    )  # fmt: skip
    assert text(data) == (
        "# TYPE a_seconds counter\n# UNIT a_seconds seconds\n# HELP a_seconds Some \\\\ a.\\n\n"
        "a_seconds_total 1.0 1.5\na_seconds_total +Inf 2\n"
        '# TYPE b gauge\nb{x="1"} -0.0 1\nb{x="1"} NaN 2\nb{x="2"} 0.5 1\n'
        "# TYPE c unknown\nc 1e+300 1\n# EOF\n"
    )
    assert text(data, "text").startswith(
        "# HELP a_seconds_total Some \\\\ a.\\n\n# TYPE a_seconds_total counter\na_seconds_total 1.0 1500\n"
    )
    assert "EOF" not in text(data, "text")


def test_samples_of_a_histogram_at_one_time_stand_together() -> None:
    meta = (MetricMeta("h", MetricType.HISTOGRAM, "H."),)
    parts = ("h_bucket le=+Inf", "h_bucket le=10.0", "h_bucket le=2.5", "h_sum", "h_count")
    data = model(*[(f"{part} i={i}", at, 1.0) for i in (1, 2) for part in parts for at in (1000, 2000)], meta=meta)
    whole = text(data)
    assert whole.splitlines()[2:8] == [
        'h_bucket{i="1",le="2.5"} 1.0 1',
        'h_bucket{i="1",le="10.0"} 1.0 1',
        'h_bucket{i="1",le="+Inf"} 1.0 1',
        'h_count{i="1"} 1.0 1',
        'h_sum{i="1"} 1.0 1',
        'h_bucket{i="1",le="2.5"} 1.0 2',
    ]
    # Its strict reader knows of one time in a metric only.
    (family,) = text_string_to_metric_families(text(data, end=Millis(1000)))
    assert (family.name, family.type, len(family.samples)) == ("h", "histogram", 10)
    assert text(data, max_cells=1) == whole


def test_markers_of_staleness_are_left_out_and_counted() -> None:
    work = dump(model(("a", 1000, 1.0), ("a", 2000, STALE_NAN), ("a", 3000, 2.0), ("b", 1000, STALE_NAN)))
    assert "".join(work.pages()) == "# TYPE a unknown\na 1.0 1\na 2.0 3\n# EOF\n"
    assert (work.counts.samples, work.counts.series, work.counts.families, work.counts.stale) == (2, 1, 1, 2)


def test_native_histograms_are_left_out_and_counted() -> None:
    class Mixed(MemoryQuerier):
        def select(self, *args, **named):
            line = Timeline(np.array([1000, 2000]))
            labels = [Labels.of(__name__="a")]
            cells = Grid.none((1, 2))
            yield RowBatch(
                labels, np.zeros((1, 2)), [line], np.zeros(1, np.intp), ValueKind.HISTOGRAM, histograms=cells
            )
            yield from super().select(*args, **named)

    mixed = Mixed()
    mixed.add(Labels.of(__name__="a"), 3000, 1.0)
    work = Dump(mixed, {"a": 3}, start=EVER[0], end=EVER[1])
    assert "".join(work.pages()) == "# TYPE a unknown\na 1.0 3\n# EOF\n"
    assert (work.counts.samples, work.counts.histograms) == (1, 2)


def test_native_histograms_of_a_store_are_counted_in_head_and_blocks(tmp_path: Path) -> None:
    store = Store.open(tmp_path, OPTIONS, FakeClock(NOW), UnsyncedFiles())
    native, plain = Labels.of(__name__="h"), Labels.of(__name__="f")
    for at in (NOW - DAY, NOW):
        store.append_histograms([(native, at, FloatHistogram(count=1.0, sum=2.0), 0), (native, at + 1, None, 0)])
        store.append_loose(WRITER, [(plain, at, 1.0)])
    store.cut(NOW - 1000)
    work = Dump(store, store.cells(), start=EVER[0], end=EVER[1])
    assert "".join(work.pages()) == f"# TYPE f unknown\nf 1.0 {(NOW - DAY) // 1000}\nf 1.0 {NOW // 1000}\n# EOF\n"
    assert (work.counts.samples, work.counts.histograms, work.counts.stale) == (2, 2, 2)
    store.close()


def test_several_selectors_give_each_series_once() -> None:
    data = model(*[(f"{name} i={i}", 1000, 1.0) for name in "ab" for i in (1, 2)])
    sets = [
        [Matcher(MatchType.EQ, "__name__", "a")],
        [Matcher(MatchType.EQ, "i", "1")],
        [Matcher(MatchType.RE, "i", "1|3")],
    ]
    lines = text(data, sets=sets).splitlines()
    assert [line for line in lines if line[0] != "#"] == ['a{i="1"} 1.0 1', 'a{i="2"} 1.0 1', 'b{i="1"} 1.0 1']


def test_bounds_of_time_are_inclusive() -> None:
    data = model(*[("a", at, 1.0) for at in range(0, 5000, 1000)])
    assert text(data, start=Millis(1000), end=Millis(3000)).count("\na ") == 3


@pytest.mark.parametrize("streams", [True, False])
def test_a_family_beyond_the_budget_comes_out_the_same(streams: bool) -> None:
    meta = (MetricMeta("h", MetricType.HISTOGRAM),)
    hosts = [f"host=pi-{i}.lan:9100" for i in range(40)] + ["host=ä", "host=x|y", "other=1"]
    parts = ("h_bucket le=+Inf", "h_sum", "h_count")
    data = model(
        *[(f"{part} {host} job={job}", 1000, 1.0) for part in parts for host in hosts for job in "ab"],
        *[(f"g {host}", 1000, 1.0) for host in hosts],
        meta=meta,
    )
    whole = text(data)
    for most in (1, 1500, 5000):
        split = text(data, max_cells=most, streams=streams)
        assert sorted(split.splitlines()) == sorted(whole.splitlines())
        assert split.count("# TYPE") == 2
        assert [f.type for f in text_string_to_metric_families(split)] == ["unknown", "histogram"]


@given(st.lists(st.integers(-9_000_000_000_000, 9_000_000_000_000)))
def test_seconds_read_back_as_the_same_millisecond_cut_or_rounded(times: list[int]) -> None:
    for at, shown in zip(times, seconds(np.array(times, np.int64)), strict=True):
        assert int(float(shown) * 1000) == at
        assert round(float(shown) * 1000) == at


def test_most_seconds_look_as_one_would_write_them() -> None:
    assert seconds(np.array([0, 1500, 1_700_000_000_000, 1_700_000_000_123])) == [
        "0", "1.5", "1700000000", "1700000000.123",
    ]  # fmt: skip


names = st.sampled_from(
    ["a", "a_total", "h_bucket", "h_sum", "h_count", "h", "s", "s_count", "my.metric", "ä b", "i_info"]
)
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)
labels = st.dictionaries(
    st.sampled_from(["x", "le", "quantile", "a.b", "{}", "ü"]),
    st.one_of(st.sampled_from(["1", "1.0", "+Inf", "0.5", '"', "\\", "\n", "\\n", "a b", "# {", "ä", "NaN"]), texts),
    max_size=3,
)
values = st.one_of(
    st.sampled_from([0.0, -0.0, math.nan, STALE_NAN, math.inf, -math.inf, 5e-324, 1.7e308, 1e22]), st.floats()
)
kinds = st.sampled_from(list(MetricType))


def plain(found: dict[Labels, list[tuple[int, float | None]]]) -> dict[Labels, str]:
    """Comparable although NaN equals nothing, and without markers."""
    rows = {labels: [(at, value) for at, value in row if value is not None] for labels, row in found.items()}
    return {labels: repr(row) for labels, row in rows.items() if row}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(names, labels, st.integers(NOW - 30 * DAY, NOW), values), max_size=30),
    st.lists(st.tuples(st.sampled_from(["a", "a_total", "h", "s", "i", "my.metric"]), kinds, texts), max_size=5),
    st.sampled_from(["openmetrics", "text"]),
    st.sampled_from([1, 1 << 22]),
    st.booleans(),
)
def test_what_is_dumped_and_imported_is_what_the_model_says(
    samples: list[tuple[str, dict[str, str], int, float]],
    metas: list[tuple[str, MetricType, str]],
    form: Format,
    max_cells: int,
    blocks: bool,
) -> None:
    expected = MemoryQuerier()
    with tempfile.TemporaryDirectory() as folder:
        first = Store.open(Path(folder) / "a", OPTIONS, FakeClock(NOW), UnsyncedFiles())
        for name, pairs, at, value in samples:
            found = Labels.of({**pairs, "__name__": name})
            # Any NaN but the marker is stored as the one NaN.
            expected.add(found, at, value if value == value or is_stale(value) else math.nan)
            first.append_loose(WRITER, [(found, at, value)])
        first.add_metadata([MetricMeta(*meta) for meta in metas])
        if blocks:
            first.cut(NOW + 1)
        whole = text(first, form, max_cells=max_cells)
        second = Store.open(Path(folder) / "b", OPTIONS, FakeClock(NOW), UnsyncedFiles())
        for _ in range(2):
            archive = Archive(Syntax.OPENMETRICS if form == "openmetrics" else Syntax.TEXT, NOW)
            importer = Importer(second)
            archive.feed(whole.encode().removesuffix(b"\n").split(b"\n"))
            archive.end()
            importer.add(archive.take())
            importer.finish()
            assert plain(read_all(second.select([], *EVER))) == plain(read_all(expected.select([], *EVER)))
        first.close()
        second.close()


def test_metadata_survive_an_import_and_a_restart(tmp_path: Path) -> None:
    data = model(
        ("c_total", NOW - DAY, 1.0), ("h_bucket le=+Inf", NOW - DAY, 1.0), ("h_sum", NOW - DAY, 1.0),
        ("h_count", NOW - DAY, 1.0), ("g_volts", NOW - DAY, 1.0),
        meta=(
            MetricMeta("c_total", MetricType.COUNTER, "C."),
            MetricMeta("h", MetricType.HISTOGRAM, "H."),
            MetricMeta("g_volts", MetricType.GAUGE, "G.", "volts"),
        ),
    )  # fmt: skip
    whole = text(data)
    store = Store.open(tmp_path, OPTIONS, FakeClock(NOW))
    archive = Archive(Syntax.OPENMETRICS, NOW)
    archive.feed(whole.encode().removesuffix(b"\n").split(b"\n"))
    importer = Importer(store)
    importer.add(archive.take())
    importer.finish()
    store.close()
    store = Store.open(tmp_path, OPTIONS, FakeClock(NOW))
    assert text(store) == whole
    store.close()
