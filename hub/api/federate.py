"""`/federate`: the newest sample of every selected series, for any Prometheus to scrape: text, or protobuf if asked."""

import re
import threading
from collections.abc import Iterator, Sequence

from aiohttp import web

from common.exposition import protobuf_encode
from common.exposition.encode import TEXT_CONTENT_TYPE, head_text, series_text
from common.exposition.protobuf_encode import Shown
from common.histogram import FloatHistogram
from common.labels import NAME, Labels, Matcher, is_legacy_label_name, is_legacy_metric_name
from common.order import in_order
from common.promql.budget import QueryBudget
from common.rules.format import plain
from common.sample import MetricType, Millis
from common.tsdb.querier import Querier, SelectHints
from hub.api.body import Packed, choose, pack, respond
from hub.api.envelope import ApiError
from hub.api.keys import STATE
from hub.api.params import match_params, read_form
from hub.api.runner import RUNNER

Sample = tuple[Labels, int, float | FloatHistogram]

_NOT_METRIC = re.compile(r"[^a-zA-Z0-9_:]")
_NOT_LABEL = re.compile(r"[^a-zA-Z0-9_]")


def newest(
    querier: Querier, sets: Sequence[Sequence[Matcher]], now: int, lookback: int, budget: QueryBudget
) -> list[Sample]:
    """The last sample (labels, ms, value) of each series within `lookback` ms; ended (stale) series are left out."""
    found: dict[Labels, tuple[Labels, int, float | FloatHistogram | None]] = {}
    for matchers in sets:
        for batch in querier.select(matchers, Millis(now - lookback + 1), Millis(now), SelectHints(), budget):
            for row, labels in enumerate(batch.labels):
                line = batch.timelines[batch.timeline_of[row]]
                last = len(line.timestamps) - 1
                at = int(line.timestamps[last])
                if labels in found and found[labels][1] > at:
                    continue
                if line.stale is not None and line.stale[last]:
                    found[labels] = (labels, at, None)
                elif batch.histograms is not None:
                    found[labels] = (labels, at, batch.histograms[row, last])
                else:
                    found[labels] = (labels, at, float(batch.values[row, last]))
            budget.release_batch()
    alive = [(labels, at, value) for labels, at, value in found.values() if value is not None]
    return in_order(alive, key=lambda sample: (sample[0].name, sample[0].pairs))


def shown(samples: Sequence[Sample], external: Labels, utf8: bool) -> Iterator[Shown]:
    """Samples as they are told: name, labels, ms, value.

    `external` labels fill in where a series has none of the name, and an empty `instance` keeps the scraper from adding
    its own. Without `utf8`, characters that old names can't hold become `_`.
    """
    fill = external.to_dict()
    fill.setdefault("instance", "")
    for labels, ms, value in samples:
        name = labels.name if utf8 or is_legacy_metric_name(labels.name) else _legacy(labels.name, _NOT_METRIC)
        pairs = {key: text for key, text in labels.pairs if key != NAME}
        pairs = {**pairs, **{key: text for key, text in fill.items() if key not in pairs}}
        if not utf8:
            pairs = {k if is_legacy_label_name(k) else _legacy(k, _NOT_LABEL): text for k, text in pairs.items()}
        yield name, sorted(pairs.items()), ms, value


def exposition(samples: Sequence[Sample], external: Labels, utf8: bool) -> Iterator[str]:
    """Samples sorted by name as text with timestamps, in pieces; native histograms, which text lacks, are left out."""
    before = ""
    for name, pairs, ms, value in shown(samples, external, utf8):
        if isinstance(value, FloatHistogram):
            continue
        if name != before:
            before = name
            yield head_text(name, MetricType.UNKNOWN, "")
        yield f"{series_text(name, pairs)} {plain(value)} {ms}\n"


def _legacy(name: str, bad: re.Pattern[str]) -> str:
    text = bad.sub("_", name)
    return "_" + text if text[:1].isdigit() else text


def wants_protobuf(accept: str) -> bool:
    """Whether an Accept header prefers delimited protobuf to every text format."""
    best, protobuf = 0.0, 0.0
    for each in accept.replace(" ", "").lower().split(","):
        kind, *parameters = each.split(";")
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = float(parameter[2:])
                except ValueError:
                    quality = 0.0
        if kind != "application/vnd.google.protobuf":
            best = max(best, quality)
        elif "encoding=delimited" in parameters and "proto=io.prometheus.client.metricfamily" in parameters:
            protobuf = max(protobuf, quality)
    return protobuf > best or (protobuf == best > 0 and accept.lstrip().lower().startswith("application/vnd.google"))


async def federate(request: web.Request) -> web.StreamResponse:
    """Series of all `match[]`; a malformed one is 400 with the bare text, as in Prometheus."""
    form = await read_form(request)
    state = request.app[STATE]
    utf8 = "escaping=allow-utf-8" in request.headers.get("Accept", "").replace(" ", "")
    try:
        sets = match_params(form, named=False, empty=True)
    except ApiError as err:
        return web.Response(status=err.status, text=f"{err}\n")
    protobuf = wants_protobuf(request.headers.get("Accept", ""))
    now, lookback = state.clock.now(), state.limits.lookback_ms

    coding = choose(request.headers.get("Accept-Encoding", ""))

    def job(cancel: threading.Event) -> Packed:
        budget = QueryBudget(state.limits.max_samples, cancel=cancel.is_set)
        samples = newest(state.querier, sets, now, lookback, budget)
        if protobuf:
            return pack(protobuf_encode.exposition(shown(samples, state.external_labels, utf8)), coding)
        lines = exposition(samples, state.external_labels, utf8)
        return pack((line.encode("utf-8", "replace") for line in lines), coding)

    response = respond(await request.app[RUNNER].run(job), "text/plain")
    escaping = "allow-utf-8" if utf8 else "underscores"
    kind = protobuf_encode.CONTENT_TYPE if protobuf else TEXT_CONTENT_TYPE
    response.headers["Content-Type"] = f"{kind}; escaping={escaping}"
    return response
