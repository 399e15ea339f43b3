"""Serves the page at `/`."""

from aiohttp import web

from hub.api import query
from hub.api.keys import STATE
from hub.api.page import MAX_ROWS, POLICY, Answer, PageData, render


async def page(request: web.Request) -> web.StreamResponse:
    """The page; `?expr=` is evaluated as of now and its result shown as a table."""
    state = request.app[STATE]
    text = request.query.get("expr", "").strip()
    answer: Answer | None = await query.for_page(request, text, MAX_ROWS) if text else None
    prefix = state.web.route_prefix.strip("/")
    html = render(
        PageData(
            title=state.web.page_title,
            version=state.build.version,
            now=state.clock.now(),
            prefix=f"/{prefix}" if prefix else "",
            fleet=state.fleet.rows(),
            targets=state.targets.active(),
            groups=state.rules.groups(),
            lamps=state.panel.lamps(),
            query=text,
            answer=answer,
        )
    )
    return web.Response(
        body=html.encode("utf-8", "replace"),
        content_type="text/html",
        charset="utf-8",
        headers={
            "Content-Security-Policy": POLICY,
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        },
    )
