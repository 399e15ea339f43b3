"""The page at `/`: fleet, alerts, lamps, a query box; plain HTML that needs no script and nothing from elsewhere."""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from common.labels import Labels
from common.panel.service import Lamp
from common.rules.model import Alert, AlertState, GroupStatus
from common.times import rfc3339
from hub.api.state import ActiveTarget, FleetRow

MAX_ROWS = 500
"""Rows shown of any table; the rest is counted."""

STYLE = """
:root{color-scheme:light dark;--ok:#1a7f37;--warn:#9a6700;--bad:#cf222e;--line:#8884}
body{font:16px/1.4 system-ui,sans-serif;margin:0 auto;max-width:70rem;padding:0 1rem 3rem}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin:1.6rem 0 .4rem}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.3rem .6rem .3rem 0;border-bottom:1px solid var(--line)}
th,td{vertical-align:top;overflow-wrap:anywhere}
th.n,td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
code{font-family:ui-monospace,monospace;font-size:.9em}
.ok{color:var(--ok)}.warn{color:var(--warn)}.bad{color:var(--bad);font-weight:600}.dim{opacity:.7}
form{display:flex;gap:.5rem;flex-wrap:wrap}
input{flex:1 1 15rem;font:inherit;padding:.4rem}button{font:inherit;padding:.4rem 1rem}
.lamp{display:inline-block;width:.9em;height:.9em;border-radius:50%;border:1px solid var(--line);vertical-align:-.1em}
.lamp.lit{background:#f5a623}
.error{color:var(--bad);white-space:pre-wrap}
@media(max-width:40rem){thead{display:none}tr{display:block;padding:.4rem 0;border-bottom:1px solid var(--line)}
td{display:block;border:0;padding:.1rem 0}td.n{text-align:left}
td[data-th]::before{content:attr(data-th) ": ";opacity:.7}}
"""

POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    + "'"
)
"""Content-Security-Policy: no script at all, no resource from anywhere, this one style sheet."""

