"""`labels`, `label/NAME/values`, `series`, `metadata`."""

from collections.abc import Iterator, Sequence

from aiohttp import web

from common.sample import Millis
from hub.api import encode
from hub.api.body import Packed, choose, pack, respond
from hub.api.envelope import JSON, bad, envelope, success
from hub.api.keys import STATE
from hub.api.params import (
    Form,
    integer,
    label_name,
    limit_param,
    match_params,
    read_form,
    window_params,
)
from hub.api.runner import RUNNER, Cancel

TRUNCATED = "results truncated due to limit"


def _window(form: Form) -> tuple[Millis, Millis]:
    start, end = window_params(form)
    return start.window_ms, end.window_ms


def _limited(items: Sequence[str], limit: int) -> Iterator[bytes]:
    body = encode.separated(map(encode.text, items[:limit]))
    return envelope(body, [TRUNCATED] if len(items) > limit else [])


async def labels(request: web.Request) -> web.StreamResponse:
    """Names of labels."""
    form = await read_form(request)
    limit, (start, end), sets = limit_param(form), _window(form), match_params(form, named=False)
    querier, coding = request.app[STATE].querier, choose(request.headers.get("Accept-Encoding", ""))

    def job(_: Cancel) -> Packed:
        return pack(_limited(querier.label_names(sets, start, end), limit), coding)

    return respond(await request.app[RUNNER].run(job), JSON)


async def label_values(request: web.Request) -> web.StreamResponse:
    """Values of one label; UTF-8 names may come escaped (`U__`)."""
    form = await read_form(request)
    name = label_name(request.rel_url.raw_parts[-2])
    limit, (start, end), sets = limit_param(form), _window(form), match_params(form, named=False)
    querier, coding = request.app[STATE].querier, choose(request.headers.get("Accept-Encoding", ""))

    def job(_: Cancel) -> Packed:
        return pack(_limited(querier.label_values(name, sets, start, end), limit), coding)

    return respond(await request.app[RUNNER].run(job), JSON)


async def series(request: web.Request) -> web.StreamResponse:
    """Label sets of the series that satisfy any `match[]`."""
    form = await read_form(request)
    limit, sets, (start, end) = limit_param(form), match_params(form, required=True), _window(form)
    querier = request.app[STATE].querier

    coding = choose(request.headers.get("Accept-Encoding", ""))

    def job(_: Cancel) -> Packed:
        found = querier.series(sets, start, end)
        items = encode.separated(map(encode.metric, found[:limit]))
        return pack(envelope(items, [TRUNCATED] if len(found) > limit else []), coding)

    return respond(await request.app[RUNNER].run(job), JSON)


def number_param(form: Form, name: str) -> int:
    """An integer as `metadata` takes it, -1 if absent."""
    text = form.get(name, "")
    if not text:
        return -1
    try:
        return integer(text)
    except ValueError:
        raise bad(f"{name} must be a number") from None


async def metadata(request: web.Request) -> web.StreamResponse:
    """Type, help and unit of metric families."""
    form = await read_form(request)
    limit, per_metric, name = (
        number_param(form, "limit"),
        number_param(form, "limit_per_metric"),
        form.get("metric", ""),
    )
    querier = request.app[STATE].querier

    def job(_: Cancel) -> bytes:
        out: dict[str, list[dict[str, str]]] = {}
        for family, metas in sorted(querier.metadata(name).items()):
            if 0 <= limit <= len(out):
                break
            shown = metas[:per_metric] if per_metric > 0 else metas
            out[family] = [{"type": m.type.value, "help": m.help, "unit": m.unit} for m in shown]
        return encode.text(out)

    return success(await request.app[RUNNER].run(job))
