"""The hub and a real Prometheus, with the same samples and rules, give the same answers to the same requests.

`PROMETHEUS` may name another Prometheus than the one on the path. What version 2 answers otherwise is compared with
version 3 only.
"""

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from common.exposition.parse import Format, Series, parse
from common.labels import Labels
from common.remote import snappy
from common.remote.read import encode_result, encode_series
from tests.integration.programs import Running, hub, needs, programs, wait_for
from tests.ports import free_port

pytestmark = pytest.mark.integration

RULES = """
groups:
- name: g1
  interval: 1s
  rules:
  - {record: "job:m:sum", expr: sum by (job) (m), labels: {a: b}}
  - {alert: Always, expr: vector(1), labels: {severity: page}, annotations: {summary: "hi {{ $value }}"}}
  - {alert: Pending, expr: vector(2), for: 1h}
  - {alert: Never, expr: vector(1) > 2}
- name: g2
  rules: [{record: bad, expr: m * on (x) group_left (y) m}]
"""
CONFIG = """
global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s, external_labels: {site: x}}
rule_files: [rules.yml]
scrape_configs:
- job_name: self
  static_configs: [{targets: ["127.0.0.1:PORT"]}]
- job_name: down
  static_configs: [{targets: ["127.0.0.1:1"]}]
- job_name: dropped
  static_configs: [{targets: ["127.0.0.1:2"]}]
  relabel_configs: [{action: drop, source_labels: [__address__], regex: ".*"}]
- job_name: empty
"""
FLAGS = ("--web.enable-remote-write-receiver", "--web.enable-admin-api", "--web.enable-lifecycle")
STEP = 15


