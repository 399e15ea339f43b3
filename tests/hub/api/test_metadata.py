"""`labels`, `label/NAME/values`, `series`, `metadata`."""

import pytest
from yarl import URL

from common.labels import Labels
from common.sample import MetricMeta, MetricType
from hub.api.params import unescape_label
from tests.hub.api.conftest import T0, Api


async def test_label_names_are_sorted_and_narrowed_by_selectors(api: Api) -> None:
    api.fill()
    assert await api.data("/api/v1/labels") == ["__name__", "instance", "job"]
    assert await api.data("/api/v1/labels", **{"match[]": "temp"}) == ["__name__", "instance"]


async def test_labels_may_be_posted(api: Api) -> None:
    api.fill()
    response = await (await api.client()).post("/api/v1/labels", data={"match[]": "temp"})
    assert (await response.json())["data"] == ["__name__", "instance"]


async def test_label_values_outside_the_time_window_are_left_out(api: Api) -> None:
    api.fill()
    assert await api.data("/api/v1/label/job/values") == ["node"]
    assert await api.data("/api/v1/label/job/values", start=str(T0 / 1000 + 3600)) == []


async def test_a_utf8_label_name_may_come_plain_or_escaped(api: Api) -> None:
    api.store.add(Labels.of({"__name__": "x", "http.status_code": "200"}), T0, 1.0)
    assert await api.data("/api/v1/label/http.status_code/values") == ["200"]
    assert await api.data("/api/v1/label/U__http_2e_status__code/values") == ["200"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("plain", "plain"),
        ("U__a_2e_b", "a.b"),
        ("U__a__b", "a_b"),
        ("U___1f600_", "\U0001f600"),
        ("U__a_", "U__a_"),
        ("U__a_zz_", "U__a_zz_"),
        ("U__a_d800_", "U__a_d800_"),
        ("U__a_1234567_", "U__a_1234567_"),
    ],
)
def test_the_values_escaping_is_undone_where_it_is_one(text: str, name: str) -> None:
    assert unescape_label(text) == name


async def test_a_label_name_that_is_not_utf8_is_400(api: Api) -> None:
    response = await (await api.client()).get(URL("/api/v1/label/%FF/values", encoded=True))
    assert response.status == 400
    assert (await response.json())["error"] == 'invalid label name: "\\xff"'


async def test_a_malformed_selector_of_labels_is_400_without_the_parameters_name(api: Api) -> None:
    expected = ("bad_data", "1:4: parse error: unexpected end of input inside braces")
    assert await api.error("/api/v1/labels", 400, **{"match[]": "up{"}) == expected


async def test_a_limit_cuts_label_values_and_warns(api: Api) -> None:
    api.fill()
    body = await api.get("/api/v1/label/instance/values", limit="1")
    assert body["data"] == ["a"]
    assert body["warnings"] == ["results truncated due to limit"]


async def test_series_of_several_selectors_are_joined(api: Api) -> None:
    api.fill()
    response = await (await api.client()).get('/api/v1/series?match[]=temp&match[]=up{instance="b"}')
    assert (await response.json())["data"] == [
        {"__name__": "temp", "instance": "a"},
        {"__name__": "up", "instance": "b", "job": "node"},
    ]


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("", "no match[] parameter provided"),
        ("match[]=up{", 'invalid parameter "match[]": 1:4: parse error: unexpected end of input inside braces'),
        ("match[]=up&start=x", "invalid parameter \"start\": invalid time value for 'start': cannot parse"),
        ("match[]=rate(up[5m])", 'invalid parameter "match[]": 1:5: parse error: unexpected "("'),
    ],
)
async def test_malformed_series_requests_are_400(api: Api, query: str, text: str) -> None:
    response = await (await api.client()).get(f"/api/v1/series?{query}")
    body = await response.json()
    assert response.status == 400
    assert body["error"].startswith(text)


async def test_a_trailing_comma_in_a_selector_parses(api: Api) -> None:
    api.fill()
    assert len(await api.data("/api/v1/series", **{"match[]": '{__name__=~".+",}'})) == 3


async def test_metadata_lists_type_help_and_unit(api: Api) -> None:
    api.fill()
    api.store.add_metadata(MetricMeta("up", MetricType.GAUGE, "Another help."))
    api.store.add_metadata(MetricMeta("temp", MetricType.COUNTER, "t", "celsius"))
    assert await api.data("/api/v1/metadata") == {
        "temp": [{"type": "counter", "help": "t", "unit": "celsius"}],
        "up": [
            {"type": "gauge", "help": "Whether it answers.", "unit": ""},
            {"type": "gauge", "help": "Another help.", "unit": ""},
        ],
    }
    assert list(await api.data("/api/v1/metadata", limit="1")) == ["temp"]
    assert len((await api.data("/api/v1/metadata", limit_per_metric="1"))["up"]) == 1
    assert list(await api.data("/api/v1/metadata", metric="up")) == ["up"]
    assert await api.error("/api/v1/metadata", 400, limit="x") == ("bad_data", "limit must be a number")
