"""Flags as Prometheus has them."""

from pathlib import Path

import pytest

from hub.cli import build_parser, options
from hub.options import Options


def parsed(*argv: str) -> Options:
    return options(vars(build_parser().parse_args(argv)))


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(argv)
    assert caught.value.code == 2
    return capsys.readouterr().err


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_flags_the_defaults_are_prometheus_s() -> None:
    assert parsed() == Options()
    assert parsed().as_flags()["web.listen-address"] == "0.0.0.0:9090"
    assert parsed().as_flags()["storage.tsdb.retention.time"] == "15d"


def test_a_prometheus_yml_in_the_directory_is_used(empty_directory: Path) -> None:
    (empty_directory / "prometheus.yml").touch()
    assert parsed().config_file == Path("prometheus.yml")


@pytest.mark.parametrize(
    ("text", "listen"),
    [(":9091", ("", 9091)), ("pi:1", ("pi", 1)), ("[::1]:2", ("::1", 2)), ("127.0.0.1:0", None), ("pi", None)],
)
def test_listen_addresses(text: str, listen: tuple[str, int] | None, capsys: pytest.CaptureFixture[str]) -> None:
    flag = f"--web.listen-address={text}"
    if listen is None:
        assert "--web.listen-address: expected" in refused(capsys, flag)
    else:
        assert parsed(flag).listen == listen


def test_values_may_follow_a_blank_or_an_equals_sign() -> None:
    assert parsed("--query.timeout", "30s").query_timeout_ms == parsed("--query.timeout=30s").query_timeout_ms == 30_000


def test_mdns_can_be_switched_off() -> None:
    assert parsed("--no-discovery.mdns").mdns is False


def test_features_add_up_and_unknown_ones_are_kept_for_the_log() -> None:
    assert parsed("--enable-feature=a,b", "--enable-feature=c").features == {"a", "b", "c"}


def test_retention_of_zero_means_for_ever() -> None:
    assert parsed("--storage.tsdb.retention.time=0").retention_ms == 0
    assert parsed("--storage.tsdb.retention.time=200y").retention_ms == 200 * 365 * 86_400_000


@pytest.mark.parametrize(
    ("given", "prefix"),
    [
        ([], "/"),
        (["--web.external-url=http://pi/bramble/"], "/bramble"),
        (["--web.external-url=http://pi/bramble/", "--web.route-prefix=/"], "/"),
        (["--web.route-prefix=x/"], "/x"),
    ],
)
def test_the_route_prefix_follows_the_external_url_unless_given(given: list[str], prefix: str) -> None:
    assert parsed(*given).prefix == prefix


def test_the_external_url_has_no_slash_at_its_end_so_that_paths_can_follow() -> None:
    assert parsed("--web.external-url=http://pi/bramble/").url(1) == "http://pi/bramble"
    assert parsed().url(9090).endswith(":9090")


@pytest.mark.parametrize(
    "flag",
    ["--web.enable-otlp-receiver", "--query.max-samples=-1", "--query.timeout=0s",
     "--web.external-url=pi", "--config.file=", "--log.level=loud", "--web.listen", "--storage.tsdb.path="],
)  # fmt: skip
def test_what_is_not_honoured_is_not_accepted(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, flag).startswith("bramble-hub: error: ")


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("bramble-hub, version ")
