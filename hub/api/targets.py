"""`targets`, `scrape_pools`, `targets/metadata`, `alertmanagers`, and the fleet."""

from urllib.parse import urlsplit, urlunsplit

from aiohttp import web

from common.errors import FormatError, QueryError
from common.labels import match_all
from common.promql.parser import parse_selector
from common.times import rfc3339
from common.units import format_duration
from hub.api import encode
from hub.api.envelope import bad_parameter, success
from hub.api.keys import STATE
from hub.api.metadata import number_param
from hub.api.params import read_form
from hub.api.state import ActiveTarget, WebOptions

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def global_url(url: str, external: str, port: int) -> str:
    """`url` as others reach it: where it points to this machine, with the host of the `external` URL, and with its
    scheme and port too where the target is this program itself, which listens on `port`; as Prometheus's globalUrl."""
    parts, outside = urlsplit(url), urlsplit(external)
    if parts.hostname not in _LOOPBACK or not outside.hostname:
        return url
    if parts.port == port:
        return urlunsplit((outside.scheme, outside.netloc, *parts[2:]))
    host = f"[{outside.hostname}]" if ":" in outside.hostname else outside.hostname
    return urlunsplit((parts.scheme, host if parts.port is None else f"{host}:{parts.port}", *parts[2:]))


def _target(target: ActiveTarget, options: WebOptions) -> dict[str, object]:
    return {
        "discoveredLabels": dict(target.discovered_labels),
        "labels": target.labels.to_dict(),
        "scrapePool": target.scrape_pool,
        "scrapeUrl": target.scrape_url,
        "globalUrl": global_url(target.scrape_url, options.external_url, options.port),
        "lastError": target.last_error,
        "lastScrape": rfc3339(target.last_scrape),
        "lastScrapeDuration": target.last_duration,
        "health": target.health.value,
        "scrapeInterval": format_duration(target.interval_ms),
        "scrapeTimeout": format_duration(target.timeout_ms),
    }


async def targets(request: web.Request) -> web.StreamResponse:
    """Active and dropped targets; `state` and `scrapePool` filter."""
    form = await read_form(request)
    view = request.app[STATE].targets
    state, pool = form.get("state", "").lower(), form.get("scrapePool", "")
    with_active, with_dropped = state in ("", "any", "active"), state in ("", "any", "dropped")
    active = [t for t in view.active() if not pool or t.scrape_pool == pool] if with_active else []
    dropped = [t for t in view.dropped() if not pool or t.scrape_pool == pool] if with_dropped else []
    # Of all pools, whatever `scrapePool` says, as in Prometheus.
    counts = dict.fromkeys(sorted(view.pools()), 0)
    for each in view.dropped():
        counts[each.scrape_pool] = counts.get(each.scrape_pool, 0) + 1
    data: dict[str, object] = {
        "activeTargets": [_target(t, request.app[STATE].web) for t in sorted(active, key=lambda t: t.scrape_pool)],
        "droppedTargets": [
            {"discoveredLabels": dict(t.discovered_labels), "scrapePool": t.scrape_pool} for t in dropped
        ],
        "droppedTargetCounts": counts if with_dropped else None,
    }
    return success(encode.text(data))


async def scrape_pools(request: web.Request) -> web.StreamResponse:
    """Names of the scrape pools."""
    return success(encode.text({"scrapePools": sorted(request.app[STATE].targets.pools())}))


async def target_metadata(request: web.Request) -> web.StreamResponse:
    """Metadata by target; `match_target`, `metric` and `limit` narrow it."""
    form = await read_form(request)
    limit, name, match = number_param(form, "limit"), form.get("metric", ""), form.get("match_target", "")
    try:
        matchers = parse_selector(match) if match else ()
    except (QueryError, FormatError) as err:
        raise bad_parameter("match_target", err) from None
    view = request.app[STATE].targets
    out: list[dict[str, object]] = []
    for target in view.active():
        if not match_all(matchers, target.labels):
            continue
        for meta in view.metadata(target.labels):
            if name and meta.name != name:
                continue
            if 0 <= limit <= len(out):
                break
            row: dict[str, object] = {"target": target.labels.to_dict()}
            if not name:
                row["metric"] = meta.name
            out.append(row | {"type": meta.type.value, "help": meta.help, "unit": meta.unit})
    return success(encode.text(out))


async def alertmanagers(request: web.Request) -> web.StreamResponse:
    """Other Alertmanagers that get our alerts: none, Bramble notifies itself."""
    return success(b'{"activeAlertmanagers":[],"droppedAlertmanagers":[]}')


async def fleet(request: web.Request) -> web.StreamResponse:
    """The agents of the fleet with state, reason and lag (Bramble's own endpoint)."""
    rows = [
        {
            "source": row.source,
            "instance": row.instance,
            "url": row.url,
            "state": row.state,
            "reason": row.reason,
            "labels": row.labels.to_dict(),
            "discoveredBy": row.discovered_by,
            "lastSample": None if row.last_sample is None else rfc3339(row.last_sample),
            "lastContact": None if row.last_contact is None else rfc3339(row.last_contact),
            "lagSeconds": None if row.lag_ms is None else row.lag_ms / 1000,
            "series": row.series,
            "samplesPerSecond": row.samples_per_second,
            "pendingFrames": row.pending,
            "goneFrames": row.gone,
        }
        for row in request.app[STATE].fleet.rows()
    ]
    return success(encode.text({"agents": rows}))


async def panel(request: web.Request) -> web.StreamResponse:
    """The hub's indicators and what they show now (Bramble's own endpoint)."""
    lamps = [
        {
            "name": lamp.name,
            "pin": lamp.pin,
            "pattern": lamp.pattern,
            "on": lamp.on,
            "mock": lamp.mock,
            "reason": lamp.reason,
        }
        for lamp in request.app[STATE].panel.lamps()
    ]
    return success(encode.text({"lamps": lamps}))
