"""Targets, rules, alerts, status, health, and what surrounds requests."""

import json
import re
from dataclasses import replace

import pytest
from yarl import URL

from common.labels import Labels
from common.panel.service import Lamp
from common.promql.parser import parse
from common.rules.loader import load_rules
from common.rules.model import Alert, AlertState, GroupStatus, RuleStatus
from common.sample import MetricMeta, MetricType, Millis
from hub.api.state import ActiveTarget, DroppedTarget, FleetRow
from hub.api.targets import global_url
from hub.notices import Notices
from tests.hub.api.conftest import T0, Api

RULES = """
groups:
- name: g
  interval: 30s
  rules:
  - {record: r, expr: up, labels: {team: a}}
  - alert: Hot
    expr: temp > 40
    for: 1m
    labels: {severity: warning}
    annotations: {summary: "hot: {{ $value }}"}
- name: h
  rules: [{record: s, expr: up}]
"""


def groups() -> list[GroupStatus]:
    loaded = load_rules(RULES, "r.yml")
    alert = Alert(
        Labels.of(alertname="Hot", instance="a", severity="warning"),
        Labels.of(summary="hot: 41.5"),
        AlertState.FIRING,
        41.5,
        Millis(T0),
    )
    out = []
    for group in loaded:
        rules = [RuleStatus(rule, "ok", "", Millis(T0), 0.001) for rule in group.rules]
        if len(rules) > 1:
            rules[1] = RuleStatus(group.rules[1], "ok", "", Millis(T0), 0.002, (alert,))
        out.append(GroupStatus(group, tuple(rules), Millis(T0), 0.003))
    return out


async def test_targets_are_shown_with_their_health(api: Api, target: ActiveTarget) -> None:
    api.views.targets = [target]
    api.views.drops = [DroppedTarget({"__address__": "x:1"}, "node")]
    assert await api.data("/api/v1/targets") == {
        "activeTargets": [
            {
                "discoveredLabels": {"__address__": "a:9100"},
                "labels": {"instance": "a:9100", "job": "node"},
                "scrapePool": "node",
                "scrapeUrl": "http://a:9100/metrics",
                "globalUrl": "http://a:9100/metrics",
                "lastError": "",
                "lastScrape": "2023-11-14T22:13:20Z",
                "lastScrapeDuration": 0.25,
                "health": "up",
                "scrapeInterval": "15s",
                "scrapeTimeout": "10s",
            }
        ],
        "droppedTargets": [{"discoveredLabels": {"__address__": "x:1"}, "scrapePool": "node"}],
        "droppedTargetCounts": {"node": 1},
    }


async def test_targets_are_filtered_by_state_and_pool(api: Api, target: ActiveTarget) -> None:
    api.views.targets = [target]
    assert (await api.data("/api/v1/targets", state="dropped"))["activeTargets"] == []
    other = await api.data("/api/v1/targets", scrapePool="other")
    assert other["activeTargets"] == []
    # As in Prometheus, of all pools.
    assert other["droppedTargetCounts"] == {"node": 0}


async def test_metadata_of_targets_is_found_by_metric_and_target(api: Api, target: ActiveTarget) -> None:
    api.views.targets = [target]
    api.views.metas = [MetricMeta("up", MetricType.GAUGE, "h"), MetricMeta("x", MetricType.COUNTER, "c")]
    data = await api.data("/api/v1/targets/metadata", metric="x", match_target='{job="node"}')
    assert data == [{"target": {"instance": "a:9100", "job": "node"}, "type": "counter", "help": "c", "unit": ""}]
    assert await api.data("/api/v1/targets/metadata", metric="none") == []


async def test_rules_are_shown_with_their_alerts(api: Api) -> None:
    api.views.group_rows = groups()
    data = await api.data("/api/v1/rules")
    assert [group["name"] for group in data["groups"]] == ["g", "h"]
    record, alert = data["groups"][0]["rules"]
    assert (record["type"], record["name"], record["query"], record["labels"]) == (
        "recording",
        "r",
        "up",
        {"team": "a"},
    )
    assert (alert["state"], alert["duration"], alert["annotations"]) == ("firing", 60, {"summary": "hot: {{ $value }}"})
    assert alert["alerts"] == [
        {
            "labels": {"alertname": "Hot", "instance": "a", "severity": "warning"},
            "annotations": {"summary": "hot: 41.5"},
            "state": "firing",
            "activeAt": "2023-11-14T22:13:20Z",
            "value": "4.15e+01",
        }
    ]
    assert data["groups"][0]["interval"] == 30