@dataclass(frozen=True)
class Reply:
    """What a server answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def kind(self) -> str:
        return self.headers.get("Content-Type", "").partition(";")[0]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Pair:
    """Both servers; samples end at `end` (seconds)."""

    peer: Running
    ours: Running
    version: int
    end: int

    def ask(self, method: str, path: str, form: str, **headers: str) -> tuple[Reply, Reply]:
        text = _times(form, self.end)
        first, second = (request(each.url, method, path, text, headers) for each in (self.peer, self.ours))
        return first, second


def _times(form: str, end: int) -> str:
    """`END`, and `END-seconds`, as numbers."""
    pairs = []
    for name, value in urllib.parse.parse_qsl(form, keep_blank_values=True):
        if value.startswith("END"):
            value = str(end - int(value[4:] or 0))
        pairs.append((name, value))
    return urllib.parse.urlencode(pairs)


def request(url: str, method: str, path: str, form: str, headers: dict[str, str]) -> Reply:
    """One request; a POST has its form as body."""
    posted = method in ("POST", "PUT")
    kind = {"Content-Type": "application/x-www-form-urlencoded"} if posted else {}
    made = urllib.request.Request(
        url + path + ("" if posted or not form else f"?{form}"),
        data=form.encode() if posted else None,
        headers={**kind, **{name.replace("_", "-"): value for name, value in headers.items()}},
        method=method,
    )
    try:
        with urllib.request.urlopen(made, timeout=60) as answer:
            return Reply(answer.status, dict(answer.headers), answer.read())
    except urllib.error.HTTPError as err:
        with err:
            return Reply(err.code, dict(err.headers), err.read())


def samples(end: int) -> bytes:
    """A body of remote write: gauges, a counter, a histogram, and values that are hard to print, for 50 minutes."""
    times = np.arange(end - 200 * STEP, end, STEP, dtype=np.int64) * 1000
    count = np.arange(len(times), dtype=np.float64)
    series = [
        (Labels.of(__name__="m", job=job, instance=str(i)), count * (i + 1) + 0.5) for i in range(3) for job in "ab"
    ]
    series += [
        (Labels.of(__name__="c_total", job="a"), count * 3),
        (Labels.of(__name__="odd"), np.where(count % 3 == 0, np.nan, np.inf)),
        (Labels.of(__name__="big", text='é😀"\\\n'), count * 1e20),
        (Labels.of(__name__="small"), count * 1e-9),
        (Labels.of({"__name__": "utf.8_x", "é.1": "v", "a_b": "w"}), count),
        (Labels.of(__name__="negative"), np.where(count % 7 == 0, -np.inf, -0.0)),
        *((Labels.of(__name__="h_bucket", le=le, job="a"), count * n) for n, le in enumerate(("0.1", "1", "+Inf"), 1)),
    ]
    return bytes(snappy.compress(encode_result([encode_series(labels, times, v) for labels, v in sorted(series)])))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Both servers with the same samples, configuration and rules."""
    folder = tmp_path_factory.mktemp("pair")
    program = os.environ.get("PROMETHEUS") or needs("prometheus")
    port = free_port()
    with programs() as start:
        for name in ("ours", "peer"):
            (folder / name).mkdir()
            (folder / name / "rules.yml").write_text(RULES)
        ours_port = free_port()
        ours = hub(
            start, folder / "ours", "--no-discovery.mdns", *FLAGS, port=ours_port,
            config=CONFIG.replace("PORT", str(ours_port)),
        )  # fmt: skip
        (folder / "peer" / "prometheus.yml").write_text(CONFIG.replace("PORT", str(port)))
        command = [program, f"--config.file={folder / 'peer' / 'prometheus.yml'}", *FLAGS]
        command += [f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={folder / 'peer' / 'data'}"]
        peer = start(command, folder / "peer.log", port)
        end = 0
        for each in (ours, peer):
            each.wait_ready()
        end = int(peer.client.instant("time()")[0].value) // STEP * STEP
        headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy"}
        for each in (ours, peer):
            made = urllib.request.Request(f"{each.url}/api/v1/write", samples(end), headers, method="POST")
            with urllib.request.urlopen(made, timeout=60) as answer:
                assert answer.status in (200, 204)
            wait_for(lambda e=each: e.client.instant('ALERTS{alertstate="firing"}'), "the rules' series", 60)  # type: ignore[misc]
            wait_for(lambda e=each: e.client.instant('up{job="self"}'), "a scrape", 60)  # type: ignore[misc]
            wait_for(lambda e=each: "down" in str(e.client.api("/api/v1/targets")), "a failed scrape", 60)  # type: ignore[misc]
        version = int(peer.client.api("/api/v1/status/buildinfo")["version"].partition(".")[0])
        yield Pair(peer, ours, version, end)


SPAN = "start=END-600&end=END-15&step=60"
EXPRESSIONS = (
    "m", 'm{job="a"}', "sum(m)", "sum by (job) (m)", "1+1", '"text"', "odd", "negative", "big", "small", "time()",
    "m + on (instance, job) m", "vector(NaN)", "scalar(nope)", "-m", "absent(nope{a='b'})", "m > bool 5", "1/0", "0/0",
    'label_replace(m, "a", "", "", "(")', "quantile(0.5, m)", "m @ 1", "pi()", "1 + 'a'",
    "sum(", "foo bar", "m{", "unknown_func(m)", "", "m + on (job) m", "{}", "sum(m) by", "nope", "m == 1 unless m",
    "1e21", "-1e-7", "vector(1e21)",
)  # fmt: skip
RANGES = (
    "rate(c_total[5m])",
    "m[1m]",
    "max_over_time(m[2m])",
    "sum(rate(c_total[5m])) * 2",
    "predict_linear(m[5m], 60)",
    "quantile(1234567, m)",
)
TIMES = (
    "NaN", "Inf", "-Inf", "1e300", "-1e300", "-1", "0", "1.5", "1e10", "1e400", "x", "9999999999999", "0x1p4", "1_000",
    "2023-11-15T00:00:00Z", "2023-11-15T00:00:00+01:00", "2023-11-15", "9223372036.854775", "+nan", " 1", "-1.5",
    "-292273086-05-16T16:47:06Z", "292277025-08-18T07:12:54.999999999Z", "9223372036854775", "1.0005",
    "0000-02-29T00:00:00Z",
)  # fmt: skip
SPANS = ("0", "-1", "5m", "x", "1e300", "1h30m", "-5m", "1m1h", "9223372037", "300y", "0x5")
RULE_FORMS = (
    "type=x", "group_limit=0", "group_limit=x", "group_limit=99999999999999999999", "group_next_token=x",
    "exclude_alerts=x", "match[]=m{",
)  # fmt: skip
SELECTORS = (
    "m",
    "{}",
    '{job=""}',
    '{__name__=~".*"}',
    "m{",
    'nope{a="b"}',
    "1",
    "sum(m)",
    "m[1m]",
    "{a=~'('}",
    "m{job=~'.+',}",
)


def rows() -> Iterator[tuple[str, str, str, int]]:
    """Method, path, form and the first major version of Prometheus that answers the same."""
    for text in EXPRESSIONS:
        query = urllib.parse.quote(text)
        yield "GET", "/api/v1/query", f"query={query}&time=END-100", 2
        yield "POST", "/api/v1/query_range", f"query={query}&{SPAN}", 2
        yield "GET", "/api/v1/format_query", f"query={query}", 3
    for text in RANGES:
        query = urllib.parse.quote(text)
        yield "GET", "/api/v1/query", f"query={query}&time=END-100", 3
        yield "GET", "/api/v1/query_range", f"query={query}&{SPAN}", 3
    for text in map(urllib.parse.quote, TIMES):
        yield "GET", "/api/v1/query", f"query=time()&time={text}", 2
        yield "GET", "/api/v1/query_range", f"query=1&start={text}&end=END&step=60", 2
        yield "GET", "/api/v1/query_range", f"query=1&start={text}&end={text}&step=60", 2
        yield "GET", "/api/v1/series", f"match[]=m&start={text}&end=END", 2
        yield "GET", "/api/v1/query_exemplars", f"query=m&start={text}&end=END", 3
    for text in map(urllib.parse.quote, SPANS):
        yield "GET", "/api/v1/query_range", f"query=1&start=END-100&end=END-99&step={text}", 2
        yield "GET", "/api/v1/query", f"query=m&time=END-100&lookback_delta={text}", 3
    for end in (10_999, 11_000, 11_001):
        yield "GET", "/api/v1/query_range", f"query=1&start=0&end={end}&step=1", 2
    for limit in ("0", "1", "2", "-1", "x", "1.5", "99999999999999999999", "%2B2"):
        yield "GET", "/api/v1/query", f"query=m&time=END-100&limit={limit}", 3
        yield "GET", "/api/v1/query_range", f"query=m&{SPAN}&limit={limit}", 3
        yield "GET", "/api/v1/series", f"match[]=m&limit={limit}", 3
        yield "GET", "/api/v1/labels", f"match[]=m&limit={limit}", 3
    for text in map(urllib.parse.quote, SELECTORS):
        yield "GET", "/api/v1/labels", f"match[]={text}", 3 if text == "m" else 2
        yield "POST", "/api/v1/series", f"match[]={text}", 2
        yield "GET", "/api/v1/label/instance/values", f"match[]={text}&end=END-15", 3
    for name in ("nope", "a.b", "U__a_2e_b", "1", "%C3%A9", "%FF"):
        yield "GET", f"/api/v1/label/{name}/values", "", 3
    for form in RULE_FORMS:
        yield "GET", "/api/v1/rules", form, 3
    for path in ("/api/v1/series", "/api/v1/nope", "/api/v1/scrape_pools", "/api/v1/alertmanagers", "/federate"):
        yield "GET", path, "", 3
    yield "GET", "/api/v1/targets", "scrapePool=nope", 3
    yield "GET", "/api/v1/query", "query=1&time=1&x=" + "y" * 20_000, 2
    for limit in ("0", "-1", "x"):
        yield "GET", "/api/v1/status/tsdb", f"limit={limit}", 3
    for path in ("query", "labels", "metadata", "write", "admin/tsdb/snapshot"):
        yield "DELETE", f"/api/v1/{path}", "", 3
        yield "OPTIONS", f"/api/v1/{path}", "", 3
    yield "POST", "/api/v1/admin/tsdb/delete_series", "", 3
    yield "POST", "/api/v1/read", "x=y", 3


def test_answers_are_equal(pair: Pair) -> None:
    different = []
    for method, path, form, since in rows():
        if pair.version < since:
            continue
        theirs, own = pair.ask(method, path, form)
        same = (theirs.status, theirs.kind) == (own.status, own.kind)
        if same and theirs.kind == "application/json":
            said, told = theirs.json, own.json
            if pair.version < 3 and said["status"] == "error":
                # Words and positions changed since.
                said["error"] = told["error"]
            same = said == told and list(said) == list(told)
        elif same and path != "/api/v1/read":
            same = theirs.body == own.body
        if not same:
            shown = (f"  {each.status} {each.body[:300]!r}" for each in (theirs, own))
            different.append("\n".join((f"{method} {path}?{form}", *shown)))
    assert not different, f"{len(different)}:\n" + "\n".join(different)


def shape(value: Any, path: str = "") -> set[str]:
    """Every field's path with the kind of its value; lists and free-form maps count by their first entry."""
    if isinstance(value, dict):
        free = path.rpartition(".")[2] in FREE
        found = set()
        for key, item in list(value.items())[: 1 if free else None]:
            found |= shape(item, f"{path}.{'*' if free else key}")
        return found or {f"{path}: empty"}
    if isinstance(value, list):
        return set().union(*(shape(item, f"{path}[]") for item in value)) or {f"{path}: empty"}
    kind = "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
    return {f"{path}: {kind}"}


FREE = ("labels", "discoveredLabels", "annotations", "droppedTargetCounts", "metric")
SHAPES = (
    ("/api/v1/rules", "", 3),
    ("/api/v1/rules", "type=record", 3),
    ("/api/v1/rules", "type=alert&exclude_alerts=true", 3),
    ("/api/v1/rules", "rule_group[]=g1&rule_name[]=Always", 3),
    ("/api/v1/rules", "group_limit=1", 3),
    ("/api/v1/alerts", "", 2),
    ("/api/v1/targets", "", 3),
    ("/api/v1/targets", "state=dropped", 3),
    ("/api/v1/targets", "state=active&scrapePool=self", 3),
    ("/api/v1/targets/metadata", "limit=1", 2),
    ("/api/v1/status/tsdb", "", 2),
    ("/api/v1/status/runtimeinfo", "", 3),
    ("/api/v1/status/buildinfo", "", 2),
    ("/api/v1/status/walreplay", "", 2),
    ("/api/v1/status/config", "", 2),
    ("/api/v1/notifications", "", 3),
    ("/api/v1/query", "query=m&stats=all", 3),
    ("/api/v1/query_range", f"query=m&stats=all&{SPAN}", 3),
)


@pytest.mark.parametrize(("path", "form", "since"), SHAPES)
def test_answers_have_the_same_fields(pair: Pair, path: str, form: str, since: int) -> None:
    theirs, own = pair.ask("GET", path, form)
    assert own.status == 200
    if pair.version >= since:
        assert theirs.status == 200
        assert shape(theirs.json) == shape(own.json)


def test_federation_has_the_same_samples(pair: Pair) -> None:
    theirs, own = pair.ask("GET", "/federate", "match[]=m&match[]=odd")
    assert sorted(theirs.body.splitlines()) == sorted(own.body.splitlines())


@pytest.mark.parametrize(
    ("scheme", "name"),
    [
        ("allow-utf-8", "utf.8_x"),
        ("underscores", "utf_8_x"),
        ("dots", "utf_dot_8__x"),
        ("values", "U__utf_2e_8__x"),
        ("other", "utf_8_x"),
    ],
)
def test_federation_escapes_names_the_same_way(pair: Pair, scheme: str, name: str) -> None:
    accept = f"text/plain;version=0.0.4;escaping={scheme}"
    theirs, own = pair.ask("GET", "/federate", 'match[]={"utf.8_x"}', Accept=accept)
    found = federated(own.body)
    assert {labels.name for labels, _, _ in found} == {name}
    # Version 2 knows no such names.
    if pair.version >= 3:
        assert theirs.headers["Content-Type"] == own.headers["Content-Type"]
        assert federated(theirs.body) == found


def federated(body: bytes) -> list[tuple[Labels, float, int | None]]:
    """The samples of a text, whatever the order of labels."""
    return [
        (entry.labels, entry.value, entry.timestamp) for entry in parse(body, Format.TEXT) if isinstance(entry, Series)
    ]


def test_the_headers_that_browsers_and_grafana_look_at_are_the_same(pair: Pair) -> None:
    names = ("Access-Control-Allow-Origin", "Access-Control-Allow-Methods", "Access-Control-Allow-Headers")
    for method in ("GET", "OPTIONS"):
        theirs, own = pair.ask(method, "/api/v1/query", "query=1&time=1", Origin="http://grafana.example")
        found = [own.headers.get(name) for name in names]
        assert found[0] == "http://grafana.example"
        if pair.version >= 3:
            assert [theirs.headers.get(name) for name in names] == found
    theirs, own = pair.ask("GET", "/api/v1/query", f"query=m&{SPAN}", Accept_Encoding="gzip")
    assert theirs.headers["Content-Encoding"] == own.headers.get("Content-Encoding", "gzip") == "gzip"