_STATE_CLASS = {
    "online": "ok",
    "up": "ok",
    "ok": "ok",
    "late": "warn",
    "pending": "warn",
    "unknown": "warn",
    "unreachable": "bad",
    "lost": "bad",
    "down": "bad",
    "firing": "bad",
    "err": "bad",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What the query box shows: rows of (series, value), how many there are in all, and notes or an error."""

    rows: Sequence[tuple[str, str]] = ()
    total: int = 0
    notes: Sequence[str] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """A table cell: text that will be escaped, and a class of ours."""

    text: str
    style: str = ""


Row = Sequence["Cell | str"]


def table(heads: Sequence[str], rows: Iterable[Row], empty: str) -> str:
    """An HTML table of escaped cells, at most MAX_ROWS rows; `empty` where there are none."""
    lines: list[str] = []
    count = 0
    styles = [""] * len(heads)
    for row in rows:
        count += 1
        if count > MAX_ROWS:
            continue
        cells = [cell if isinstance(cell, Cell) else Cell(cell) for cell in row]
        styles = ["n" if cell.style == "n" else "" for cell in cells]
        lines.append("<tr>" + "".join(_cell(head, cell) for head, cell in zip(heads, cells, strict=True)) + "</tr>")
    if not lines:
        return f'<p class="dim">{escape(empty)}</p>'
    head = "".join(
        f'<th class="{style}">{escape(text)}</th>' if style else f"<th>{escape(text)}</th>"
        for text, style in zip(heads, styles, strict=True)
    )
    more = f'<p class="dim">… and {count - MAX_ROWS} more</p>' if count > MAX_ROWS else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>{more}"


def _cell(head: str, cell: Cell) -> str:
    style = f' class="{cell.style}"' if cell.style else ""
    return f'<td data-th="{escape(head)}"{style}>{escape(cell.text)}</td>'


def _state(text: str) -> Cell:
    return Cell(text, _STATE_CLASS.get(text, ""))


def ago(ms: int | None) -> str:
    """A span for people: `3 s`, `12 min`, `5 h`, `2 d`; `–` for None."""
    if ms is None:
        return "–"
    seconds = max(0, ms) / 1000
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def _fleet(rows: Sequence[FleetRow], now: int) -> str:
    body: Iterable[Row] = (
        [
            row.instance,
            _state(row.state),
            row.reason,
            Cell(ago(None if row.last_sample is None else now - row.last_sample), "n"),
            Cell(ago(row.lag_ms), "n"),
            Cell(str(row.series), "n"),
            Cell(f"{row.samples_per_second:.1f}", "n"),
        ]
        for row in rows
    )
    heads = ("agent", "state", "reason", "last sample", "lag", "series", "samples/s")
    return table(heads, body, "no agent found yet: is bramble-edge running on a Pi in this network?")


def _targets(rows: Sequence[ActiveTarget], now: int) -> str:
    body: Iterable[Row] = (
        [
            row.scrape_pool,
            row.scrape_url,
            _state(row.health.value),
            row.last_error,
            Cell(ago(None if row.last_scrape is None else now - row.last_scrape), "n"),
        ]
        for row in rows
    )
    return table(("pool", "target", "state", "error", "last scrape"), body, "no scrape_configs")


def _alerts(groups: Sequence[GroupStatus], now: int) -> str:
    found: list[Alert] = [a for g in groups for r in g.rules for a in r.alerts if a.state is not AlertState.INACTIVE]
    found.sort(key=lambda alert: (alert.state is not AlertState.FIRING, alert.labels))
    body: Iterable[Row] = (
        [
            alert.labels.get("alertname"),
            _state(alert.state.value),
            str(alert.labels.drop(("alertname",))),
            alert.annotations.get("summary") or alert.annotations.get("description"),
            Cell(ago(now - alert.active_at), "n"),
        ]
        for alert in found
    )
    text = table(("alert", "state", "labels", "summary", "since"), body, "no alert is pending or firing")
    broken = [(g.group.name, r) for g in groups for r in g.rules if r.health == "err"]
    if broken:
        rows: Iterable[Row] = ([name, r.rule.name, Cell(r.last_error, "error")] for name, r in broken)
        text += "<h2>Rules that fail</h2>" + table(("group", "rule", "error"), rows, "")
    return text


def _lamps(lamps: Sequence[Lamp]) -> str:
    if not lamps:
        return '<p class="dim">no indicator is configured</p>'
    items = []
    for lamp in lamps:
        lit = " lit" if lamp.pattern != "off" else ""
        level = "on" if lamp.on else "off"
        pin = f"GPIO{lamp.pin}" + (", mock" if lamp.mock else "")
        items.append(
            f'<li><span class="lamp{lit}"></span> <b>{escape(lamp.name)}</b> ({escape(pin)}): '
            f"{escape(lamp.pattern)}, now {level}"
            f"{' – ' + escape(lamp.reason) if lamp.reason else ''}</li>"
        )
    return f"<ul>{''.join(items)}</ul>"


def _answer(answer: Answer | None) -> str:
    if answer is None:
        return ""
    if answer.error:
        return f'<p class="error">{escape(answer.error)}</p>'
    notes = "".join(f'<p class="warn">{escape(note)}</p>' for note in answer.notes)
    more = f'<p class="dim">{len(answer.rows)} of {answer.total} series shown</p>'
    body = ([Cell(series), Cell(value, "n")] for series, value in answer.rows)
    return (
        notes
        + table(("series", "value"), body, "the result is empty")
        + (more if answer.total > len(answer.rows) else "")
    )


@dataclass(frozen=True, slots=True)
class PageData:
    """Everything the page shows, as of `now`; `prefix` is the route prefix, without slash at its end."""

    title: str
    version: str
    now: int
    prefix: str
    fleet: Sequence[FleetRow]
    targets: Sequence[ActiveTarget]
    groups: Sequence[GroupStatus]
    lamps: Sequence[Lamp]
    query: str = ""
    answer: Answer | None = None


def render(data: PageData) -> str:
    """The page as HTML."""
    stamp = rfc3339(data.now - data.now % 1000)
    refresh = "" if data.query else '<meta http-equiv="refresh" content="15">'
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(data.title)}</title>{refresh}<style>{STYLE}</style></head><body>
<h1>{escape(data.title)} <span class="dim">{escape(data.version)} · {stamp}</span></h1>
<form action="{escape(data.prefix)}/" method="get">
<input name="expr" value="{escape(data.query)}" placeholder="PromQL, e.g. up" aria-label="PromQL query"
 autocapitalize="off" autocomplete="off" spellcheck="false"><button>Query</button></form>
{_answer(data.answer)}
<h2>Fleet</h2>{_fleet(data.fleet, data.now)}
<h2>Alerts</h2>{_alerts(data.groups, data.now)}
<h2>Lamps</h2>{_lamps(data.lamps)}
<h2>Targets</h2>{_targets(data.targets, data.now)}
</body></html>
"""


def series_text(labels: Labels) -> str:
    """A series as shown in the result table."""
    return str(labels) if len(labels) else "{}"
