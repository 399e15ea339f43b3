"""`/federate`: the newest sample of every selected series, for any Prometheus to scrape: text, or protobuf if asked."""

from collections.abc import Iterator, Sequence

from aiohttp import web

from common.exposition import protobuf_encode
from common.exposition.encode import TEXT_CONTENT_TYPE, head_text, series_text
from common.exposition.protobuf_encode import Shown
from common.histogram import FloatHistogram
from common.labels import NAME, Labels, Matcher
from common.order import in_order
from common.promql.budget import QueryBudget
from common.rules.format import plain
from common.sample import MetricType, Millis
from common.tsdb.querier import Querier, SelectHints
from hub.api.body import Packed, choose, pack, respond
from hub.api.envelope import ApiError
from hub.api.escaping import Escaping, escape, negotiate
from hub.api.keys import STATE
from hub.api.params import match_params, read_form
from hub.api.runner import RUNNER, Cancel

Sample = tuple[Labels, int, float | FloatHistogram]


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
                    found[labels] = (labels, at, batch.histograms[row, [last]].tolist()[0])
                else:
                    found[labels] = (labels, at, float(batch.values[row, last]))
            budget.release_batch()
    alive = [(labels, at, value) for labels, at, value in found.values() if value is not None]
    return in_order(alive, key=lambda sample: (sample[0].name, sample[0].pairs))


def shown(samples: Sequence[Sample], external: Labels, scheme: Escaping) -> Iterator[Shown]:
    """Samples as they are told: name, labels, ms, value.

    `external` labels fill in where a series has none of the name, and an empty `instance` keeps the scraper from adding
    its own. Names are escaped by `scheme`.
    """
    fill = external.to_dict()
    fill.setdefault("instance", "")
    for labels, ms, value in samples:
        pairs = {key: text for key, text in labels.pairs if key != NAME}
        pairs = {**pairs, **{key: text for key, text in fill.items() if key not in pairs}}
        escaped = {escape(key, scheme): text for key, text in pairs.items()}
        yield escape(labels.name, scheme), sorted(escaped.items()), ms, value


def exposition(samples: Sequence[Sample], external: Labels, scheme: Escaping) -> Iterator[str]:
    """Samples sorted by name as text with timestamps, in pieces; native histograms, which text lacks, are left out."""
    before = ""
    for name, pairs, ms, value in shown(samples, external, scheme):
        if isinstance(value, FloatHistogram):
            continue
        if name != before:
            before = name
            yield head_text(name, MetricType.UNKNOWN, "")
        yield f"{series_text(name, pairs)} {plain(value)} {ms}\n"


async def federate(request: web.Request) -> web.StreamResponse:
    """Series of all `match[]`; a malformed one is 400 with the bare text, as in Prometheus."""
    form = await read_form(request)
    state = request.app[STATE]
    try:
        sets = match_params(form, named=False, empty=True)
    except ApiError as err:
        return web.Response(status=err.status, text=f"{err}\n")
    protobuf, scheme = negotiate(request.headers.get("Accept", ""))
    now, lookback = state.clock.now(), state.limits.lookback_ms

    coding = choose(request.headers.get("Accept-Encoding", ""))

    def job(cancel: Cancel) -> Packed:
        budget = QueryBudget(state.limits.max_samples, cancel=cancel.is_set)
        samples = newest(state.querier, sets, now, lookback, budget)
        if protobuf:
            return pack(protobuf_encode.exposition(shown(samples, state.external_labels, scheme)), coding)
        lines = exposition(samples, state.external_labels, scheme)
        return pack((line.encode("utf-8", "replace") for line in lines), coding)

    response = respond(await request.app[RUNNER].run(job), "text/plain")
    kind = protobuf_encode.CONTENT_TYPE if protobuf else TEXT_CONTENT_TYPE
    response.headers["Content-Type"] = f"{kind}; escaping={scheme}"
    return response
