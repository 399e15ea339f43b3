"""`/federate` as Prometheus serves it."""

import math

import pytest

from common.exposition.protobuf import expose
from common.histogram import FloatHistogram, side
from common.labels import EMPTY, Labels
from common.promql.promqltest_store import ScriptStore
from common.sample import STALE_NAN
from hub.api.escaping import Escaping, escape, negotiate
from hub.api.federate import exposition
from tests.hub.api.conftest import T0, Api


async def text(api: Api, *selectors: str, status: int = 200, **headers: str) -> str:
    response = await (await api.client()).get(
        "/federate", params=[("match[]", each) for each in selectors], headers=headers
    )
    assert response.status == status
    return await response.text()


async def test_the_newest_samples_come_grouped_by_name_with_their_times(api: Api) -> None:
    now = api.clock.now()
    api.store.add(Labels.of(__name__="up", instance="a", job="node"), now - 20_000, 0.0)
    api.store.add(Labels.of(__name__="up", instance="a", job="node"), now - 10_000, 1.0)
    api.store.add(Labels.of(__name__="up", instance="b", job="node"), now - 10_000, 0.0)
    api.store.add(Labels.of(__name__="temp"), now, 40.5)
    assert await text(api, "up", "temp") == (
        "# TYPE temp untyped\n"
        f'temp{{instance=""}} 40.5 {now}\n'
        "# TYPE up untyped\n"
        f'up{{instance="a",job="node"}} 1 {now - 10_000}\n'
        f'up{{instance="b",job="node"}} 0 {now - 10_000}\n'
    )


async def test_a_series_selected_twice_comes_once(api: Api) -> None:
    api.store.add(Labels.of(__name__="up", instance="a"), api.clock.now(), 1.0)
    assert (await text(api, "up", '{instance="a"}')).count("\nup{") == 1


async def test_ended_and_old_series_are_left_out(api: Api) -> None:
    now = api.clock.now()
    api.store.add(Labels.of(__name__="ended"), now - 20_000, 1.0)
    api.store.add(Labels.of(__name__="ended"), now - 10_000, STALE_NAN)
    api.store.add(Labels.of(__name__="old"), now - 300_000, 1.0)
    assert await text(api, '{__name__=~".+"}') == ""


async def test_external_labels_fill_in_and_never_override(api: Api) -> None:
    api.configure(external_labels=Labels.of(site="garden", job="hub"))
    api.store.add(Labels.of(__name__="up", instance="a", job="node"), api.clock.now(), 1.0)
    assert 'up{instance="a",job="node",site="garden"} 1' in await text(api, "up")


async def test_without_a_selector_nothing_is_selected(api: Api) -> None:
    api.fill()
    assert await text(api) == ""


async def test_a_malformed_selector_is_400_with_the_bare_text(api: Api) -> None:
    assert await text(api, "up{", status=400) == "1:4: parse error: unexpected end of input inside braces\n"


async def test_utf8_names_are_quoted_for_those_who_take_them_and_escaped_for_others(api: Api) -> None:
    api.store.add(Labels.of({"__name__": "http.requests", "a.b": "c"}), api.clock.now(), 1.0)
    new = await text(api, '{"http.requests"}', Accept="text/plain;version=1.0.0;escaping=allow-utf-8")
    assert '{"http.requests","a.b"="c",instance=""} 1' in new
    assert 'http_requests{a_b="c",instance=""} 1' in await text(api, '{"http.requests"}')


@pytest.mark.parametrize(
    ("name", "underscores", "dots", "values"),
    [
        ("a_b:c", "a_b:c", "a_b:c", "a_b:c"),
        ("a.b_c", "a_b_c", "a_dot_b__c", "U__a_2e_b__c"),
        ("1x2", "_x2", "__x2", "U___31_x2"),
        ("é😀 ", "___", "______", "U___e9__1f600__20_"),
    ],
)
def test_names_are_escaped_as_prometheus_does(name: str, underscores: str, dots: str, values: str) -> None:
    assert escape(name, Escaping.NONE) == name
    assert escape(name, Escaping.UNDERSCORES) == underscores
    assert escape(name, Escaping.DOTS) == dots
    assert escape(name, Escaping.VALUES) == values


async def test_names_are_escaped_by_the_scheme_that_the_reader_asks_for(api: Api) -> None:
    api.store.add(Labels.of({"__name__": "http.requests", "a.b": "c"}), api.clock.now(), 1.0)
    accept = "application/openmetrics-text;escaping=dots;q=0.5,text/plain;escaping={};q=0.3,*/*;q=0.1"
    response = await (await api.client()).get(
        "/federate", params={"match[]": '{"http.requests"}'}, headers={"Accept": accept.format("values")}
    )
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8; escaping=values"
    assert 'U__http_2e_requests{U__a_2e_b="c",instance=""} 1' in await response.text()
    told = await text(api, '{"http.requests"}', Accept=accept.format("nonsense"))
    assert 'http_dot_requests{a_dot_b="c",instance=""} 1' in told


@pytest.mark.parametrize("value", [1e300, 1e-300, math.nan, math.inf, -math.inf, 0.1 + 0.2, -0.0, 12345678901234567.0])
def test_every_value_reads_back(value: float) -> None:
    page = "".join(exposition([(Labels.of(__name__="x", q='"\\\n'), T0, value)], EMPTY, Escaping.NONE))
    back = float(page.splitlines()[1].split(" ")[1])
    assert (back == value and math.copysign(1, back) == math.copysign(1, value)) or (back != back and value != value)


HISTOGRAM = FloatHistogram(0, 3, 1.5, 1, 0.01, side(2, [2.0]))
NATIVE = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,text/plain;q=0.5"
)


async def test_native_histograms_are_told_in_protobuf_to_those_who_prefer_it_and_left_out_of_text(api: Api) -> None:
    store = ScriptStore()
    api.configure(querier=store)
    now = api.clock.now()
    store.add(Labels.of(__name__="f"), now, 1.5)
    store.add_histogram(Labels.of(__name__="h"), now, HISTOGRAM)
    assert await text(api, '{__name__=~".+"}') == f'# TYPE f untyped\nf{{instance=""}} 1.5 {now}\n'
    response = await (await api.client()).get(
        "/federate", params={"match[]": '{__name__=~".+"}'}, headers={"Accept": NATIVE}
    )
    assert response.headers["Content-Type"].startswith("application/vnd.google.protobuf; proto=")
    found = expose(await response.read(), native=True)
    assert (found.values.tolist(), [each.timestamp for each in found.histograms]) == ([1.5], [now])
    assert found.histograms[0].histogram.equals(HISTOGRAM)


async def test_of_a_series_with_both_kinds_the_newest_sample_is_told(api: Api) -> None:
    store = ScriptStore()
    api.configure(querier=store)
    now = api.clock.now()
    for name, float_at, native_at in (("a", 2, 1), ("b", 1, 2)):
        store.add(Labels.of(__name__=name), now - 1000 * float_at, 1.5)
        store.add_histogram(Labels.of(__name__=name), now - 1000 * native_at, HISTOGRAM)
    assert await text(api, "a") == ""
    assert await text(api, "b") == f'# TYPE b untyped\nb{{instance=""}} 1.5 {now - 1000}\n'


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False),
        ("*/*", False),
        (NATIVE, True),
        (NATIVE.replace("q=0.5", "q=0.7"), False),
        ("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text", False),
        ("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=x", False),
    ],
)
def test_protobuf_is_answered_only_where_it_is_preferred(accept: str, wanted: bool) -> None:
    assert negotiate(accept)[0] is wanted
