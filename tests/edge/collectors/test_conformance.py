"""node_exporter's own fixtures: what it prints for them, we print too, series by series."""

import argparse
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from common.clock import SystemClock
from common.exposition.encode import Encoder
from edge.collectors.registry import add_flags, build_runner

pytestmark = pytest.mark.conformance

NOT_COMPARED = {
    "node_scrape_collector_duration_seconds",
    "node_exporter_build_info",
    "node_textfile_mtime_seconds",
    "node_time_seconds",
    "node_time_zone_offset_seconds",
    "node_network_receive_bytes_total",
    "node_network_receive_packets_total",
    "node_network_transmit_bytes_total",
    "node_network_transmit_packets_total",
}
MISSING: dict[str, str] = {
    'node_network_receive_nohandler_total{device="lo"}': "a counter of the machine it ran on, in no file",
}
"""Series of expected.txt that cannot come from the fixtures, each with its reason."""

Series = tuple[str, tuple[tuple[str, str], ...]]


def parse(text: str) -> tuple[dict[Series, float], dict[str, tuple[str, str]]]:
    """Series -> value and family -> (type, help) of a page; empty labels are no labels."""
    values: dict[Series, float] = {}
    families: dict[str, tuple[str, str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in NOT_COMPARED or sample.name.startswith(("go_", "process_", "promhttp_")):
                continue
            labels = tuple(sorted((k, v) for k, v in sample.labels.items() if v))
            values[sample.name, labels] = sample.value
            families[sample.name] = (family.type, family.documentation)
    return values, families


def shown(series: Series) -> str:
    name, labels = series
    return name + "{" + ",".join(f'{k}="{v}"' for k, v in labels) + "}"


@pytest.fixture(scope="module")
def fixtures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    archive = Path(__file__).resolve().parents[4] / "shared/node_exporter/fixtures.tar.gz"
    if not archive.exists():
        pytest.skip("no conformance data: ../shared is not beside this checkout")
    target = tmp_path_factory.mktemp("node_exporter")
    # Not tarfile: its `filter` came with Python 3.11.4, and without one 3.12 warns.
    subprocess.run(["tar", "-xzf", archive, "-C", target], check=True)
    return target


@pytest.fixture
def page(fixtures: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Our page for the fixtures, with the flags that come with them and the collectors of expected.txt."""
    monkeypatch.chdir(fixtures)
    wanted = [
        sample.labels["collector"]
        for family in text_string_to_metric_families((shared / "node_exporter/expected.txt").read_text("utf-8"))
        for sample in family.samples
        if sample.name == "node_scrape_collector_success"
    ]
    given = [line.strip() for line in (fixtures / "FLAGS").read_text("ascii").split("\n") if "--" in line[:6]]
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_flags(parser)
    choice = ["--collector.disable-defaults", *(f"--collector.{name}" for name in wanted)]
    namespace = parser.parse_args([*given, *choice])
    runner = build_runner(vars(namespace), SystemClock())
    results = runner.collect()
    runner.close()
    readings = [reading for result in results for reading in result.samples]
    return Encoder().encode(readings).decode("utf-8")


@pytest.mark.parametrize("name", ["expected.txt", "expected-aarch64.txt"])
def test_every_series_of_node_exporter_is_there_with_its_value_type_and_help(
    name: str, page: str, shared: Path
) -> None:
    expected, families = parse((shared / "node_exporter" / name).read_text("utf-8"))
    got, our_families = parse(page)
    total: Counter[str] = Counter()
    right: Counter[str] = Counter()
    wrong: list[str] = []
    for series, value in expected.items():
        group = "_".join(series[0].split("_")[:2])
        total[group] += 1
        if series in got and (got[series] == value or got[series] != got[series]):
            right[group] += 1
        elif shown(series) not in MISSING:
            wrong.append(f"{shown(series)}: expected {value}, got {got.get(series, 'nothing')}")
    for group in sorted(total):
        print(f"{group:<28} {right[group]:>4} of {total[group]:>4}")
    print(f"{'all':<28} {sum(right.values()):>4} of {sum(total.values()):>4}")
    assert not wrong, "\n".join(wrong[:200])
    assert {n: f for n, f in our_families.items() if n in families} == {
        n: f for n, f in families.items() if n in our_families
    }
    assert len(MISSING) <= 5


@pytest.mark.parametrize(
    "name",
    [
        "client_side_timestamp",
        "different_metric_types",
        "glob_extra_dimension",
        "histogram",
        "histogram_extra_dimension",
        "inconsistent_metrics",
        "metrics_merge_different_help",
        "metrics_merge_empty_help",
        "metrics_merge_no_help",
        "metrics_merge_same_help",
        "no_metric_files",
        "nonexistent_path",
        "summary",
        "summary_extra_dimension",
        "two_metric_files",
    ],
)
def test_text_files_are_read_as_node_exporter_reads_them(
    name: str, fixtures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fixtures / "collector")
    pattern = "fixtures/textfile/*_extra_dimension" if name == "glob_extra_dimension" else f"fixtures/textfile/{name}"
    runner = build_runner(
        {"collector.disable-defaults": True, "collector.textfile": True, "collector.textfile.directory": [pattern]},
        SystemClock(),
    )
    readings = runner.collect()[0].samples
    runner.close()
    expected, families = parse((fixtures / f"collector/fixtures/textfile/{name}.out").read_text("utf-8"))
    got, our_families = parse(Encoder().encode(readings).decode("utf-8"))
    # Upstream's library invents a count and a sum of 0 for a summary whose file gives none.
    invented = {s for s, value in expected.items() if value == 0 and s[0].endswith(("_sum", "_count")) and s not in got}
    assert got == {series: value for series, value in expected.items() if series not in invented}
    assert our_families == families
