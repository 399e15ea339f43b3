"""`query`, `query_range`, `format_query`, `parse_query`, and the page's query box."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from typing import assert_never

import numpy as np
from aiohttp import web

from common.errors import BrambleError, FormatError, QueryCanceledError, QueryError
from common.logs import EventLog
from common.promql.ast import Expr, ValueType
from common.promql.engine import DELAYED_NAME_REMOVAL, PER_STEP_STATS, REMEMBERED_LENGTH, Result
from common.promql.errors import ParseError
from common.promql.locality import Reach, is_knowable, is_local, reach
from common.promql.matrix import Matrix
from common.promql.parser import parse
from common.promql.preprocess import Resolver
from common.promql.printer import to_pretty_text, to_text
from common.promql.tree import to_json
from common.promql.typecheck import value_type
from common.rules.format import sample_text
from common.times import Moment, parse_span, rfc3339
from common.tsdb.changes import ALWAYS
from common.units import format_duration
from hub.api import encode
from hub.api.body import Packed, choose, pack, respond
from hub.api.envelope import JSON, bad, bad_parameter, classify, envelope, success
from hub.api.extents import Extent
from hub.api.flights import FLIGHTS, Flights
from hub.api.keys import STATE
from hub.api.logged import Query, logged, note_shared
from hub.api.metadata import TRUNCATED
from hub.api.page import Answer, series_text
from hub.api.params import (
    UNLIMITED,
    Form,
    check_points,
    limit_param,
    read_form,
    span_param,
    time_param,
)
from hub.api.range_cache import Key, RangeCache, Span
from hub.api.runner import RUNNER, Cancel, QueryRunner
from hub.api.state import ApiState
from hub.query_log import timings

_TYPE_NAMES = {ValueType.MATRIX: "range vector", ValueType.STRING: "string", ValueType.NONE: "none"}
MAX_SHOWN = 1000
"""Characters of a slow query that are logged."""

_log = EventLog("query")
_SHOWN = 200
"""Samples that the page shows of one series of a range vector."""


def _parsed(text: str, features: frozenset[str]) -> Expr:
    try:
        return parse(text, features)
    except (QueryError, FormatError) as err:
        raise bad_parameter("query", err) from None


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is known of a query before it is evaluated: its type, canonical text, and what may be cached of it."""

    expr: Expr
    type: ValueType
    canonical: str
    local: bool
    knowable: bool


@lru_cache(maxsize=512)
def _plan(text: str, features: frozenset[str]) -> _Plan:
    """The plan of a query, remembered, since dashboards repeat themselves."""
    expr = _parsed(text, features)
    delayed = DELAYED_NAME_REMOVAL in features
    return _Plan(expr, value_type(expr), to_text(expr), is_local(expr, delayed), is_knowable(expr))


def _lookback(form: Form) -> int | None:
    text = form.get("lookback_delta", "")
    if not text:
        return None
    try:
        lookback = parse_span(text) // 1_000_000
    except ValueError as err:
        raise bad(f"error parsing lookback delta duration: {err}") from None
    return lookback if lookback > 0 else None


def _timeout(state: ApiState, form: Form) -> int:
    timeout = span_param(form, "timeout")
    if timeout is None:
        return state.limits.timeout_ms
    return max(0, min(timeout, state.limits.timeout_ms))


@dataclass(frozen=True, slots=True)
class Asked:
    """A query with what of its parameters matters to its evaluation and its answer."""

    query: Query
    evaluate: Callable[[Cancel], Result | Extent]
    limit: int
    timeout_ms: int
    stats: str
    coding: str
    cached: "_Cached | None" = None
    """What the result cache has to do with it."""


Guard = Callable[[], AbstractContextManager[None]]


def _job(state: ApiState, asked: Asked, around: Guard) -> Callable[[Cancel], Packed]:
    """Evaluates and encodes; `around` stands around the evaluation."""
    query, limit, clock = asked.query, asked.limit, state.clock
    per_step = asked.stats == "all" and PER_STEP_STATS in state.engine.options.features

    def job(cancel: Cancel) -> Packed:
        began, query.result = clock.monotonic(), None
        try:
            with around():
                result = asked.evaluate(cancel)
                if isinstance(result, Result):
                    query.result = result
        except ParseError as err:
            raise bad_parameter("query", err) from None
        if isinstance(result, Extent):
            cut = len(result.labels) > limit
            pieces = envelope(_encode_extent(result, limit), [TRUNCATED] if cut else (), result.infos)
        else:
            stats = (
                _stats(result, began - query.asked, clock.monotonic() - began, query if per_step else None)
                if asked.stats
                else b""
            )
            body, cut = encode_result(result, limit, stats)
            pieces = envelope(body, [*result.warnings, TRUNCATED] if cut else result.warnings, result.infos)
        packed = pack(_until(pieces, cancel), asked.coding)
        if asked.cached is not None:
            asked.cached.keep(packed)
        return packed

    return job


