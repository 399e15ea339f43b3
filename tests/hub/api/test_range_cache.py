"""The result cache: answers with it are those without it, to the bit, whatever happens to the store."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from prometheus_client import CollectorRegistry

from common.errors import BrambleError, QueryCanceledError
from common.frames.codec import encode as encode_frame
from common.frames.model import Epoch, FrameKey, Schema, SourceId, SubSchema, encode_schema
from common.histogram import FloatHistogram
from common.labels import Labels, Matcher, MatchType
from common.promql.engine import Engine, EngineOptions, Result
from common.promql.locality import Reach, is_local, reach
from common.promql.parser import parse
from common.promql.preprocess import Resolver
from common.promql.printer import to_text
from common.sample import STALE_NAN
from common.testing import FakeClock
from common.testing_files import UnsyncedFiles
from common.tsdb.changes import Changes
from common.tsdb.options import StoreOptions
from common.tsdb.store import Store
from hub.api.body import Packed
from hub.api.extents import Extent
from hub.api.query import encode_result
from hub.api.range_cache import RangeCache, Span, gaps

MINUTE = 60_000
FEATURES = frozenset({"promql-experimental-functions", "promql-duration-expr", "promql-extended-range-selectors"})
# Made once: an engine raises the recursion limit, which Hypothesis does not like to see.
ENGINE = Engine(EngineOptions(features=FEATURES, lookback_ms=MINUTE))

QUERIES = [
    "m",
    "m offset 2m",
    "m offset -1m",
    "m @ 600",
    "m @ end()",
    "sum(m)",
    "avg by (i) (m)",
    "topk(1, m)",
    "count_values('v', m)",
    "count({__name__=~'m|c'})",
    "stddev(m)",
    "rate(c[2m])",
    "sum by (j) (increase(c[90s]))",
    "rate(m[2m])",
    "rate({__name__=~'m|c'}[2m])",
    "avg_over_time(m[3m])",
    "deriv(m[2m])",
    "max_over_time(rate(c[1m])[3m:1m])",
    "m / on (i) group_left () c",
    "m or c",
    "m unless on (i) c",
    "absent(m{i='0'})",
    "absent_over_time(m[1m])",
    "timestamp(m)",
    "time()",
    "scalar(m{i='1'}) + range()",
    "sort(m)",
    "label_replace(m, 'i', 'x', 'j', '')",
    "histogram_quantile(0.5, b)",
    "limitk(1, m)",
    "limitk(2, {__name__=~'m|c'})",
    "limit_ratio(0.5, m)",
    "limit_ratio(-0.5, {__name__=~'m|c'})",
    "-{__name__=~'m|c'}",
    "abs({__name__=~'m|c|b'})",
    "max_over_time({__name__=~'m|c'}[90s])",
    "last_over_time({__name__=~'m|c'}[90s])",
    "label_replace({__name__=~'m|c'}, '__name__', 'z', '', '')",
    "bottomk by (i) (1, {__name__=~'m|c|b'})",
    "quantile by (i) (0.3, {__name__=~'m|c'})",
    "avg({__name__=~'m|c|b'})",
    "count_values by (i) ('v', m)",
    "m > bool 50",
    "m == m offset 15s",
    "sum_over_time((m > 10)[2m:30s] offset 1m)",
    "sum_over_time(m[5m:1m] offset -3m)",
    "max_over_time(m[3m:1m] @ 900)",
    "rate(c[1m] @ start())",
    "sum(m @ end())",
    "rate(m[step()])",
    "m offset step()",
    "histogram_quantile(0.5, rate(b[2m]))",
    "m smoothed",
    "increase(c[1m] anchored)",
    "time() - timestamp(m)",
    "m * scalar(count(c))",
    "quantile_over_time(0.4, m[2m])",
    "double_exponential_smoothing(m[3m], 0.5, 0.5)",
    "changes(m[3m]) + resets(c[3m])",
]

ROWS = [
    *(Labels.of(__name__="m", i=i) for i in "012"),
    *(Labels.of(__name__="c", i=i, j="x") for i in "01"),
    *(Labels.of(__name__="b", i="0", le=le) for le in ("1", "5", "+Inf")),
]
SCHEMAS = [Schema((SubSchema("a", tuple(ROWS[:4])),)), Schema((SubSchema("b", (ROWS[1], ROWS[4], ROWS[5])),))]
SOURCE = SourceId(b"s" * 16)
TIMES = st.integers(0, 120).map(lambda slot: slot * 15_000 + 700)
ODD_VALUES = [0.0, -0.0, 1e6, 1e16, -1e300, float("inf"), float("-inf"), float("nan")]
VALUES = st.one_of(st.integers(0, 10_000).map(lambda n: n / 100), st.sampled_from(ODD_VALUES))


@dataclass(frozen=True)
class Loose:
    samples: tuple[tuple[Labels, int, float], ...]


@dataclass(frozen=True)
class Frame:
    schema: int
    time: int
    values: tuple[float, ...]


@dataclass(frozen=True)
class Grow:
    """Every row at the next `slots` slots."""

    slots: int
    value: float


@dataclass(frozen=True)
class Delete:
    name: str
    start: int
    end: int


class Chore(StrEnum):
    """What the store does of its own accord."""

    MAINTAIN = "maintain"
    RELIEVE = "relieve"
    CLEAN = "clean_deletions"


@dataclass(frozen=True)
class Query:
    text: str
    start: int
    count: int
    step: int


OPS = st.one_of(
    st.builds(Grow, st.integers(1, 8), VALUES),
    st.builds(
        Loose,
        st.lists(
            st.tuples(st.sampled_from(ROWS), TIMES, st.one_of(VALUES, st.just(STALE_NAN))), min_size=1, max_size=5
        ).map(tuple),
    ),
    st.builds(Frame, st.integers(0, 1), TIMES, st.lists(VALUES, min_size=4, max_size=4).map(tuple)),
    st.builds(Delete, st.sampled_from(["m", "c"]), TIMES, TIMES),
    st.builds(lambda time: time, TIMES),
    st.sampled_from(Chore),
)
SPANS = st.tuples(st.sampled_from([0, 2 * MINUTE, 3 * MINUTE, 7_000]), st.integers(1, 24))


@st.composite
def scripts(draw: st.DrawFn) -> list[object]:
    """A few queries, asked again and again while the store changes and their ranges move."""
    texts = draw(st.lists(st.sampled_from(QUERIES), min_size=1, max_size=4, unique=True))
    step = draw(st.sampled_from([15_000, MINUTE]))
    script: list[object] = [Grow(draw(st.integers(0, 60)), draw(VALUES))]
    for _ in range(draw(st.integers(1, 6))):
        script += draw(st.lists(OPS, max_size=2))
        start, count = draw(SPANS)
        script += [Query(text, start, count, step) for text in texts]
    return script


@pytest.fixture(autouse=True, scope="module")
def short_chunks() -> Iterator[None]:
    """Chunks of two slots, so that a few appends fill and seal some."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("common.tsdb.lanes.SLOTS", 2)
        yield


