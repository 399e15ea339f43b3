"""`write` and `read`: the receiving ends of Prometheus's remote write (1.0 and 2.0) and remote read."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
from aiohttp import web
from numpy.typing import NDArray

from common.errors import BusyError, FormatError, LimitError, QueryLimitError, StorageError
from common.histogram import FloatHistogram
from common.labels import Labels, Matcher, MatchType
from common.promql.budget import QueryBudget
from common.remote import snappy
from common.remote.chunks import CHUNKED, chunked_series
from common.remote.read import (
    ReadQuery,
    ResponseType,
    decode_request,
    encode_response,
    encode_result,
    encode_series,
)
from common.sample import STALE_NAN
from common.tsdb.querier import Querier
from hub.api.envelope import ApiError, ErrorType, bad
from hub.api.keys import STATE
from hub.api.params import body_in_time
from hub.api.runner import RUNNER, Cancel
from hub.intake.remote_write import MAX_BODY_BYTES, TooLargeError, Version

MAX_READ_SAMPLES = 5_000_000
"""Samples that one remote read may answer; Prometheus's --storage.remote.read-sample-limit is ten times that."""

MAX_READ_BODY_BYTES = 1 << 20
MAX_RECEIVING_BYTES = 64 << 20
"""Bytes of bodies that may be on their way in at once; beyond, 503."""
PROTOBUF = "application/x-protobuf"

_SAMPLES = {"Content-Type": PROTOBUF, "Content-Encoding": "snappy"}
Times = NDArray[np.int64]
Floats = NDArray[np.float64]
Histograms = Sequence[tuple[int, FloatHistogram | None]]
_Encode = Callable[[Labels, Times, Floats, Histograms], bytes]


class Receiving:
    """Counts the bytes of bodies that are being received."""

    def __init__(self) -> None:
        self.bytes = 0


RECEIVING: web.AppKey[Receiving] = web.AppKey("receiving", Receiving)


async def write(request: web.Request) -> web.StreamResponse:
    """Take a remote write request: 204, or a code that tells the sender to drop (400) or to repeat it (429, 503)."""
    receiver = request.app[STATE].receiver
    if receiver is None:
        return _text(404, "remote write receiver needs to be enabled with --web.enable-remote-write-receiver")
    version = _version(request)
    if version is None:
        return _text(415, f"expected Content-Type {PROTOBUF} and Content-Encoding snappy")
    body = await _read(request, MAX_BODY_BYTES)
    try:
        taken = await receiver.take(body, version)
    except TooLargeError as err:
        return _written(_text(413, str(err)), version, 0, 0)
    except FormatError as err:
        return _written(_text(400, str(err)), version, 0, 0)
    except BusyError as err:
        response = _text(503, str(err))
        response.headers["Retry-After"] = "5"
        return response
    except LimitError as err:
        response = _text(429, str(err))
        response.headers["Retry-After"] = "5"
        return response
    except StorageError as err:
        return _text(503, str(err))
    problem = taken.problem()
    response = _text(400, problem) if problem else web.Response(status=204)
    return _written(response, version, taken.samples, taken.histograms)


def _written(response: web.Response, version: Version, samples: int, histograms: int) -> web.Response:
    """The response, which tells a sender of version 2 what was stored."""
    if version is Version.V2:
        response.headers["X-Prometheus-Remote-Write-Samples-Written"] = str(samples)
        response.headers["X-Prometheus-Remote-Write-Histograms-Written"] = str(histograms)
        response.headers["X-Prometheus-Remote-Write-Exemplars-Written"] = "0"
    return response


class _NoChunksError(Exception):
    """There are native histograms, which are answered as samples only."""


