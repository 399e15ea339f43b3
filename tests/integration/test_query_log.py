"""The query log of a started hub: queries and rules, rotated by moving the file away, off after a reload."""

import json
import signal
from pathlib import Path

import pytest

from tests.integration.programs import Start, hub, wait_for

pytestmark = pytest.mark.integration

CONFIG = "global: {evaluation_interval: 1s, query_log_file: q.log}\nrule_files: [rules.yml]\n"
RULES = "groups: [{name: g, rules: [{record: r, expr: vector(7)}]}]\n"


def lines(path: Path) -> list[dict[str, object]]:
    """What the log says."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_queries_and_rules_are_logged_and_the_file_may_be_moved_away(start: Start, tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(RULES)
    program = hub(start, tmp_path, "--no-discovery.mdns", config=CONFIG).wait_ready()
    log = tmp_path / "q.log"
    program.client.instant("1 + 2")
    (asked,) = [each for each in lines(log) if "httpRequest" in each]
    assert asked["params"]["query"] == "1 + 2"  # type: ignore[index]
    wait_for(lambda: [each for each in lines(log) if each.get("ruleGroup")], "the rule's query")
    assert "prometheus_engine_query_log_enabled 1.0" in program.client.get("/metrics").decode()
    log.rename(tmp_path / "q.log.1")
    for form in ({"query": "3", "start": "0", "end": "60", "step": "15"},) * 2:
        program.client.api("/api/v1/query_range", form)
    ranged = wait_for(
        lambda: [e for e in lines(log) if "query_range" in str(e.get("httpRequest"))][1:], "both range queries"
    )
    assert ranged[0]["params"]["step"] == 15  # type: ignore[index]
    (tmp_path / "prometheus.yml").write_text("global: {}\n")
    program.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "query_log_enabled 0.0" in program.client.get("/metrics").decode(), "the log to be off")
    before = log.read_text()
    program.client.instant("4")
    assert log.read_text() == before


def test_a_log_that_cannot_be_opened_is_said_at_the_start(start: Start, tmp_path: Path) -> None:
    program = hub(start, tmp_path, "--no-discovery.mdns", config="global: {query_log_file: missing/q.log}\n")
    assert program.process.wait(60) == 1
    assert "query_log_file" in program.output()
