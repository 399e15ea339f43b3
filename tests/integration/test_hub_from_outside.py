"""A hub as an outside runner starts and drives it: Prometheus's flags, remote write, queries, admin and lifecycle."""

import json
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from common.labels import Labels
from common.promql.promqltest import Runner
from common.promql.promqltest_script import pieces
from common.remote import snappy
from common.remote.read import encode_result, encode_series
from tests.integration.programs import Running, Start, hub, wait_for
from tests.integration.test_promql_over_http import Door
from tests.promql.test_conformance import is_native, scopes

pytestmark = pytest.mark.integration

FEATURES = (
    "auto-gomaxprocs,auto-gomemlimit,auto-reload-config,concurrent-rule-eval,created-timestamp-zero-ingestion,"
    "delayed-compaction,exemplar-storage,expand-external-labels,extra-scrape-metrics,memory-snapshot-on-shutdown,"
    "metadata-wal-records,native-histograms,no-default-scrape-port,old-ui,otlp-deltatocumulative,"
    "otlp-native-delta-ingestion,promql-at-modifier,promql-binop-fill-modifiers,promql-delayed-name-removal,"
    "promql-duration-expr,promql-experimental-functions,promql-extended-range-selectors,promql-negative-offset,"
    "promql-per-step-stats,remote-write-receiver,st-storage,st-synthesis,type-and-unit-labels,use-uncached-io"
)
"""Names that Prometheus 2 and 3 know or knew."""

FLAGS = (
    "--storage.tsdb.retention.time=200y",
    "--web.enable-remote-write-receiver",
    "--no-discovery.mdns",
    f"--enable-feature={FEATURES}",
)
MINUTE = 60_000


def post(program: Running, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    """Status and body of the answer to a POST."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(program.url + path, data=body, headers=named, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as err:
        with err:
            return err.code, err.read()


def write(program: Running, minutes: int, **labels: str) -> int:
    """Send one sample a minute from 1970 on, its value the minute; the status."""
    times = np.arange(minutes, dtype=np.int64) * MINUTE
    series = encode_series(Labels.of(labels), times, np.arange(minutes, dtype=np.float64))
    body = snappy.compress(encode_result([series]))
    kind = {"Content_Type": "application/x-protobuf", "Content_Encoding": "snappy"}
    return post(program, "/api/v1/write", body, **kind)[0]


def values(program: Running, query: str, minute: float) -> list[float]:
    """Values of an instant query."""
    return [point.value for point in program.client.instant(query, minute * 60)]


def test_days_of_1970_in_one_request_are_answered_at_once_and_survive_a_kill(start: Start, tmp_path: Path) -> None:
    program = hub(start, tmp_path, *FLAGS).wait_ready()
    assert write(program, 3 * 1440, __name__="m", i="1") == 204
    assert values(program, "m", 3000) == [3000]
    assert write(program, 10, __name__="m", i="2") == 204
    assert values(program, "sum(m)", 9) == [18]
    program.kill()
    again = hub(start, tmp_path, *FLAGS).wait_ready()
    assert values(again, "m", 3000) == [3000]
    assert values(again, "sum(m)", 9) == [18]
    assert again.stop() == 0


@pytest.mark.conformance
@pytest.mark.parametrize("name", ["at_modifier", "functions", "staleness"])
def test_cases_of_prometheus_pass_against_a_started_hub(name: str, start: Start, tmp_path: Path, shared: Path) -> None:
    path = shared / "promql" / "testdata" / f"{name}.test"
    text = next(text for _, text in scopes(path) if not is_native(text) and "@st" not in text)
    door = Door(hub(start, tmp_path, *FLAGS).wait_ready().port)
    try:
        for _, commands in pieces(text):
            Runner(door).run(commands)  # type: ignore[arg-type]
    finally:
        door.close()


def test_fractional_and_negative_times_are_answered(start: Start, tmp_path: Path) -> None:
    program = hub(start, tmp_path, *FLAGS).wait_ready()
    assert write(program, 2, __name__="m") == 204
    form = {"query": "m", "start": "-60.5", "end": "0.5", "step": "0.25"}
    (series,) = program.client.api("/api/v1/query_range", form)["result"]
    assert series["values"][0] == [0, "0"]
    assert series["values"][-1] == [0.5, "0"]
    assert len(series["values"]) == 3


def test_what_is_wrong_with_a_query_is_said_with_a_status_and_annotations_beside_the_data(
    start: Start, tmp_path: Path
) -> None:
    program = hub(start, tmp_path, *FLAGS).wait_ready()
    assert write(program, 5, __name__="m") == 204
    status, body = post(program, "/api/v1/query?query=sum(")
    assert status == 400
    assert json.loads(body)["error"].startswith('invalid parameter "query": 1:5: parse error: ')
    status, body = post(
        program, "/api/v1/query?time=60&query=" + urllib.parse.quote('label_replace(m, "a", "", "", "(")')
    )
    assert status == 422
    assert json.loads(body)["errorType"] == "execution"
    answer = json.loads(program.client.get("/api/v1/query", {"query": "quantile(2, m)", "time": "60"}))
    assert answer["data"]["result"][0]["value"] == [60, "+Inf"]
    assert "quantile value should be between 0 and 1" in answer["warnings"][0]
    answer = json.loads(program.client.get("/api/v1/query", {"query": "rate(m[5m])", "time": "240"}))
    assert "might not be a counter" in answer["infos"][0]


def test_series_are_deleted_and_a_snapshot_from_before_has_them(start: Start, tmp_path: Path) -> None:
    flags = (*FLAGS, "--web.enable-admin-api")
    program = hub(start, tmp_path / "hub", *flags).wait_ready()
    assert write(program, 5, __name__="m") == 204
    status, body = post(program, "/api/v1/admin/tsdb/snapshot")
    assert status == 200
    assert post(program, "/api/v1/admin/tsdb/delete_series?match[]=m&start=60&end=300")[0] == 204
    assert values(program, "count_over_time(m[10m])", 5) == [1]
    assert post(program, "/api/v1/admin/tsdb/clean_tombstones")[0] == 204
    assert post(program, "/api/v1/admin/bramble/drop_caches")[0] == 204
    assert values(program, "count_over_time(m[10m])", 5) == [1]
    copy = tmp_path / "hub" / "data" / "snapshots" / json.loads(body)["data"]["name"]
    other = tmp_path / "other"
    other.mkdir()
    copy.rename(other / "data")
    restored = hub(start, other, *flags).wait_ready()
    assert values(restored, "count_over_time(m[10m])", 5) == [5]


def test_reload_takes_effect_or_says_why_not_and_quit_ends_in_order(start: Start, tmp_path: Path) -> None:
    program = hub(start, tmp_path, "--web.enable-lifecycle", "--no-discovery.mdns").wait_ready()
    file = tmp_path / "prometheus.yml"
    file.write_text("global: {scrape_interval: soon}\n")
    status, body = post(program, "/-/reload")
    assert status == 500
    assert b"scrape_interval" in body
    assert "soon" not in program.client.api("/api/v1/status/config")["yaml"]
    assert program.client.api("/api/v1/notifications")[0]["text"] == "Configuration reload has failed."
    file.write_text("global: {scrape_interval: 7s}\n")
    assert post(program, "/-/reload")[0] == 200
    assert program.client.api("/api/v1/notifications") == []
    assert "scrape_interval: 7s" in program.client.api("/api/v1/status/config")["yaml"]
    assert post(program, "/-/quit")[0] == 200
    assert wait_for(lambda: program.process.poll() is not None, "its end")
    assert program.process.returncode == 0