async def read(request: web.Request) -> web.StreamResponse:
    """Answer a remote read request with chunks or samples, whichever the reader prefers."""
    body = await _read(request, MAX_READ_BODY_BYTES)
    state = request.app[STATE]

    def job(cancel: Cancel) -> tuple[bytes, dict[str, str]]:
        try:
            asked = decode_request(snappy.decompress(body, MAX_READ_BODY_BYTES * 8))
        except LimitError as err:
            raise bad(str(err)) from None
        for kind in asked.accepted:
            budget = QueryBudget(min(MAX_READ_SAMPLES, state.limits.max_samples), cancel=cancel.is_set)

            def sorted_series(query: ReadQuery, encode: _Encode, budget: QueryBudget = budget) -> Iterator[bytes]:
                found = sorted(_series(state.querier, query, state.external_labels, budget, encode))
                return (encoded for _, encoded in found)

            try:
                if kind is ResponseType.SAMPLES:
                    results = [encode_result(sorted_series(query, _as_samples)) for query in asked.queries]
                    return snappy.compress(encode_response(results)), _SAMPLES
                parts = [
                    part
                    for number, query in enumerate(asked.queries)
                    for part in sorted_series(query, partial(_as_chunks, number))
                ]
                return b"".join(parts), {"Content-Type": CHUNKED}
            except QueryLimitError:
                raise bad(f"exceeded sample limit ({MAX_READ_SAMPLES})") from None
            except _NoChunksError:
                continue
        raise bad("there are native histograms, which can't be answered as STREAMED_XOR_CHUNKS: accept SAMPLES, too")

    try:
        answer, headers = await request.app[RUNNER].run(job)
    except FormatError as err:
        return _text(400, str(err))
    except ApiError as err:
        return _text(err.status, str(err))
    return web.Response(body=answer, headers=headers)


def _as_samples(labels: Labels, times: Times, values: Floats, histograms: Histograms) -> bytes:
    """Histograms go as such of integers where they can: Prometheus 3.5 trips over those of floats."""
    return encode_series(labels, times, values, histograms, integers=True)


def _as_chunks(query: int, labels: Labels, times: Times, values: Floats, histograms: Histograms) -> bytes:
    return chunked_series(labels, times, values, query)


def _series(
    querier: Querier, query: ReadQuery, external: Labels, budget: QueryBudget, encode: _Encode
) -> Iterator[tuple[Labels, bytes]]:
    """The query's series as `encode` makes them; external labels are matched and added as in Prometheus."""
    native: dict[Labels, list[tuple[int, FloatHistogram | None]]] = {}
    none = np.empty(0)
    for batch in querier.select(_inside(query.matchers, external), query.start, query.end, query.hints, budget):
        for row, labels in enumerate(batch.labels):
            line = batch.timelines[batch.timeline_of[row]]
            if batch.histograms is not None:
                if encode is not _as_samples:
                    raise _NoChunksError
                cells = batch.histograms[row, : len(line.timestamps)].tolist()
                native[labels] = list(zip(line.timestamps.tolist(), cells, strict=True))
                budget.hold(sum(8 if each is None else 8 + len(each.positive.counts) // 2 for each in cells))
                continue
            values = batch.values[row, : len(line.timestamps)]
            if line.stale is not None:
                values = np.where(line.stale, STALE_NAN, values)
            budget.hold(len(values))
            full = external.merge(labels) if len(external) else labels
            yield full, encode(full, line.timestamps, values, native.pop(labels, ()))
        budget.release_batch()
    for labels, samples in native.items():
        full = external.merge(labels) if len(external) else labels
        yield full, encode(full, none.astype(np.int64), none, samples)


def _inside(matchers: Sequence[Matcher], external: Labels) -> list[Matcher]:
    """The matchers without those that external labels satisfy: stored series don't have these labels."""
    return [m for m in matchers if not (m.type is MatchType.EQ and external.get(m.name) == m.value != "")]


def _version(request: web.Request) -> Version | None:
    """The protocol's version by Content-Type; None if type or encoding are not those of remote write."""
    if request.headers.get("Content-Encoding", "").lower() not in ("", "snappy"):
        return None
    kind, *parameters = [part.strip() for part in request.headers.get("Content-Type", PROTOBUF).split(";")]
    if kind.lower() != PROTOBUF:
        return None
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "proto":
            value = value.strip().strip('"')
            return Version(value) if value in list(Version) else None
    return Version.V1


async def _read(request: web.Request, limit: int) -> bytes:
    """The body, at most `limit` bytes and in time."""
    if request.content_length is not None and request.content_length > limit:
        raise web.HTTPRequestEntityTooLarge(limit, request.content_length)
    receiving = request.app[RECEIVING]
    parts: list[bytes] = []
    size = 0
    try:
        async with body_in_time(request):
            async for part in request.content.iter_any():
                size += len(part)
                receiving.bytes += len(part)
                if size > limit:
                    raise web.HTTPRequestEntityTooLarge(limit, size)
                if receiving.bytes > MAX_RECEIVING_BYTES:
                    raise ApiError(ErrorType.UNAVAILABLE, "too many requests are being received; try again later")
                parts.append(part)
    finally:
        receiving.bytes -= size
    return b"".join(parts)


def _text(status: int, message: str) -> web.Response:
    return web.Response(status=status, text=message.encode(errors="replace").decode() + "\n")
