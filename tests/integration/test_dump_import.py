"""Samples out of Bramble into Prometheus's own tools and back, with the real promtool."""

import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from common.frames.model import SourceId
from common.labels import Labels
from common.sample import STALE_NAN, MetricMeta, MetricType, Millis
from common.testing import FakeClock
from common.testing_files import UnsyncedFiles
from common.tsdb.importing import OPTIONS
from common.tsdb.memory import read_all
from common.tsdb.store import Store
from tests.integration.programs import ROOT, Start, edge, hub, needs, wait_for

pytestmark = pytest.mark.integration

NOW = 1_700_000_000_000
EVER = Millis(-(2**62)), Millis(2**62)
Samples = dict[str, list[tuple[int, str]]]


def ctl(*args: str | Path) -> subprocess.CompletedProcess[str]:
    """bramblectl, which must succeed."""
    command = [sys.executable, "-m", "common.ctl.cli", "tsdb", *map(str, args)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def of_promtool(promtool: str, text: Path, blocks: Path) -> Samples:
    """What Prometheus has after a backfill of `text`, by its own dump."""
    (blocks / "wal").mkdir(parents=True)  # promtool dumps no directory without one
    for action in (["create-blocks-from", "openmetrics", str(text), str(blocks)], ["dump", str(blocks)]):
        done = subprocess.run([promtool, "tsdb", *action], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    found: Samples = {}
    for line in done.stdout.splitlines():
        series, value, at = line.rsplit(" ", 2)
        name = re.sub(r'__name__="([^"]*)"(, )?', "", series)
        metric = re.search(r'__name__="([^"]*)"', series)
        assert metric is not None
        found.setdefault(f"{metric[1]}{name if name != '{}' else ''}", []).append((int(at), repr(float(value))))
    return {series: sorted(row) for series, row in found.items()}


def of_store(store: Store) -> Samples:
    """The same of a store, without staleness markers."""
    rows = read_all(store.select([], *EVER))
    plain = {str(k): [(at, repr(value)) for at, value in row if value is not None] for k, row in rows.items()}
    return {series: row for series, row in plain.items() if row}


def test_promtool_takes_a_dump_and_has_the_same_samples(tmp_path: Path) -> None:
    promtool = needs("promtool")
    store = Store.open(tmp_path / "data", OPTIONS, FakeClock(NOW), UnsyncedFiles())
    odd = [0.0, -0.0, 1.5, math.inf, -math.inf, math.nan, 1e300, 5e-324, STALE_NAN, 123456.0]
    series = [
        Labels.of(__name__="c_total", path='a"b\\c\nd'),
        Labels.of(__name__="g", site="ä ß", q="{}"),
        Labels.of(__name__="alone"),
        *[Labels.of(__name__="h_bucket", i=i, le=le) for i in "12" for le in ("0.1", "2.5", "10.0", "+Inf")],
        *[Labels.of(__name__=f"h_{part}", i=i) for i in "12" for part in ("sum", "count")],
        *[Labels.of(__name__="s", quantile=q) for q in ("0.5", "0.99")],
        *[Labels.of(__name__=f"s_{part}") for part in ("sum", "count")],
    ]
    samples = [
        (labels, NOW - 8 * 86_400_000 + k * 3_601_001 + number, odd[(k + number) % len(odd)])
        for number, labels in enumerate(series)
        for k in range(100)
    ]
    store.append_loose(SourceId(bytes(16)), samples)
    store.add_metadata(
        [
            MetricMeta("c_total", MetricType.COUNTER, "Some \\ help\nin two lines."),
            MetricMeta("g", MetricType.GAUGE),
            MetricMeta("h", MetricType.HISTOGRAM, "H."),
            MetricMeta("s", MetricType.SUMMARY),
        ]
    )
    store.cut(NOW - 4 * 86_400_000)
    store.commit()
    said = ctl("dump", tmp_path / "data", "-o", tmp_path / "x.om").stderr  # the store being in use
    assert "staleness markers left out" in said
    kinds = [line.split()[2:] for line in (tmp_path / "x.om").read_text().splitlines() if line.startswith("# TYPE")]
    assert kinds == [["alone", "unknown"], ["c", "counter"], ["g", "gauge"], ["h", "histogram"], ["s", "summary"]]
    expected = of_store(store)
    assert sum(map(len, expected.values())) == len(samples) - sum(value is STALE_NAN for _, _, value in samples)
    assert of_promtool(promtool, tmp_path / "x.om", tmp_path / "blocks") == expected

    ctl("import", tmp_path / "x.om", tmp_path / "again")
    again = Store.open(tmp_path / "again", OPTIONS, FakeClock(NOW), UnsyncedFiles())
    assert of_store(again) == expected
    again.close()
    store.close()
    ctl("dump", tmp_path / "again", "-o", tmp_path / "y.om")
    assert (tmp_path / "y.om").read_text() == (tmp_path / "x.om").read_text()


def test_a_running_fleet_is_dumped_and_what_was_imported_is_served(tmp_path: Path, start: Start) -> None:
    promtool = needs("promtool")
    agent = edge(start, tmp_path / "edge", "--no-discovery.mdns").wait_ready()
    config = f'bramble: {{pull_interval: 1s, commit_interval: 1s, agents: ["127.0.0.1:{agent.port}"]}}\n'
    server = hub(start, tmp_path / "hub", "--no-discovery.mdns", config=config).wait_ready()
    wait_for(lambda: server.client.instant("node_load1 offset 2s"), "samples of the agent", 60)

    def dumped(directory: Path) -> bool:
        ctl("dump", directory, "--match", '{__name__=~"node_.*"}', "-o", tmp_path / "x.om")
        return "# TYPE node_cpu_seconds counter" in (tmp_path / "x.om").read_text()

    for directory in (tmp_path / "hub" / "data", tmp_path / "edge" / "log"):
        wait_for(lambda directory=directory: dumped(directory), "a commit of what was sampled")  # type: ignore[misc]
        found = of_promtool(promtool, tmp_path / "x.om", tmp_path / f"{directory.parent.name}-blocks")
        assert len(found) > 100
    label = ("--label", f"instance=127.0.0.1:{agent.port}", "--label", "job=node")
    ctl("dump", tmp_path / "edge" / "log", *label, "-o", tmp_path / "x.om")
    ctl("import", tmp_path / "x.om", tmp_path / "other" / "data")
    other = hub(start, tmp_path / "other", "--no-discovery.mdns").wait_ready()
    newest = other.client.instant("timestamp(node_load1)")
    assert [point.labels["job"] for point in newest] == ["node"]
    at = newest[0].value
    assert other.client.instant("node_load1", at)[0].value == server.client.instant("node_load1", at)[0].value
    assert (
        other.client.api("/api/v1/metadata", {"metric": "node_cpu_seconds"})["node_cpu_seconds"][0]["type"] == "counter"
    )