@pytest.mark.parametrize(
    ("params", "names"),
    [
        ({"type": "alert"}, ["Hot"]),
        ({"type": "record"}, ["r", "s"]),
        ({"rule_name[]": "s"}, ["s"]),
        ({"rule_group[]": "h"}, ["s"]),
        ({"file[]": "other.yml"}, []),
        ({"match[]": '{team="a"}'}, ["r"]),
    ],
)
async def test_rules_are_filtered(api: Api, params: dict, names: list[str]) -> None:
    api.views.group_rows = groups()
    data = await api.data("/api/v1/rules", **params)
    assert [rule["name"] for group in data["groups"] for rule in group["rules"]] == names


async def test_a_group_without_rules_is_not_shown(api: Api) -> None:
    first, second = groups()
    api.views.group_rows = [replace(first, rules=()), second]
    assert [group["name"] for group in (await api.data("/api/v1/rules"))["groups"]] == ["h"]


async def test_rule_groups_are_paged_by_token(api: Api) -> None:
    api.views.group_rows = groups()
    first = await api.data("/api/v1/rules", group_limit="1")
    assert [group["name"] for group in first["groups"]] == ["g"]
    second = await api.data("/api/v1/rules", group_limit="1", group_next_token=first["groupNextToken"])
    assert [group["name"] for group in second["groups"]] == ["h"]
    assert "groupNextToken" not in second


async def test_a_page_of_rule_groups_may_begin_at_one_that_its_filters_leave_out(api: Api) -> None:
    api.views.group_rows = groups()
    token = (await api.data("/api/v1/rules", group_limit="1"))["groupNextToken"]
    data = await api.data("/api/v1/rules", **{"group_limit": "1", "group_next_token": token, "rule_group[]": "g"})
    assert data == {"groups": []}


@pytest.mark.parametrize(("limit", "problem"), [("x", "invalid syntax"), ("9" * 20, "value out of range")])
async def test_a_group_limit_that_is_none_is_400(api: Api, limit: str, problem: str) -> None:
    said = f'group_limit needs to be a valid number: strconv.ParseInt: parsing "{limit}": {problem}'
    assert await api.error("/api/v1/rules", 400, group_limit=limit) == (
        "bad_data",
        f'invalid parameter "group_limit": {said}',
    )


async def test_alerts_may_be_left_out_of_rules(api: Api) -> None:
    api.views.group_rows = groups()
    data = await api.data("/api/v1/rules", exclude_alerts="true", type="alert")
    assert data["groups"][0]["rules"][0]["alerts"] is None


async def test_an_unknown_rule_type_is_400(api: Api) -> None:
    assert await api.error("/api/v1/rules", 400, type="x") == (
        "bad_data",
        'invalid parameter "type": not supported value "x"',
    )


async def test_alerts_are_listed_by_themselves(api: Api) -> None:
    api.views.group_rows = groups()
    assert [alert["labels"]["alertname"] for alert in (await api.data("/api/v1/alerts"))["alerts"]] == ["Hot"]


async def test_buildinfo_has_the_keys_grafana_expects_and_no_others(api: Api) -> None:
    data = await api.data("/api/v1/status/buildinfo")
    assert set(data) == {"version", "revision", "branch", "buildUser", "buildDate", "goVersion"}
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", data["version"])


async def test_status_pages_answer(api: Api) -> None:
    assert (await api.data("/api/v1/status/runtimeinfo"))["storageRetention"] == "15d"
    assert await api.data("/api/v1/status/flags") == {"web.listen-address": ":9090"}
    assert await api.data("/api/v1/status/config") == {"yaml": "global: {}\n"}
    assert await api.data("/api/v1/scrape_pools") == {"scrapePools": []}
    assert (await api.data("/api/v1/alertmanagers"))["activeAlertmanagers"] == []