class Rig:
    """A store and a cache over it."""

    def __init__(self, folder: str, max_bytes: int = 1 << 20) -> None:
        self.store = Store.open(Path(folder), StoreOptions(retention_ms=0), FakeClock(), UnsyncedFiles())
        for schema in SCHEMAS:
            self.store.add_schema(encode_schema(schema))
        self.registry = CollectorRegistry()
        self.cache = RangeCache(self.store.changes, max_bytes, self.registry)
        self.evaluations: list[tuple[int, int]] = []
        self.sent: dict[bytes, tuple[object, ...]] = {}
        """Answers by the body that stands for them in the cache."""
        self._seq = 0
        self._slot = 0

    def grow(self, slots: int, value: float) -> None:
        self._slot += slots
        times = [slot * 15_000 for slot in range(self._slot - slots, self._slot)]
        self.store.append_loose(SOURCE, [(row, at, value + at % 7_000) for at in times for row in ROWS])

    def frame(self, op: Frame) -> None:
        schema = SCHEMAS[op.schema]
        key = FrameKey(SOURCE, Epoch(1), self._seq, 0, schema.hash)
        self._seq += 1
        self.store.append_frame(encode_frame(key, [op.time], np.array(op.values[: schema.rows])[:, None], None))

    def evaluate(self, query: Query, start: int, end: int) -> Result:
        self.evaluations.append((start, end))
        return ENGINE.range(self.store, query.text, start, end, query.step)

    def plain(self, query: Query) -> tuple[object, ...]:
        end = query.start + (query.count - 1) * query.step
        return shown(lambda: ENGINE.range(self.store, query.text, query.start, end, query.step))

    def cached(self, query: Query) -> tuple[object, ...]:
        """As the API asks for rows."""
        expr = parse(query.text, FEATURES)
        end = query.start + (query.count - 1) * query.step
        if query.count < 2 or not is_local(expr):
            return self.plain(query)
        span = Span(query.start, end, query.step)
        return shown(
            lambda: self.cache.extent(
                (to_text(expr),),
                span,
                self.reach(query),
                lambda start, end: self.evaluate(query, start, end),
                query.text,
            )
        )

    def reach(self, query: Query) -> Reach:
        """Which samples the query depends on."""
        end = query.start + (query.count - 1) * query.step
        return reach(Resolver(query.start, end, query.step)(parse(query.text, FEATURES)), MINUTE)

    def answered(self, query: Query) -> tuple[object, ...]:
        """As the API asks for whole answers."""
        key: tuple[object, ...] = ("answer", query)
        sent = self.cache.answer(key)
        if sent is not None:
            return self.sent[sent.chunks[0]]
        generation = self.cache.generation
        found = self.cached(query)
        packed = Packed([b"%d" % len(self.sent)], "")
        self.sent[packed.chunks[0]] = found
        if len(found) > 1:
            end = query.start + (query.count - 1) * query.step
            self.cache.keep_answer(key, packed, generation, self.reach(query).times(query.start, end))
        return found

    def value(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


def shown(compute: "object") -> tuple[object, ...]:
    """What a client would see: rows as text and annotations, or that there was an error."""
    try:
        found = compute()  # type: ignore[operator]
    except BrambleError as err:
        return (type(err),)
    if isinstance(found, Extent):
        return b'{"resultType":"matrix","result":' + b"".join(found.pieces(10**9)) + b"}", [], found.infos
    return b"".join(encode_result(found)[0]), found.warnings, found.infos


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scripts())
def test_with_the_cache_every_answer_is_the_same(script: list[object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(folder)
        try:
            for op in script:
                match op:
                    case Grow():
                        rig.grow(op.slots, op.value)
                    case Loose():
                        rig.store.append_loose(SOURCE, op.samples)
                    case Frame():
                        rig.frame(op)
                    case Delete():
                        matcher = Matcher(MatchType.EQ, "__name__", op.name)
                        rig.store.delete([matcher], min(op.start, op.end), max(op.start, op.end))
                    case Query():
                        assert rig.answered(op) == rig.plain(op), op
                        assert rig.cached(op) == rig.plain(op), op
                    case Chore():
                        getattr(rig.store, op)()
                    case int():
                        rig.store.cut(op)
        finally:
            rig.store.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(str(tmp_path))
    made.grow(80, 1.0)
    yield made
    made.store.close()


def test_the_same_range_is_evaluated_once(rig: Rig) -> None:
    query = Query("sum(m)", 0, 20, MINUTE)
    assert rig.cached(query) == rig.cached(query)
    assert rig.evaluations == [(0, 19 * MINUTE)]
    assert rig.value("bramble_hub_result_cache_requests_total", outcome="hit") == 1


def test_a_query_that_was_given_up_is_not_counted(rig: Rig) -> None:
    query = Query("sum(m)", 0, 20, MINUTE)

    def given_up(start: int, end: int) -> Result:
        raise QueryCanceledError("query was canceled")

    with pytest.raises(QueryCanceledError):
        rig.cache.extent(("sum(m)",), Span(0, 19 * MINUTE, MINUTE), rig.reach(query), given_up)
    assert rig.value("bramble_hub_result_cache_requests_total", outcome="miss") == 0
    rig.cached(query)
    assert rig.value("bramble_hub_result_cache_requests_total", outcome="miss") == 1


def test_a_range_that_moved_on_is_evaluated_where_it_is_new(rig: Rig) -> None:
    rig.cached(Query("m", 0, 16, MINUTE))
    rig.cached(Query("m", MINUTE, 16, MINUTE))
    # Two steps at least: one alone is evaluated by other code.
    assert rig.evaluations[1:] == [(15 * MINUTE, 16 * MINUTE)]
    assert rig.value("bramble_hub_result_cache_requests_total", outcome="partial") == 1


def test_new_samples_have_the_tail_evaluated_again(rig: Rig) -> None:
    query = Query("m", 0, 21, MINUTE)
    rig.cached(query)
    rig.grow(2, 5.0)
    assert rig.cached(query) == rig.plain(query)
    assert rig.evaluations[1:] == [(19 * MINUTE, 20 * MINUTE)]


def test_a_late_sample_has_the_steps_that_see_it_evaluated_again(rig: Rig) -> None:
    query = Query("max_over_time(m[2m])", 0, 18, MINUTE)
    rig.cached(query)
    rig.store.append_loose(SOURCE, [(ROWS[0], 5 * MINUTE - 700, 1e9)])
    assert rig.cached(query) == rig.plain(query)
    assert rig.evaluations[1:] == [(5 * MINUTE, 6 * MINUTE)]
    assert rig.value("bramble_hub_result_cache_invalidations_total") == 1


def test_what_is_deleted_is_gone_from_the_cache(rig: Rig) -> None:
    query = Query("count(m)", 0, 10, MINUTE)
    rig.cached(query)
    rig.store.delete([Matcher(MatchType.EQ, "i", "0")], 0, 2**50)
    assert rig.cached(query) == rig.plain(query)


def test_another_phase_has_no_steps_in_common(rig: Rig) -> None:
    rig.cached(Query("m", 0, 10, MINUTE))
    rig.cached(Query("m", 1000, 10, MINUTE))
    assert rig.evaluations[1:] == [(1000, 9 * MINUTE + 1000)]


def test_a_sample_at_a_fixed_time_changes_every_step(rig: Rig) -> None:
    query = Query("m @ 600", 0, 10, MINUTE)
    rig.cached(query)
    rig.store.append_loose(SOURCE, [(ROWS[0], 599_000, 7.0)])
    assert rig.cached(query) == rig.plain(query)


def test_results_with_several_annotations_are_not_kept(rig: Rig) -> None:
    query = Query("rate(m[2m]) + on (i) group_left () rate(c[2m])", 0, 10, MINUTE)
    rig.cached(query)
    assert rig.cached(query) == rig.plain(query)
    assert rig.evaluations == [(0, 9 * MINUTE), (0, 9 * MINUTE)]


def test_an_annotation_is_told_of_the_steps_at_which_it_arises(rig: Rig) -> None:
    values = {"1": 5.0, "5": 3.0, "+Inf": 6.0}
    samples = [
        (Labels.of(__name__="odd", le=le), slot * MINUTE, value if 3 <= slot < 12 else 6.0)
        for le, value in values.items()
        for slot in range(20)
    ]
    rig.store.append_loose(SOURCE, samples)
    for start in (0, 2, 4, 8, 3):
        query = Query("histogram_quantile(0.5, odd)", start * MINUTE, 10, MINUTE)
        answer = rig.cached(query)
        assert answer == rig.plain(query)
        assert "over" in str(answer[2])
    assert [end - begin for begin, end in rig.evaluations[1:]] == [MINUTE, MINUTE, 3 * MINUTE, 4 * MINUTE]


def test_the_position_of_an_annotation_is_that_in_the_query_as_it_was_written(rig: Rig) -> None:
    for text in ("rate(m[2m])", "  rate(m[2m])"):
        query = Query(text, 0, 10, MINUTE)
        assert rig.cached(query) == rig.cached(query) == rig.plain(query)
    assert len(rig.evaluations) == 2


def test_what_is_made_of_native_histograms_is_not_kept(rig: Rig) -> None:
    rig.store.append_histograms([(Labels.of(__name__="h"), MINUTE, FloatHistogram(1, 4.0, 9.5), 0)])
    query = Query("histogram_count(h) or histogram_quantile(0.5, h)", 0, 10, MINUTE)
    rig.cached(query)
    assert rig.cached(Query("sum(h) or m", 0, 10, MINUTE)) == rig.plain(Query("sum(h) or m", 0, 10, MINUTE))
    assert rig.value("bramble_hub_result_cache_entries") == 0


def test_errors_are_not_kept(rig: Rig) -> None:
    query = Query("m / on (j) m", 0, 10, MINUTE)
    assert rig.cached(query) == rig.cached(query) == rig.plain(query)
    assert len(rig.evaluations) == 2


def test_clearing_forgets(rig: Rig) -> None:
    rig.cached(Query("m", 0, 10, MINUTE))
    rig.cache.clear()
    assert rig.value("bramble_hub_result_cache_bytes") == rig.value("bramble_hub_result_cache_entries") == 0
    rig.cached(Query("m", 0, 10, MINUTE))
    assert len(rig.evaluations) == 2


def made(max_bytes: int) -> tuple[RangeCache, Changes, CollectorRegistry]:
    changes, registry = Changes(), CollectorRegistry()
    return RangeCache(changes, max_bytes, registry), changes, registry


def test_an_answer_is_kept_until_what_it_depends_on_changes() -> None:
    cache, changes, _ = made(10_000)
    body = Packed([b"x"], "")
    cache.keep_answer(("q",), body, cache.generation, [(0, 1_000_000)])
    changes.mark(2_000_000, 2_000_000)
    assert cache.answer(("q",)) is body
    changes.mark(500_000, 500_000)
    assert cache.answer(("q",)) is None


def test_an_answer_computed_before_a_change_is_not_given() -> None:
    cache, changes, _ = made(10_000)
    before = cache.generation
    changes.mark(500, 500)
    cache.keep_answer(("q",), Packed([b"x"], ""), before, [(0, 1000)])
    assert cache.answer(("q",)) is None


def test_the_least_recently_used_leaves_first() -> None:
    cache, _, registry = made(12_000)
    for name in "abc":
        cache.keep_answer((name,), Packed([bytes(1900)], ""), 0, [])
    cache.answer(("a",))
    for name in "de":
        cache.keep_answer((name,), Packed([bytes(1900)], ""), 0, [])
    assert [name for name in "abcde" if cache.answer((name,)) is not None] == ["a", "c", "d", "e"]
    assert registry.get_sample_value("bramble_hub_result_cache_evictions_total") == 1
    assert registry.get_sample_value("bramble_hub_result_cache_bytes") == 4 * 2900


def test_what_would_take_more_than_a_quarter_is_not_kept() -> None:
    cache, _, registry = made(8_000)
    cache.keep_answer(("q",), Packed([bytes(1001)], ""), 0, [])
    assert cache.answer(("q",)) is None
    assert registry.get_sample_value("bramble_hub_result_cache_evictions_total") == 0


@pytest.mark.parametrize(
    ("valid", "runs"),
    [
        ("++++", []),
        ("----", [(0, 4)]),
        ("+++-", [(2, 4)]),
        ("-+++", [(0, 2)]),
        ("+-+-", [(0, 4)]),
        ("--+++++-+", [(0, 2), (6, 8)]),
        ("-++++-++++-++-++++-", [(0, 6), (9, 14), (17, 19)]),
    ],
)
def test_gaps_are_filled_by_few_evaluations_of_two_steps_at_least(valid: str, runs: list[tuple[int, int]]) -> None:
    assert list(gaps(np.array([each == "+" for each in valid]))) == runs
