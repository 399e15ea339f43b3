"""Loading everything before anything is touched, and which changes a running hub follows."""

import socket
from pathlib import Path

import pytest

from common.config import load
from common.errors import ConfigError
from hub.app import load_all, needs_restart
from hub.config import HubConfig
from hub.listen import StartError, bind
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


def test_rules_take_the_evaluation_interval(tmp_path: Path) -> None:
    (tmp_path / "p.yml").write_text("global: {evaluation_interval: 7s}\nrule_files: [r.yml]\n")
    (tmp_path / "r.yml").write_text("groups: [{name: g, rules: [{record: x, expr: '1'}]}]\n")
    (group,) = load_all(Options(config_file=tmp_path / "p.yml")).groups
    assert group.interval == 7_000


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


def test_without_a_host_both_families_are_listened_on() -> None:
    with bind("", 0) as server, socket.create_connection(("127.0.0.1", server.getsockname()[1])):
        pass


def test_a_port_in_use_says_what_to_do() -> None:
    with bind("127.0.0.1", 0) as server, pytest.raises(StartError, match=r"it is in use.*--web.listen-address=:PORT"):
        bind("127.0.0.1", server.getsockname()[1])


def test_a_foreign_address_says_what_to_do() -> None:
    with pytest.raises(StartError, match="not an address of this machine"):
        bind("192.0.2.1", 9090)


def test_an_unknown_host_says_what_to_do() -> None:
    with pytest.raises(StartError, match="no such host"):
        bind("no-such-host.invalid", 9090)
