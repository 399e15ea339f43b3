"""edge/config.py: what edge.yml accepts."""

from pathlib import Path

import pytest

from common.config import load
from common.errors import ConfigError
from edge.config import Address, EdgeConfig, StorageConfig, parse_address, storage_path


def test_an_empty_file_gives_the_defaults() -> None:
    assert load(EdgeConfig, "", "edge.yml") == EdgeConfig()


def test_every_section_can_be_set() -> None:
    config = load(
        EdgeConfig,
        "sample_interval: 1s\ncommit_interval: 5s\nweb: {listen_address: 'localhost:9200', max_requests: 3}\n"
        "storage: {path: /srv/x, retention_time: 2d, retention_size: 64MB}\npaths: {procfs: /host/proc}\n"
        "discovery: {mdns: false, interfaces: [eth0]}\nlog_level: debug\n",
        "edge.yml",
    )
    assert (config.sample_interval, config.commit_interval) == (1000, 5000)
    assert config.web.listen_address == Address("localhost", 9200)
    assert config.storage == StorageConfig(Path("/srv/x"), 2 * 86_400_000, 64 * 2**20)  # type: ignore[arg-type]
    assert config.paths.flags()["path.procfs"] == "/host/proc"
    assert config.discovery.interfaces == ("eth0",)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":9100", Address("", 9100)),
        ("0.0.0.0:0", Address("0.0.0.0", 0)),
        ("pi.local:80", Address("pi.local", 80)),
        ("[::1]:9100", Address("::1", 9100)),
        ("[::]:9100", Address("::", 9100)),
    ],
)
def test_addresses_are_read_as_prometheus_reads_them(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize("text", ["", "9100", ":", ":http", ":65536", "a b:1", "::1:9100", "[x]:1", ":-1", ":９100"])
def test_bad_addresses_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="expected an address like :9100"):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sample_intervall: 1s", "edge.yml:1:1: sample_intervall: unknown key, did you mean sample_interval?"),
        ("sample_interval: 5", "edge.yml:1:18: sample_interval: expected a duration like 30s or 1h30m, got"),
        ("sample_interval: 1ms", "edge.yml:1:18: sample_interval: expected 100ms or more"),
        ("commit_interval: 10ms", "edge.yml:1:18: commit_interval: expected 1s or more"),
        ("web:\n  listen_address: x", "edge.yml:2:19: web.listen_address: expected an address like :9100, localhost"),
        ("web: {max_requests: -1}", "edge.yml:1:21: web.max_requests: expected 0 or more, got -1"),
        ("web: {telemetry_path: x}", 'edge.yml:1:23: web.telemetry_path: expected a path like /metrics, got "x"'),
        ("web: {telemetry_path: /-/ready}", "edge.yml:1:23: web.telemetry_path: expected a path like /metrics"),
        ("storage: {retention_size: 10}", "edge.yml:1:27: storage.retention_size: expected at least 1MB, got 10"),
        ("log_level: loud", 'edge.yml:1:12: log_level: expected one of debug, info, warn, error, got "loud"'),
    ],
)
def test_errors_name_line_column_and_key(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(EdgeConfig, text, "edge.yml")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("path", "environ", "expected"),
    [
        (Path("/a"), {"STATE_DIRECTORY": "/b"}, "/a"),
        (None, {"STATE_DIRECTORY": "/b:/c"}, "/b"),
        (None, {}, "edge-data"),
    ],
)
def test_storage_lies_where_told_else_where_systemd_says(path: Path | None, environ: dict, expected: str) -> None:
    assert storage_path(StorageConfig(path), environ) == Path(expected)
