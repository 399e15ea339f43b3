"""The page: complete, escaped, self-contained."""

import base64
import hashlib
import re
from html.parser import HTMLParser

from common.labels import Labels
from common.panel.service import Lamp
from common.rules.loader import load_rules
from common.rules.model import Alert, AlertState, GroupStatus, RuleStatus
from common.sample import Millis
from hub.api.page import MAX_ROWS, POLICY, STYLE, ago
from hub.api.state import ActiveTarget, FleetRow
from tests.hub.api.conftest import T0, Api

EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>&amp;"


TEXT_TAGS = {"h1", "h2", "span", "p", "ul", "li", "b"}
TABLE_TAGS = {"table", "thead", "tbody", "tr", "th", "td"}
KNOWN_TAGS = {"html", "head", "meta", "title", "style", "body", "form", "input", "button"} | TEXT_TAGS | TABLE_TAGS


class Tags(HTMLParser):
    """All tags and attributes of a page, and its visible text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


async def page(api: Api, **params: str) -> tuple[Tags, dict[str, str]]:
    response = await (await api.client()).get("/", params=params)
    assert response.status == 200
    assert response.content_type == "text/html"
    parsed = Tags()
    parsed.feed(await response.text())
    return parsed, dict(response.headers)


def fill_with(api: Api, text: str) -> None:
    group = load_rules("groups: [{name: g, rules: [{alert: A, expr: up}]}]", "f")[0]
    alert = Alert(Labels.of(alertname=text, x=text), Labels.of(summary=text), AlertState.FIRING, 1.0, Millis(T0))
    api.views.group_rows = [GroupStatus(group, (RuleStatus(group.rules[0], "err", text, Millis(T0), 0, (alert,)),))]
    api.views.fleet_rows = [FleetRow("ab", text, text, text, text)]
    api.views.lamp_rows = [Lamp(text, 17, "blink_slow", True, True, text)]
    api.store.add(Labels.of(__name__="x", evil=text), api.clock.now(), 1.0)


async def test_nothing_stored_or_typed_becomes_markup(api: Api, target: ActiveTarget) -> None:
    fill_with(api, EVIL)
    for expr in ("x", EVIL, f'"{EVIL}'):
        parsed, _ = await page(api, expr=expr)
        assert {tag for tag, _ in parsed.tags} <= KNOWN_TAGS
        for tag, attributes in parsed.tags:
            assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    assert EVIL in "".join(parsed.words)


async def test_the_page_needs_no_script_and_no_other_resource(api: Api) -> None:
    parsed, headers = await page(api)
    for _, attributes in parsed.tags:
        assert not {"src", "srcset", "href"} & set(attributes)
    assert "url(" not in STYLE
    assert "@import" not in STYLE
    policy = headers["Content-Security-Policy"]
    assert policy == POLICY
    assert policy.startswith("default-src 'none'")
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy


async def test_fleet_alerts_lamps_and_targets_are_shown(api: Api, target: ActiveTarget) -> None:
    fill_with(api, "hello")
    api.views.targets = [target]
    words = " ".join((await page(api))[0].words)
    for expected in ("hello", "GPIO17, mock", "blink_slow", "http://a:9100/metrics", "firing"):
        assert expected in words


async def test_an_empty_hub_says_what_is_missing(api: Api) -> None:
    words = " ".join((await page(api))[0].words)
    for expected in ("no agent found yet", "no alert is pending or firing", "no indicator", "no scrape_configs"):
        assert expected in words


async def test_the_query_box_shows_a_table_and_keeps_the_query(api: Api) -> None:
    api.fill()
    api.store.add(Labels.of(__name__="now_there"), api.clock.now(), 2.5)
    parsed, _ = await page(api, expr="now_there")
    assert "2.5" in parsed.words
    assert ("input", "now_there") in [(tag, attributes.get("value")) for tag, attributes in parsed.tags]


async def test_a_wrong_query_shows_its_position(api: Api) -> None:
    words = " ".join((await page(api, expr="up{"))[0].words)
    assert "1:4: parse error" in words


async def test_scalars_strings_and_range_vectors_are_shown_too(api: Api) -> None:
    api.store.add(Labels.of(__name__="x"), api.clock.now(), 2.5)
    for expr, expected in (("1+1", "2"), ('"text"', "text"), ("x[1m]", "2.5 @1700000000.000")):
        assert expected in (await page(api, expr=expr))[0].words


async def test_long_results_are_cut_and_counted(api: Api) -> None:
    for i in range(MAX_ROWS + 7):
        api.store.add(Labels.of(__name__="x", i=str(i)), api.clock.now(), 1.0)
    words = " ".join((await page(api, expr="x"))[0].words)
    assert f"{MAX_ROWS} of {MAX_ROWS + 7} series shown" in words


async def test_it_fits_a_phone(api: Api) -> None:
    parsed, _ = await page(api)
    viewports = [a["content"] for tag, a in parsed.tags if tag == "meta" and a.get("name") == "viewport"]
    assert viewports == ["width=device-width, initial-scale=1"]
    assert re.search(r"@media\(max-width:40rem\)", STYLE)


def test_spans_are_written_for_people() -> None:
    assert [ago(x) for x in (None, 3_000, 600_000, 3 * 3_600_000, 86_400_000 * 5)] == [
        "–",
        "3 s",
        "10 min",
        "3 h",
        "5 d",
    ]


async def test_links_to_a_query_in_the_page_of_prometheus_lead_to_the_query_here(api: Api) -> None:
    api.fill()
    api.web(route_prefix="/mon")
    client = await api.client()
    for path in ("/mon/graph", "/mon/query"):
        response = await client.get(path, params={"g0.expr": 'up{a="&b"}', "g0.tab": "0"}, allow_redirects=False)
        assert (response.status, response.headers["Location"]) == (302, "./?expr=up%7Ba%3D%22%26b%22%7D")
        response = await client.get(path, allow_redirects=False)
        assert response.headers["Location"] == "./"
