"""`/federate`: the newest sample of every selected series in the text format, for any Prometheus to scrape."""

import re
import threading
from collections.abc import Iterator, Sequence

from aiohttp import web

from common.exposition.encode import TEXT_CONTENT_TYPE, head_text, series_text
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

Sample = tuple[Labels, int, float]

_NOT_METRIC = re.compile(r"[^a-zA-Z0-9_:]")
_NOT_LABEL = re.compile(r"[^a-zA-Z0-9_]")


def newest(
    querier: Querier, sets: Sequence[Sequence[Matcher]], now: int, lookback: int, budget: QueryBudget
) -> list[Sample]:
    """The last sample (labels, ms, value) of each series within `lookback` ms; ended (stale) series are left out."""
    found: dict[Labels, Sample] = {}
    for matchers in sets:
        for batch in querier.select(matchers, Millis(now - lookback + 1), Millis(now), SelectHints(), budget):
            for row, labels in enumerate(batch.labels):
                line = batch.timelines[batch.timeline_of[row]]
                last = len(line.timestamps) - 1
                if line.stale is None or not line.stale[last]:
                    found[labels] = (labels, int(line.timestamps[last]), float(batch.values[row, last]))
            budget.release_batch()
    return in_order(found.values(), key=lambda sample: (sample[0].name, sample[0].pairs))


def exposition(samples: Sequence[Sample], external: Labels, utf8: bool) -> Iterator[str]:
    """Samples sorted by name as text with timestamps, in pieces.

    `external` labels fill in where a series has none of the name, and an empty `instance` keeps the scraper from adding
    its own. Without `utf8`, characters that old names can't hold become `_`.
    """
    name = ""
    fill = external.to_dict()
    fill.setdefault("instance", "")
    for labels, ms, value in samples:
        if labels.name != name:
            name = labels.name
            shown = name if utf8 or is_legacy_metric_name(name) else _legacy(name, _NOT_METRIC)
            yield head_text(shown, MetricType.UNKNOWN, "")
        pairs = {key: text for key, text in labels.pairs if key != NAME}
        pairs = {**pairs, **{key: text for key, text in fill.items() if key not in pairs}}
        if not utf8:
            pairs = {k if is_legacy_label_name(k) else _legacy(k, _NOT_LABEL): text for k, text in pairs.items()}
        yield f"{series_text(shown, sorted(pairs.items()))} {plain(value)} {ms}\n"


def _legacy(name: str, bad: re.Pattern[str]) -> str:
    text = bad.sub("_", name)
    return "_" + text if text[:1].isdigit() else text


async def federate(request: web.Request) -> web.StreamResponse:
    """Series of all `match[]`; a malformed one is 400 with the bare text, as in Prometheus."""
    form = await read_form(request)
    state = request.app[STATE]
    utf8 = "escaping=allow-utf-8" in request.headers.get("Accept", "").replace(" ", "")
    try:
        sets = match_params(form, named=False)
    except ApiError as err:
        return web.Response(status=err.status, text=f"{err}\n")
    now, lookback = state.clock.now(), state.limits.lookback_ms

    coding = choose(request.headers.get("Accept-Encoding", ""))

    def job(cancel: threading.Event) -> Packed:
        budget = QueryBudget(state.limits.max_samples, cancel=cancel.is_set)
        samples = newest(state.querier, sets, now, lookback, budget)
        lines = exposition(samples, state.external_labels, utf8)
        return pack((line.encode("utf-8", "replace") for line in lines), coding)

    response = respond(await request.app[RUNNER].run(job), "text/plain")
    escaping = "allow-utf-8" if utf8 else "underscores"
    response.headers["Content-Type"] = f"{TEXT_CONTENT_TYPE}; escaping={escaping}"
    return response