async def test_exemplars_are_an_empty_list_also_for_times_in_milliseconds(api: Api) -> None:
    assert await api.data("/api/v1/query_exemplars", query="up", start="1700000000000", end="1700000001000") == []


async def test_exemplars_of_a_malformed_query_are_400(api: Api) -> None:
    assert await api.error("/api/v1/query_exemplars", 400, query="up{") == (
        "bad_data",
        "1:4: parse error: unexpected end of input inside braces",
    )


async def test_cardinality_is_counted_by_name_label_and_pair(api: Api) -> None:
    for i in range(3):
        api.store.add(Labels.of(__name__="up", instance=f"host-{i}", job="node"), api.clock.now(), 1.0)
    api.store.add(Labels.of(__name__="temp", job="node"), api.clock.now(), 1.0)
    data = await api.data("/api/v1/status/tsdb", limit="2")
    assert data["headStats"]["numSeries"] == 4
    assert data["headStats"]["numLabelPairs"] == 6
    assert data["seriesCountByMetricName"] == [{"name": "up", "value": 3}, {"name": "temp", "value": 1}]
    assert data["labelValueCountByLabelName"] == [{"name": "instance", "value": 3}, {"name": "__name__", "value": 2}]
    assert data["seriesCountByLabelValuePair"][0] == {"name": "job=node", "value": 4}
    assert data["memoryInBytesByLabelName"][0] == {"name": "instance", "value": 18}
    for limit, text in (("x", "limit must be a positive number"), ("10001", "limit must not exceed 10000")):
        assert await api.error("/api/v1/status/tsdb", 400, limit=limit) == ("bad_data", text)


async def test_features_say_what_is_on(api: Api) -> None:
    data = await api.data("/api/v1/features")
    assert data["promql_functions"]["rate"]
    assert not data["promql_functions"]["double_exponential_smoothing"]
    assert data["templating_functions"]["humanize"]


async def test_fleet_and_panel_are_shown(api: Api) -> None:
    api.views.fleet_rows = [FleetRow("ab" * 16, "pi:9100", "http://pi:9100", "late", "no answer", lag_ms=1500)]
    api.views.lamp_rows = [Lamp("alerts", 17, "blink_slow", True, True, "1 firing: Hot")]
    (agent,) = (await api.data("/api/v1/bramble/fleet"))["agents"]
    assert (agent["state"], agent["reason"], agent["lagSeconds"]) == ("late", "no answer", 1.5)
    assert await api.data("/api/v1/bramble/panel") == {
        "lamps": [
            {
                "name": "alerts",
                "pin": 17,
                "pattern": "blink_slow",
                "on": True,
                "mock": True,
                "reason": "1 firing: Hot",
            }
        ]
    }


async def test_health_and_readiness(api: Api) -> None:
    client = await api.client()
    assert (await client.get("/-/healthy")).status == 200
    assert (await client.get("/-/ready")).status == 200
    api.not_ready = "starting"
    response = await client.get("/-/ready")
    assert (response.status, await response.text()) == (503, "Service Unavailable: starting\n")
    assert (await client.get("/-/healthy")).status == 200


async def test_an_unknown_path_is_404_and_a_wrong_method_405(api: Api) -> None:
    client = await api.client()
    for path in ("/api/v1/nothing", "/api/v1/queryy?query=1", "/metricsx", "/x"):
        assert (await client.get(path, allow_redirects=False)).status == 404
    assert (await client.post("/api/v1/targets")).status == 405


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        ("//-/ready", "/-/ready"),
        ("//api/v1//query?query=1%2B1&time=4", "/api/v1/query?query=1%2B1&time=4"),
        ("/metrics/", "/metrics"),
    ],
)
async def test_a_path_with_slashes_too_many_leads_to_the_plain_one(api: Api, path: str, plain: str) -> None:
    client = await api.client()
    response = await client.session.get(
        URL(f"http://{client.host}:{client.port}{path}", encoded=True), allow_redirects=False
    )
    assert (response.status, response.headers["Location"]) == (308, plain)


async def test_a_path_that_begins_with_two_slashes_leads_to_no_other_host(api: Api) -> None:
    client = await api.client()
    response = await client.session.get(URL(f"http://{client.host}:{client.port}//example.com//", encoded=True))
    assert response.status == 404


