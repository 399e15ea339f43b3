"""Loading everything before anything is touched, and which changes a running hub follows."""

from pathlib import Path

import pytest

from common.config import load
from common.errors import ConfigError
from hub.app import load_all, needs_restart
from hub.config import HubConfig
from hub.options import Options


def test_errors_of_all_rule_files_come_together(tmp_path: Path) -> None:
    (tmp_path / "prometheus.yml").write_text("rule_files: ['*.rules']\n")
    for name in ("a", "b"):
        (tmp_path / f"{name}.rules").write_text("groups: [{name: g, rules: [{record: x, expr: '1 +'}]}]\n")
    with pytest.raises(ConfigError) as caught:
        load_all(Options(config_file=tmp_path / "prometheus.yml"))
    assert "a.rules" in str(caught.value)
    assert "b.rules" in str(caught.value)


def test_a_bad_origin_pattern_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match=r"--web.cors.origin: error parsing regexp"):
        load_all(Options(cors_origin="("))


def test_rules_take_the_evaluation_interval_and_the_query_offset(tmp_path: Path) -> None:
    config = "global: {evaluation_interval: 7s, rule_query_offset: 2s}\nrule_files: [r.yml]\n"
    (tmp_path / "p.yml").write_text(config)
    rules = "rules: [{record: x, expr: '1'}]"
    (tmp_path / "r.yml").write_text(f"groups: [{{name: g, {rules}}}, {{name: h, query_offset: 0s, {rules}}}]\n")
    groups = load_all(Options(config_file=tmp_path / "p.yml")).groups
    assert [(group.interval, group.query_offset) for group in groups] == [(7_000, 2_000), (7_000, 0)]


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("scrape_configs: [{job_name: a}]", []),
        ("bramble: {agents: [pi]}", []),
        ("bramble: {pull_interval: 1s}", ["bramble.pull_interval"]),
        ("global: {external_labels: {a: b}}", ["global.external_labels"]),
    ],
)
def test_what_a_running_hub_does_not_follow_is_named(text: str, keys: list[str]) -> None:
    assert needs_restart(HubConfig(), load(HubConfig, text, "x")) == keys
