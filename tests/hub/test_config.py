"""The hub's configuration: what it takes, and how it says what it doesn't take."""

from pathlib import Path

import pytest
import yaml

from common.config import load
from common.errors import ConfigError
from hub.config import HubConfig, dump, join_address, load_config, parse_address, rule_paths

BAD = sorted((Path(__file__).parent / "config_bad").glob("*.yml"))

FULL = """
global:
  scrape_interval: 15s
  external_labels: {site: attic}
rule_files: ["rules/*.yml"]
scrape_configs:
  - job_name: node
    honor_labels: true
    scrape_timeout: 5s
    params: {"collect[]": [cpu, meminfo]}
    basic_auth: {username: pi, password: hunter2}
    body_size_limit: 1MB
    static_configs:
      - targets: ["pi1:9100", "[::1]:9100"]
        labels: {room: kitchen}
bramble:
  agents: [pi2, "pi3:9200"]
  pull_interval: 5s
  pull_timeout: 2s
  discovery: false
"""


def test_a_prometheus_yml_with_our_key_is_read() -> None:
    config = load(HubConfig, FULL, "prometheus.yml")
    job = config.scrape_configs[0]
    assert config.interval(job) == 15_000
    assert config.timeout(job) == 5_000
    assert job.params == {"collect[]": ("cpu", "meminfo")}
    assert job.static_configs[0].targets == ("pi1:9100", "[::1]:9100")
    assert config.limit(job, "body_size_limit") == 1 << 20
    assert config.bramble.agents == ("pi2:9100", "pi3:9200")
    assert not config.bramble.discovery


def test_no_file_means_the_defaults() -> None:
    config = load_config(None)
    assert config.bramble.pull_interval == 15_000
    assert config.bramble.discovery


def test_the_empty_global_section_of_a_test_server_is_taken() -> None:
    assert load(HubConfig, "global: {}\n", "x") == load_config(None)


def test_a_job_timeout_never_exceeds_its_interval() -> None:
    config = load(HubConfig, "scrape_configs: [{job_name: a, scrape_interval: 2s}]", "x")
    assert config.timeout(config.scrape_configs[0]) == 2_000


@pytest.mark.parametrize("path", BAD, ids=lambda p: p.stem)
def test_a_bad_file_is_refused_with_place_and_reason(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    expected = path.read_text("utf-8").splitlines()[0].removeprefix("# ")
    with pytest.raises(ConfigError) as caught:
        load_config(Path(path.name))
    assert str(caught.value) == expected


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"prometheus.yml: cannot read the file: No such file"):
        load_config(tmp_path / "prometheus.yml")


def test_the_dump_masks_secrets_and_reads_back() -> None:
    config = load(HubConfig, FULL, "x")
    text = dump(config)
    assert "hunter2" not in text
    again = load(HubConfig, text, "dump")
    assert dump(again) == text
    assert yaml.safe_load(text)["bramble"]["pull_interval"] == "5s"


def test_rule_files_are_found_by_wildcards_from_the_files_directory(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    for name in ("b.yml", "a.yml", "c.txt"):
        (tmp_path / "rules" / name).touch()
    config = load(HubConfig, "rule_files: ['rules/*.yml', 'rules/a.yml', 'none/*.yml']", "x")
    assert [p.name for p in rule_paths(config, tmp_path)] == ["a.yml", "b.yml"]


def test_a_named_rule_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone.yml: rule file not found"):
        rule_paths(load(HubConfig, "rule_files: [gone.yml]", "x"), tmp_path)


@pytest.mark.parametrize(
    ("text", "host", "port"), [("pi", "pi", None), ("pi:9100", "pi", 9100), ("[fe80::1%eth0]:1", "fe80::1%eth0", 1)]
)
def test_addresses_have_a_host_and_perhaps_a_port(text: str, host: str, port: int | None) -> None:
    assert parse_address(text) == (host, port)


@pytest.mark.parametrize("text", ["", ":9100", "a b", "u@h:1", "h:", "::1", "h:0", "h:70000", "http://h"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a"):
        parse_address(text)


def test_an_ipv6_address_is_joined_in_brackets() -> None:
    assert join_address("::1", 9100) == "[::1]:9100"