async def test_requests_are_counted_by_handler_and_code(api: Api) -> None:
    await api.error("/api/v1/query", 400, query="(")
    text = await (await (await api.client()).get("/metrics")).text()
    assert 'prometheus_http_requests_total{code="400",handler="/api/v1/query"} 1.0' in text


async def test_queries_are_timed_and_their_number_shown(api: Api) -> None:
    await api.data("/api/v1/query", query="1")
    text = await (await (await api.client()).get("/metrics")).text()
    assert 'prometheus_engine_query_duration_seconds_count{slice="inner_eval"} 1.0' in text
    assert "prometheus_engine_queries 0.0" in text
    assert "prometheus_engine_queries_concurrent_max 20.0" in text


async def test_a_route_prefix_moves_everything_and_the_root_leads_there(api: Api) -> None:
    api.web(route_prefix="/bramble/")
    client = await api.client()
    assert (await client.get("/bramble/api/v1/status/buildinfo")).status == 200
    assert (await client.get("/api/v1/status/buildinfo")).status == 404
    response = await client.get("/", allow_redirects=False)
    assert (response.status, response.headers["Location"]) == (302, "/bramble/")


async def test_other_origins_may_read_by_default_and_be_limited(api: Api) -> None:
    client = await api.client()
    response = await client.get("/api/v1/labels", headers={"Origin": "http://x"})
    assert response.headers["Access-Control-Allow-Origin"] == "http://x"
    assert "Origin" in response.headers.getall("Vary")
    preflight = await client.options("/api/v1/query", headers={"Origin": "http://x"})
    assert preflight.status == 204


async def test_an_origin_that_is_not_allowed_gets_no_permission(api: Api) -> None:
    api.web(cors_origin="https?://(good|fine)\\.example")
    client = await api.client()
    evil = await client.get("/api/v1/labels", headers={"Origin": "http://evil"})
    assert "Access-Control-Allow-Origin" not in evil.headers
    good = await client.get("/api/v1/labels", headers={"Origin": "http://good.example"})
    assert good.headers["Access-Control-Allow-Origin"] == "http://good.example"


async def test_other_methods_are_405_and_options_name_those_there_are(api: Api) -> None:
    client = await api.client()
    wrong = await client.delete("/api/v1/labels")
    assert (wrong.status, await wrong.text()) == (405, "Method Not Allowed\n")
    assert wrong.headers["Allow"] == "GET, OPTIONS, POST"
    asked = await client.options("/-/ready")
    assert (asked.status, asked.headers["Allow"]) == (200, "GET, HEAD, OPTIONS")


async def test_notifications_are_listed_and_followed_until_they_are_taken_back(api: Api) -> None:
    notices = Notices(most_subscribers=1)
    notices.add("It rains.", Millis(T0))
    api.configure(notices=notices)
    note = {"text": "It rains.", "date": "2023-11-14T22:13:20Z", "active": True}
    assert await api.data("/api/v1/notifications") == [note]
    client = await api.client()
    live = await client.get("/api/v1/notifications/live")
    assert live.content_type == "text/event-stream"
    assert json.loads((await live.content.readuntil(b"\n\n")).removeprefix(b"data: ")) == note
    assert (await client.get("/api/v1/notifications/live")).status == 204
    notices.remove("It rains.")
    assert json.loads((await live.content.readuntil(b"\n\n")).removeprefix(b"data: ")) == {**note, "active": False}
    assert await api.data("/api/v1/notifications") == []
    live.close()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:9090/metrics", "https://mon.example/metrics"),
        ("http://localhost:9100/metrics?x=1", "http://mon.example:9100/metrics?x=1"),
        ("http://[::1]/metrics", "http://mon.example/metrics"),
        ("http://pi:9100/metrics", "http://pi:9100/metrics"),
    ],
)
def test_a_target_on_this_machine_has_the_url_that_others_reach(url: str, expected: str) -> None:
    assert global_url(url, "https://mon.example/hub", 9090) == expected


def test_the_rules_of_the_fixture_parse() -> None:
    assert parse("temp > 40")
