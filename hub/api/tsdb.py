"""`status/tsdb`: how many series there are, and which names and labels make them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from aiohttp import web

from common.labels import Labels
from common.sample import Millis
from hub.api import encode
from hub.api.envelope import bad, success
from hub.api.keys import STATE
from hub.api.params import integer, read_form
from hub.api.runner import RUNNER, Cancel

RECENT_MS = 2 * 3_600_000
"""Series with samples in this last span count as Prometheus's head."""


def _top(counts: Mapping[str, int], limit: int) -> list[dict[str, object]]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [{"name": name, "value": value} for name, value in ordered[:limit]]


def statistics(series: Sequence[Labels], limit: int) -> dict[str, list[dict[str, object]]]:
    """Prometheus's four tables over these series, each with its `limit` largest entries."""
    names: Counter[str] = Counter(labels.name for labels in series)
    pairs: Counter[tuple[str, str]] = Counter(pair for labels in series for pair in labels)
    values: Counter[str] = Counter(name for name, _ in pairs)
    sizes: Counter[str] = Counter()
    for (name, value), count in pairs.items():
        sizes[name] += len(value) * count
    return {
        "seriesCountByMetricName": _top(names, limit),
        "labelValueCountByLabelName": _top(values, limit),
        "memoryInBytesByLabelName": _top(sizes, limit),
        "seriesCountByLabelValuePair": _top({f"{n}={v}": count for (n, v), count in pairs.items()}, limit),
    }


def _pairs(series: Iterable[Labels]) -> int:
    return len({pair for labels in series for pair in labels})


async def tsdb(request: web.Request) -> web.StreamResponse:
    """Cardinality of the series with recent samples."""
    form = await read_form(request)
    try:
        limit = integer(form.get("limit") or "10")
    except ValueError:
        limit = 0
    if limit < 1:
        raise bad("limit must be a positive number")
    if limit > 10_000:
        raise bad("limit must not exceed 10000")
    state = request.app[STATE]
    now = state.clock.now()

    def job(_: Cancel) -> bytes:
        series = state.querier.series([], Millis(now - RECENT_MS), now)
        head = state.head()
        stats = {
            "numSeries": len(series),
            "numLabelPairs": _pairs(series),
            "chunkCount": head.chunks,
            "minTime": head.first if head.first is not None else 2**63 - 1,
            "maxTime": head.last if head.last is not None else -(2**63),
        }
        return encode.text({"headStats": stats, **statistics(series, limit)})

    return success(await request.app[RUNNER].run(job))
