"""The OpenAPI document and the application agree, both ways, and answers are as it says."""

from typing import Any

import pytest
import yaml

from common.labels import Labels
from common.panel.service import Lamp
from common.sample import MetricMeta, MetricType, Millis
from hub.api.app import PLAIN_ROUTES, ROUTES
from hub.api.openapi import document
from hub.api.state import ActiveTarget, DroppedTarget, FleetRow
from hub.notices import Notices
from tests.hub.api.conftest import T0, Api
from tests.hub.api.test_views import groups

jsonschema_rs: Any = pytest.importorskip("jsonschema_rs", reason="jsonschema-rs is not installed (no 32-bit wheels)")

TIME = str(T0 / 1000 + 60)
SPAN = {"start": str(T0 / 1000), "end": TIME, "step": "15"}


def operations(spec: dict[str, Any]) -> set[tuple[str, str]]:
    """(method, path) of every operation."""
    return {(method.upper(), path) for path, found in spec["paths"].items() for method in found}


def test_every_route_is_described_and_every_described_route_is_there() -> None:
    routes = {(method, path) for path, methods, _ in ROUTES for method in methods}
    assert operations(document()) == routes | {("GET", path) for path, _ in PLAIN_ROUTES}


def test_names_of_operations_are_unique_and_nothing_of_the_shorthand_is_left() -> None:
    spec = document()
    names = [each["operationId"] for found in spec["paths"].values() for each in found.values()]
    assert len(names) == len(set(names))
    left: list[str] = []

    def visit(node: Any) -> None:
        if isinstance(node, dict):
            left.extend(key for key in node if str(key).startswith("x-"))
            list(map(visit, node.values()))
        elif isinstance(node, list):
            list(map(visit, node))

    visit(spec)
    assert left == []


def test_every_reference_leads_somewhere_and_every_component_is_used() -> None:
    spec = document()
    text = yaml.safe_dump(spec)
    for kind, components in spec["components"].items():
        for name in components:
            if kind == "responses" and name == "499":
                continue
            assert f"#/components/{kind}/{name}" in text
    assert "REF" not in text
    for reference in {line.split("'")[1] for line in text.splitlines() if "$ref: '" in line}:
        _, _, kind, name = reference.split("/")
        assert name in spec["components"][kind]


def validator(spec: dict[str, Any], path: str, method: str, status: int, kind: str) -> Any:
    """Of the body of this response."""
    response = spec["paths"][path][method]["responses"][str(status)]
    if "$ref" in response:
        response = spec["components"]["responses"][response["$ref"].rpartition("/")[2]]
    schema = response["content"][kind]["schema"]
    return jsonschema_rs.Draft202012Validator({**schema, "components": spec["components"]}, validate_formats=True)


ANSWERS: tuple[tuple[str, int, dict[str, str]], ...] = (
    ("/api/v1/query", 200, {"query": "up", "time": TIME, "stats": "all"}),
    ("/api/v1/query", 200, {"query": "up[1m]", "time": TIME}),
    ("/api/v1/query", 200, {"query": "1"}),
    ("/api/v1/query", 200, {"query": '"text"'}),
    ("/api/v1/query", 200, {"query": "rate(up[1m])", "time": TIME, "limit": "1"}),
    ("/api/v1/query", 400, {"query": "sum("}),
    ("/api/v1/query", 422, {"query": 'label_replace(up, "a", "", "", "(")', "time": TIME}),
    ("/api/v1/query", 503, {"query": "up", "timeout": "0"}),
    ("/api/v1/query_range", 200, {"query": "up", "stats": "all", **SPAN}),
    ("/api/v1/query_range", 400, {"query": "up"}),
    ("/api/v1/query_exemplars", 200, {"query": "up", "start": "1700000000000", "end": "1700000000000"}),
    ("/api/v1/format_query", 200, {"query": "sum(up)"}),
    ("/api/v1/parse_query", 200, {"query": "sum by (a) (up offset 1m)"}),
    ("/api/v1/labels", 200, {"limit": "1"}),
    ("/api/v1/series", 200, {"match[]": "up"}),
    ("/api/v1/series", 400, {}),
    ("/api/v1/metadata", 200, {}),
    ("/api/v1/targets", 200, {}),
    ("/api/v1/targets", 200, {"state": "active"}),
    ("/api/v1/targets/metadata", 200, {}),
    ("/api/v1/scrape_pools", 200, {}),
    ("/api/v1/alertmanagers", 200, {}),
    ("/api/v1/rules", 200, {}),
    ("/api/v1/rules", 200, {"group_limit": "1"}),
    ("/api/v1/alerts", 200, {}),
    ("/api/v1/status/buildinfo", 200, {}),
    ("/api/v1/status/runtimeinfo", 200, {}),
    ("/api/v1/status/flags", 200, {}),
    ("/api/v1/status/config", 200, {}),
    ("/api/v1/status/tsdb", 200, {}),
    ("/api/v1/status/walreplay", 200, {}),
    ("/api/v1/notifications", 200, {}),
    ("/api/v1/features", 200, {}),
    ("/api/v1/bramble/fleet", 200, {}),
    ("/api/v1/bramble/panel", 200, {}),
    ("/version", 200, {}),
)


@pytest.fixture
def full(api: Api, target: ActiveTarget) -> Api:
    """An API with something in each of its views."""
    api.fill()
    api.views.targets = [target]
    api.views.drops = [DroppedTarget({"__address__": "x:1"}, "node")]
    api.views.metas = [MetricMeta("up", MetricType.GAUGE, "Whether it answers.")]
    api.views.group_rows = groups()
    api.views.lamp_rows = [Lamp("alerts", 17, "blink_slow", True, True, "1 firing: Hot")]
    api.views.fleet_rows = [
        FleetRow("s", "a:9100", "http://a:9100", "online", labels=Labels.of(a="b"), last_sample=Millis(T0), lag_ms=5),
        FleetRow("t", "b:9100", "http://b:9100", "lost"),
    ]
    notices = Notices()
    notices.add("It rains.", Millis(T0))
    api.configure(notices=notices)
    return api


@pytest.mark.parametrize(("path", "status", "parameters"), ANSWERS)
async def test_answers_are_as_described(full: Api, path: str, status: int, parameters: dict[str, str]) -> None:
    body = await full.get(path, status, **parameters)
    validator(document(), path, "get", status, "application/json").validate(body)


async def test_what_is_not_described_is_found(full: Api) -> None:
    body = await full.get("/api/v1/alerts")
    body["data"]["more"] = 1
    with pytest.raises(jsonschema_rs.ValidationError, match="more"):
        validator(document(), "/api/v1/alerts", "get", 200, "application/json").validate(body)


async def test_the_document_is_served_with_prefix_and_version(api: Api) -> None:
    api.web(route_prefix="/bramble/")
    client = await api.client()
    response = await client.get("/bramble/api/v1/openapi.yaml")
    assert response.content_type == "application/yaml"
    assert yaml.safe_load(await response.text()) == document("/bramble")
    newer = await client.get("/bramble/api/v1/openapi.yaml", params={"openapi_version": "3.2"})
    assert yaml.safe_load(await newer.text()) == document("/bramble", "3.2.0")