async def _answer(request: web.Request, asked: Asked, told: Callable[[Packed], None] = lambda _: None) -> web.Response:
    """The answer to what was asked, of which `told` hears before it is sent."""
    state, runner, query = request.app[STATE], request.app[RUNNER], asked.query
    try:
        job = _job(state, asked, lambda: logged(request, query))
        packed = await runner.run(job, asked.timeout_ms, like=_like(state, query))
        told(packed)
        return respond(packed, JSON)
    finally:
        _count(state, runner, query, request.path, request.remote)


def at_once(
    state: ApiState, runner: QueryRunner, flights: Flights, asked: Asked, path: str, client: str
) -> Packed | None:
    """The answer, if it takes next to no time to give it; None if the handlers of `path` have to.

    `client` is the address of who asks.
    """
    query, cached = asked.query, asked.cached
    like = _like(state, query)
    if like is None:
        return None
    if cached is not None:
        sent = cached.cache.answer(cached.key)
        if sent is not None:
            return sent
    if not runner.is_short(like) or (cached is not None and flights.under_way(cached.key)):
        return None
    if cached is not None:
        cached.begin()
    packed = runner.run_here(_job(state, asked, nullcontext), like, asked.timeout_ms)
    _count(state, runner, query, path, client)
    return packed


def _count(state: ApiState, runner: QueryRunner, query: Query, path: str, client: str | None) -> None:
    """Count a query that has ended, and log it if it was slow."""
    spent = state.clock.monotonic() - query.asked
    if query.result is not None:
        runner.samples.inc(query.result.samples)
    slow = state.slow_query_ms()
    if slow and spent * 1000 >= slow:
        runner.slow.inc()
        samples = query.result.samples_read if query.result else 0
        _log.warn(
            "slow query",
            query=query.text[:MAX_SHOWN],
            seconds=f"{spent:.1f}",
            samples=samples,
            start=rfc3339(query.start),
            end=rfc3339(query.end),
            step=format_duration(query.step),
            path=path,
            client=client or "",
        )


def _like(state: ApiState, query: Query) -> Hashable | None:
    """What names queries that take about as long as this one; None if it should not be answered on the event loop."""
    logs = state.query_log is not None and state.query_log.enabled
    if logs or len(query.text) > REMEMBERED_LENGTH:
        return None
    return query.text, query.step, query.end - query.start


def _until(pieces: Iterable[bytes], cancel: Cancel) -> Iterator[bytes]:
    """The pieces, given up as soon as nobody waits for them."""
    for piece in pieces:
        _heed(cancel)
        yield piece


def _heed(cancel: Cancel) -> None:
    if cancel.is_set():
        raise QueryCanceledError("query was canceled while its result was encoded")


def asked_at(state: ApiState, form: Form, coding: str) -> Asked:
    """What an instant query's form asks for: the value of `query` at `time` (now without it)."""
    at = time_param(form, "time", Moment.at(state.clock.now())).query_ms
    text, lookback, timeout_ms = form.get("query", ""), _lookback(form), _timeout(state, form)

    def evaluate(cancel: Cancel) -> Result:
        return state.engine.instant(
            state.querier, text, at, timeout=timeout_ms / 1000, lookback_ms=lookback, cancel=cancel.is_set
        )

    query = Query(text, at, at, 0, state.clock.monotonic())
    return Asked(query, evaluate, limit_param(form), timeout_ms, form.get("stats", ""), coding)


async def instant(request: web.Request) -> web.StreamResponse:
    """The value of `query` at `time`."""
    form = await read_form(request)
    return await _answer(request, asked_at(request.app[STATE], form, _coding(request)))


def _coding(request: web.Request) -> str:
    return choose(request.headers.get("Accept-Encoding", ""))


