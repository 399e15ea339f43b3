"""`query`, `query_range`, `format_query`, `parse_query`, and the page's query box."""

from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Sequence
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
from hub.api.flights import FLIGHTS
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
from hub.api.range_cache import RangeCache, Span
from hub.api.runner import RUNNER, Cancel
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


async def _answer(
    request: web.Request,
    form: Form,
    query: Query,
    evaluate: Callable[[Cancel], Result | Extent],
    keep: Callable[[Packed], None] = lambda _: None,
) -> web.Response:
    """The answer with what `evaluate` gives, which `keep` sees as it is sent."""
    state = request.app[STATE]
    limit, timeout = limit_param(form), _timeout(state, form)
    clock, with_stats, asked = state.clock, bool(form.get("stats")), query.asked
    per_step = form.get("stats") == "all" and PER_STEP_STATS in state.engine.options.features

    coding = choose(request.headers.get("Accept-Encoding", ""))

    def job(cancel: Cancel) -> Packed:
        began, query.result = clock.monotonic(), None
        try:
            with logged(request, query):
                result = evaluate(cancel)
                if isinstance(result, Result):
                    query.result = result
        except ParseError as err:
            raise bad_parameter("query", err) from None
        if isinstance(result, Extent):
            cut = len(result.labels) > limit
            pieces = envelope(_encode_extent(result, limit), [TRUNCATED] if cut else (), result.infos)
        else:
            stats = (
                _stats(result, began - asked, clock.monotonic() - began, query if per_step else None)
                if with_stats
                else b""
            )
            body, cut = encode_result(result, limit, stats)
            pieces = envelope(body, [*result.warnings, TRUNCATED] if cut else result.warnings, result.infos)
        packed = pack(_until(pieces, cancel), coding)
        keep(packed)
        return packed

    try:
        return respond(await request.app[RUNNER].run(job, timeout, like=_like(state, query)), JSON)
    finally:
        spent = clock.monotonic() - asked
        if query.result is not None:
            request.app[RUNNER].samples.inc(query.result.samples)
        slow = state.slow_query_ms()
        if slow and spent * 1000 >= slow:
            request.app[RUNNER].slow.inc()
            samples = query.result.samples_read if query.result else 0
            _log.warn(
                "slow query",
                query=query.text[:MAX_SHOWN],
                seconds=f"{spent:.1f}",
                samples=samples,
                start=rfc3339(query.start),
                end=rfc3339(query.end),
                step=format_duration(query.step),
                path=request.path,
                client=request.remote or "",
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


async def instant(request: web.Request) -> web.StreamResponse:
    """The value of `query` at `time` (now without it)."""
    form = await read_form(request)
    state = request.app[STATE]
    at = time_param(form, "time", Moment.at(state.clock.now())).query_ms
    text, lookback, timeout = form.get("query", ""), _lookback(form), _timeout(state, form) / 1000

    def evaluate(cancel: Cancel) -> Result:
        return state.engine.instant(
            state.querier, text, at, timeout=timeout, lookback_ms=lookback, cancel=cancel.is_set
        )

    return await _answer(request, form, Query(text, at, at, 0, state.clock.monotonic()), evaluate)


async def ranged(request: web.Request) -> web.StreamResponse:
    """The values of `query` at every `step` from `start` to `end`."""
    form = await read_form(request)
    state = request.app[STATE]
    start, end = time_param(form, "start"), time_param(form, "end")
    try:
        step = parse_span(form.get("step", ""))
    except ValueError as err:
        raise bad_parameter("step", err) from None
    check_points(start, end, step, state.limits.max_points)
    first, last, step_ms = start.query_ms, end.query_ms, step // 1_000_000
    if last < first:
        raise bad_parameter("end", "end timestamp must not be before start time")
    text, lookback, timeout = form.get("query", ""), _lookback(form), _timeout(state, form) / 1000
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
            state.querier, text, first, last, step_ms, timeout=timeout, lookback_ms=lookback, cancel=cancel.is_set
        )

    cache = state.cache
    if cache is None or form.get("stats") or form.get("nocache", "") not in ("", "0"):
        if cache is not None:
            cache.bypassed()
        return await _answer(request, form, query, evaluate)
    return await _cached(request, form, query, cache, lookback, evaluate)


async def _cached(
    request: web.Request,
    form: Form,
    query: Query,
    cache: RangeCache,
    lookback: int | None,
    evaluate: Callable[..., Result],
) -> web.StreamResponse:
    """A range query's answer, from the cache as far as it can be."""
    options, text, span = request.app[STATE].engine.options, query.text, Span(query.start, query.end, query.step)
    coding = choose(request.headers.get("Accept-Encoding", ""))
    key = (text, span, lookback, limit_param(form), coding)
    sent = cache.answer(key)
    if sent is not None:
        note_shared(request, query)
        return respond(sent, JSON)
    generation = cache.generation
    back = lookback or options.lookback_ms

    def from_cache(cancel: Cancel) -> Result | Extent:
        def part(start: int, end: int) -> Result:
            result, before = evaluate(cancel, start, end), query.result
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

        plan = _plan(text, options.features)
        if not plan.local or plan.type in _TYPE_NAMES or span.count < 2:
            cache.bypassed()
            return evaluate(cancel)
        return cache.extent(
            (plan.canonical, back),
            span,
            _reach(plan, span, back),
            part,
            text,
            lambda: _heed(cancel),
        )

    def times() -> Sequence[tuple[int, int]]:
        """What the answer depends on."""
        plan = _plan(text, options.features)
        return _reach(plan, span, back).times(span.start, span.end) if plan.knowable else (ALWAYS,)

    flights, timeout = request.app[FLIGHTS], _timeout(request.app[STATE], form) / 1000
    shared = await flights.join(key, lambda since: cache.unchanged(since, times()), timeout)
    if shared is not None:
        note_shared(request, query)
        return respond(shared, JSON)

    def answer(told: Callable[[Packed], None]) -> Awaitable[web.Response]:
        def keep(packed: Packed) -> None:
            told(packed)
            if _plan(text, options.features).knowable:
                cache.keep_answer(key, packed, generation, times())

        return _answer(request, form, query, from_cache, keep)

    return await flights.lead(key, generation, answer)


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
        native = [None] * len(values) if result.matrix.histograms is None else result.matrix.histograms[:most, 0]
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
