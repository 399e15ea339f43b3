"""edge/cli.py: flags, files, and which of them wins."""

import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import ConfigError
from edge.cli import build_parser, main, settings
from edge.config import Address, EdgeConfig, LogLevel


def given(*flags: str) -> dict[str, object]:
    return vars(build_parser().parse_args(flags))


def test_no_flags_and_no_file_give_the_defaults() -> None:
    assert settings(given()) == EdgeConfig()


def test_every_flag_reaches_its_setting() -> None:
    config = settings(
        given(
            "--web.listen-address=[::1]:9200",
            "--web.max-requests=5",
            "--web.telemetry-path=/m",
            "--web.disable-exporter-metrics",
            "--storage.path=/srv/edge",
            "--storage.retention.time=7d",
            "--storage.retention.size=64MB",
            "--sample.interval=1s",
            "--commit.interval=10s",
            "--no-discovery.mdns",
            "--log.level=debug",
        )
    )
    assert config.web.listen_address == Address("::1", 9200)
    assert config.web.max_requests == 5
    assert (config.web.telemetry_path, config.web.exporter_metrics) == ("/m", False)
    assert config.storage.path == Path("/srv/edge")
    assert (config.storage.retention_time, config.storage.retention_size) == (7 * 86_400_000, 64 << 20)
    assert (config.sample_interval, config.commit_interval) == (1000, 10_000)
    assert not config.discovery.mdns
    assert config.log_level is LogLevel.DEBUG


def test_flags_win_over_the_file_and_leave_its_other_keys_alone(tmp_path: Path) -> None:
    file = tmp_path / "edge.yml"
    file.write_text("sample_interval: 2s\nweb: {listen_address: ':9300', max_requests: 7}\ndiscovery: {mdns: false}\n")
    config = settings(given(f"--config.file={file}", "--web.listen-address=:9400", "--discovery.mdns"))
    assert config.sample_interval == 2000
    assert (config.web.listen_address.port, config.web.max_requests) == (9400, 7)
    assert config.discovery.mdns


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--nope", "unrecognized arguments: --nope, try --help"),
        ("--web.listen-address=9100", "argument --web.listen-address: expected an address like :9100, localhost:9100"),
        ("--storage.retention.time=fast", 'expected a duration like 30s or 1h30m, got "fast"'),
        ("--storage.retention.size=big", 'expected a size like 512MB or 2GB, got "big"'),
        ("--web.max-requests=-1", 'expected a whole number, 0 or more, got "-1"'),
        ("--log.level=loud", 'expected one of debug, info, warn, error, got "loud"'),
        ("--storage.path=", "expected a path, got nothing"),
    ],
)
def test_a_bad_flag_is_one_line_and_exit_2(flag: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([flag])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("bramble-edge: error: ")
    assert error.count("\n") == 1


def test_a_flag_out_of_range_is_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--sample.interval=1ms"]) == 2
    assert "sample_interval: expected 100ms or more" in capsys.readouterr().err


def test_a_bad_file_is_located_and_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "edge.yml"
    file.write_text("sample_interval: fast\n")
    assert main([f"--config.file={file}", f"--storage.path={tmp_path / 'log'}"]) == 2
    assert f'{file}:1:18: sample_interval: expected a duration like 30s or 1h30m, got "fast"' in capsys.readouterr().err
    assert not (tmp_path / "log").exists()


def test_a_missing_file_is_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"--config.file={tmp_path / 'none.yml'}"]) == 2
    assert "cannot read the file: No such file or directory" in capsys.readouterr().err


def test_conflicting_collector_flags_are_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--collector.netdev.device-exclude=a", "--collector.netdev.device-include=b"]) == 2
    assert "mutually exclusive" in capsys.readouterr().err


def test_help_begins_with_one_line_of_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert capsys.readouterr().out.startswith("usage: bramble-edge [<flags>]\n\n")


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_end_well(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([flag])
    assert caught.value.code == 0
    assert "bramble-edge" in capsys.readouterr().out


def test_the_settings_of_the_file_reach_the_flags_of_paths(tmp_path: Path) -> None:
    file = tmp_path / "edge.yml"
    file.write_text("paths: {procfs: /host/proc}\n")
    flags = given(f"--config.file={file}", "--path.sysfs=/host/sys")
    with pytest.raises(KeyError):
        flags["path.procfs"]
    merged = {**settings(flags).paths.flags(), **flags}
    assert (merged["path.procfs"], merged["path.sysfs"], merged["path.rootfs"]) == ("/host/proc", "/host/sys", "/")


def test_impossible_flags_together_are_an_error_that_names_them() -> None:
    with pytest.raises(ConfigError, match="retention_size: expected at least 1MB, got 10 bytes"):
        settings(given("--storage.retention.size=10"))


def test_the_program_loads_neither_numpy_nor_optional_parts() -> None:
    code = (
        "import edge.cli, edge.agent, edge.announce, sys; "
        "print([m for m in ('numpy', 'gpiozero', 'paho', 'orjson', 're2') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_path_flags_win_over_the_file_everywhere(tmp_path: Path) -> None:
    (tmp_path / "edge.yml").write_text("paths: {procfs: /a/proc, sysfs: /a/sys}\n")
    config = settings({"config.file": tmp_path / "edge.yml", "path.procfs": "/b/proc"})
    assert (config.paths.procfs, config.paths.sysfs) == ("/b/proc", "/a/sys")