def asked_over(state: ApiState, form: Form, coding: str) -> Asked:
    """What a range query's form asks for: the values of `query` at every `step` from `start` to `end`."""
    start, end = time_param(form, "start"), time_param(form, "end")
    try:
        step = parse_span(form.get("step", ""))
    except ValueError as err:
        raise bad_parameter("step", err) from None
    check_points(start, end, step, state.limits.max_points)
    first, last, step_ms = start.query_ms, end.query_ms, step // 1_000_000
    if last < first:
        raise bad_parameter("end", "end timestamp must not be before start time")
    text, lookback, timeout_ms = form.get("query", ""), _lookback(form), _timeout(state, form)
    features = state.engine.options.features

    query = Query(text, first, last, step_ms, state.clock.monotonic())

    def evaluate(cancel: Cancel, first: int = first, last: int = last) -> Result:
        kind = _plan(text, features).type
        if kind in _TYPE_NAMES:
            raise bad_parameter(
                "query",
                f'invalid expression type "{_TYPE_NAMES[kind]}" for range query, must be Scalar or instant Vector',
            )
        return state.engine.range(
            state.querier,
            text,
            first,
            last,
            step_ms,
            timeout=timeout_ms / 1000,
            lookback_ms=lookback,
            cancel=cancel.is_set,
        )

    limit, stats, cache = limit_param(form), form.get("stats", ""), state.cache
    if cache is None:
        return Asked(query, evaluate, limit, timeout_ms, stats, coding)
    if stats or form.get("nocache", "") not in ("", "0"):

        def beside(cancel: Cancel) -> Result:
            cache.bypassed()
            return evaluate(cancel)

        return Asked(query, beside, limit, timeout_ms, stats, coding)
    options = state.engine.options
    key = (text, Span(first, last, step_ms), lookback, limit, coding)
    cached = _Cached(query, cache, key, evaluate, lookback or options.lookback_ms, options.features)
    return Asked(query, cached.evaluate, limit, timeout_ms, stats, coding, cached)


async def ranged(request: web.Request) -> web.StreamResponse:
    """The values of `query` at every `step` from `start` to `end`, from the cache as far as it can be."""
    form = await read_form(request)
    state = request.app[STATE]
    asked = asked_over(state, form, _coding(request))
    cached = asked.cached
    if cached is None:
        return await _answer(request, asked)
    sent = cached.cache.answer(cached.key)
    if sent is not None:
        note_shared(request, asked.query)
        return respond(sent, JSON)
    cached.begin()
    flights = request.app[FLIGHTS]
    shared = await flights.join(cached.key, cached.unchanged, asked.timeout_ms / 1000)
    if shared is not None:
        note_shared(request, asked.query)
        return respond(shared, JSON)
    return await flights.lead(cached.key, cached.generation, lambda told: _answer(request, asked, told))


class _Cached:
    """A range query and the result cache. `begin` comes before `evaluate`, that before `keep`."""

    def __init__(
        self,
        query: Query,
        cache: RangeCache,
        key: Key,
        evaluate: Callable[[Cancel, int, int], Result],
        lookback: int,
        features: frozenset[str],
    ) -> None:
        self.cache = cache
        self.key = key
        self.generation = 0
        self._query = query
        self._evaluate = evaluate
        self._span = Span(query.start, query.end, query.step)
        self._lookback = lookback
        self._features = features

    def begin(self) -> None:
        """Note what the store holds from now on is news."""
        self.generation = self.cache.generation

    def evaluate(self, cancel: Cancel) -> Result | Extent:
        """The result, as far as it can be from the cache."""
        query, span = self._query, self._span

        def part(start: int, end: int) -> Result:
            result, before = self._evaluate(cancel, start, end), query.result
            if before is not None:
                result = replace(
                    result,
                    samples_read=before.samples_read + result.samples_read,
                    loaded=np.concatenate([before.loaded, result.loaded]),
                    peak_samples=max(before.peak_samples, result.peak_samples),
                    took=before.took + result.took,
                )
            query.result = result
            return result

        plan = self._plan
        if not plan.local or plan.type in _TYPE_NAMES or span.count < 2:
            result = self._evaluate(cancel, span.start, span.end)
            self.cache.bypassed()
            return result
        return self.cache.extent(
            (plan.canonical, self._lookback),
            span,
            _reach(plan, span, self._lookback),
            part,
            query.text,
            lambda: _heed(cancel),
        )

    @property
    def _plan(self) -> _Plan:
        return _plan(self._query.text, self._features)

    def _times(self) -> Sequence[tuple[int, int]]:
        """What the answer depends on."""
        plan, span = self._plan, self._span
        return _reach(plan, span, self._lookback).times(span.start, span.end) if plan.knowable else (ALWAYS,)

    def unchanged(self, since: int) -> bool:
        """Whether an answer from after that generation still holds."""
        return self.cache.unchanged(since, self._times())

    def keep(self, packed: Packed) -> None:
        """Remember the answer, if it is known what it depends on."""
        if self._plan.knowable:
            self.cache.keep_answer(self.key, packed, self.generation, self._times())


def _reach(plan: _Plan, span: Span, lookback: int) -> Reach:
    return reach(Resolver(span.start, span.end, span.step)(plan.expr), lookback)


async def format_query(request: web.Request) -> web.StreamResponse:
    """The query, printed the canonical way."""
    form = await read_form(request)
    return success(
        encode.text(to_pretty_text(_parsed(form.get("query", ""), request.app[STATE].engine.options.features)))
    )


