"""The real promtool asks a running hub that scrapes itself and evaluates rules."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.programs import ROOT, Running, Start, hub, needs, programs, wait_for
from tests.ports import free_port

pytestmark = pytest.mark.integration

CONFIG = """
global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}
rule_files: [rules.yml]
scrape_configs:
- job_name: hub
  static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""
RULES = """
groups:
- name: g
  rules:
  - record: job:up:sum
    expr: sum by (job) (up)
  - alert: Always
    expr: up == 1
    labels: {severity: info}
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A hub that has scraped itself and evaluated its rules."""
    folder = tmp_path_factory.mktemp("hub")
    (folder / "rules.yml").write_text(RULES)
    port = free_port()
    with programs() as start:
        program = hub(start, folder, "--no-discovery.mdns", port=port, config=CONFIG.format(port=port)).wait_ready()
        wait_for(lambda: "Always" in promtool(program, "instant", 'ALERTS{alertstate="firing"}'), "the rules' series")
        yield program


def promtool(program: Running, kind: str, *args: str) -> str:
    """What `promtool query KIND` prints."""
    done = subprocess.run(
        [needs("promtool"), "query", kind, *(args[:-1] if kind != "instant" else ()), program.url, args[-1]],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_instant_queries_are_answered(running: Running) -> None:
    assert promtool(running, "instant", "up").startswith(f'up{{instance="127.0.0.1:{running.port}", job="hub"}} => 1 @')
    assert promtool(running, "instant", "1 + 1").startswith("scalar: 2 @")


def test_recorded_series_are_there(running: Running) -> None:
    assert promtool(running, "instant", "job:up:sum").startswith('job:up:sum{job="hub"} => 1 @')


def test_range_queries_are_answered(running: Running) -> None:
    out = promtool(running, "range", "--step=1s", "up")
    assert f'up{{instance="127.0.0.1:{running.port}", job="hub"}} =>' in out


def test_series_are_listed(running: Running) -> None:
    done = subprocess.run(
        [needs("promtool"), "query", "series", "--match=up", running.url], capture_output=True, text=True, timeout=60
    )
    assert f'{{__name__="up", instance="127.0.0.1:{running.port}", job="hub"}}' in done.stdout, done.stderr


def test_label_values_are_listed(running: Running) -> None:
    done = subprocess.run(
        [needs("promtool"), "query", "labels", running.url, "job"], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "hub\n", done.stderr


def test_a_malformed_query_is_an_error_with_its_position(running: Running) -> None:
    done = subprocess.run(
        [needs("promtool"), "query", "instant", running.url, "up{"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert 'bad_data: invalid parameter "query": 1:4: parse error: unexpected end of input inside braces' in done.stderr


def test_promtool_finds_no_fault_with_the_hubs_own_metrics(running: Running) -> None:
    done = subprocess.run(
        [needs("promtool"), "check", "metrics"],
        input=running.client.get("/metrics").decode(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    complaints = [line for line in done.stderr.splitlines() if line.startswith(("bramble_", "error"))]
    assert complaints == []


def test_promtool_accepts_the_shipped_rules() -> None:
    done = subprocess.run(
        [needs("promtool"), "check", "rules", str(ROOT / "hub" / "examples" / "rules.yml")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_real_prometheus_federates_the_hub(running: Running, start: Start, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
        "scrape_configs:\n"
        "- job_name: federate\n"
        "  honor_labels: true\n"
        "  metrics_path: /federate\n"
        "  params: {'match[]': ['{job=\"hub\"}']}\n"
        f"  static_configs: [{{targets: ['127.0.0.1:{running.port}']}}]\n"
    )
    command = [needs("prometheus"), "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
    upstream = start([*command, f"--web.listen-address=127.0.0.1:{port}"], tmp_path / "prometheus.log", port)
    upstream.wait_ready()
    expected = running.client.api("/api/v1/series", {"match[]": '{job="hub"}'})
    found = wait_for(lambda: upstream.client.api("/api/v1/series", {"match[]": '{job="hub"}'}), "federated series")
    assert len(found) >= 0.9 * len(expected)
    assert upstream.client.instant('up{job="hub"}')[0].value == 1