async def parse_query(request: web.Request) -> web.StreamResponse:
    """The query's syntax tree."""
    form = await read_form(request)
    return success(encode.text(to_json(_parsed(form.get("query", ""), request.app[STATE].engine.options.features))))


def _stats(result: Result, queued: float, spent: float, steps: Query | None) -> bytes:
    """`,"stats":…` as Prometheus has it, samples by step for the steps of a query, if given."""
    samples: dict[str, object] = {}
    if steps is not None:
        times = range(steps.start, steps.start + len(result.loaded) * max(1, steps.step), max(1, steps.step))
        samples["totalQueryableSamplesPerStep"] = [
            [ms / 1000 if ms % 1000 else ms // 1000, count]
            for ms, count in zip(times, result.loaded.tolist(), strict=True)
        ]
    samples |= {"totalQueryableSamples": result.samples, "peakSamples": result.peak_samples}
    return b',"stats":' + encode.text({"timings": timings(queued, spent, result.took), "samples": samples})


def encode_result(result: Result, limit: int = UNLIMITED, stats: bytes = b"") -> tuple[Iterable[bytes], bool]:
    """`data` of a query's answer in pieces, with at most `limit` series, and whether that cut it."""
    body, cut = _body(result, limit)
    head = b'{"resultType":"%b","result":' % result.type.value.encode()
    return chain((head,), body, (stats, b"}")), cut


def _encode_extent(extent: Extent, limit: int) -> Iterator[bytes]:
    yield b'{"resultType":"matrix","result":'
    yield from extent.pieces(limit)
    yield b"}"


def _body(result: Result, limit: int) -> tuple[Iterable[bytes], bool]:
    match result.type:
        case ValueType.SCALAR:
            return (encode.sample(result.timestamp, result.scalar),), False
        case ValueType.STRING:
            return (b"[%b,%b]" % (encode.timestamp(result.timestamp), encode.text(result.string)),), False
        case ValueType.VECTOR:
            matrix = _cut(result.matrix, limit)
            native = None if matrix.histograms is None else matrix.histograms[:, 0]
            return encode.vector(matrix.labels, matrix.values[:, 0], result.timestamp, native), _more(result, limit)
        case ValueType.MATRIX:
            if result.matrix is not None:
                matrix = _cut(result.matrix, limit)
                rows = encode.matrix(
                    matrix.labels, matrix.values, matrix.presence, matrix.timestamps, matrix.histograms
                )
                return rows, _more(result, limit)
            items = (
                encode.series(
                    each.labels,
                    encode.MatrixEncoder(each.timestamps),
                    each.values,
                    None,
                    each.timestamps,
                    each.histograms,
                )
                for each in result.series[:limit]
            )
            return encode.separated(items), len(result.series) > limit
        case ValueType.NONE:
            return (b"[]",), False
    assert_never(result.type)


def _cut(matrix: Matrix | None, limit: int) -> Matrix:
    assert matrix is not None
    return matrix if len(matrix.labels) <= limit else matrix.rows(range(limit))


def _more(result: Result, limit: int) -> bool:
    return result.matrix is not None and len(result.matrix.labels) > limit


async def for_page(request: web.Request, text: str, most: int) -> Answer:
    """The instant value of a query as rows of text, or its error."""
    state = request.app[STATE]
    now = state.clock.now()

    def job(cancel: Cancel) -> Answer:
        return _rows(state.engine.instant(state.querier, text, now, cancel=cancel.is_set), most)

    reason = state.ready()
    if reason:
        return Answer(error=f"Service Unavailable: {reason}")
    try:
        return await request.app[RUNNER].run(job)
    except (BrambleError, ValueError) as err:
        return Answer(error=str(classify(err)))


def _rows(result: Result, most: int) -> Answer:
    notes = [*result.warnings, *result.infos]
    if result.type is ValueType.SCALAR:
        return Answer([("scalar", sample_text(result.scalar))], 1, notes)
    if result.type is ValueType.STRING:
        return Answer([("string", result.string)], 1, notes)
    if result.matrix is not None:
        values = result.matrix.values[:most, 0].tolist()
        native = (
            [None] * len(values) if result.matrix.histograms is None else result.matrix.histograms[:most, 0].tolist()
        )
        rows = [
            (series_text(labels), sample_text(value) if histogram is None else str(histogram))
            for labels, value, histogram in zip(result.matrix.labels[:most], values, native, strict=True)
        ]
        return Answer(rows, len(result.matrix.labels), notes)
    found = [
        (
            series_text(each.labels),
            " ".join(
                f"{sample_text(value)} @{ms / 1000:.3f}"
                for ms, value in zip(each.timestamps.tolist()[-_SHOWN:], each.values.tolist()[-_SHOWN:], strict=True)
            ),
        )
        for each in result.series[:most]
    ]
    return Answer(found, len(result.series), notes)
