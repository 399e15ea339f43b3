"""The agent and its flash: a falling voltage commits at once, a budget of writes is kept."""

import urllib.request
from pathlib import Path

import pytest

from common.edgelog.segment import scan
from tests.integration.programs import Running, Start, edge, wait_for

pytestmark = pytest.mark.integration


def frames_on_disk(log: Path) -> int:
    return sum(len(scan(path.read_bytes()).entries) for path in log.glob("*.seg"))


def test_a_falling_voltage_commits_although_the_interval_is_an_hour(start: Start, tmp_path: Path) -> None:
    chip = tmp_path / "sys/class/hwmon/hwmon0"
    chip.mkdir(parents=True)
    (chip / "name").write_text("rpi_volt\n")
    (chip / "in0_lcrit_alarm").write_text("0\n")
    agent = edge(
        start,
        tmp_path,
        "--no-discovery.mdns",
        f"--path.sysfs={tmp_path / 'sys'}",
        config="sample_interval: 100ms\ncommit_interval: 1h\n",
    ).wait_ready()
    (chip / "in0_lcrit_alarm").write_text("1\n")
    wait_for(lambda: frames_on_disk(tmp_path / "log") > 0, "a commit")
    agent.kill()
    assert frames_on_disk(tmp_path / "log") > 0


def test_a_budget_of_writes_holds_back_commits(start: Start, tmp_path: Path) -> None:
    config = "sample_interval: 100ms\ncommit_interval: 1s\nstorage: {max_writes_per_day: 48}\n"
    agent = edge(start, tmp_path, "--no-discovery.mdns", config=config).wait_ready()
    # Two commits are an hour's share; then the next is due after half an hour.
    wait_for(lambda: agent_metric(page(agent), "bramble_edge_commit_wait_seconds") > 1000, "the budget's end")
    assert agent_metric(page(agent), "bramble_edge_log_syncs_total") == 2
    assert agent.stop() == 0


def page(agent: Running) -> str:
    with urllib.request.urlopen(f"{agent.url}/metrics", timeout=60) as response:
        return str(response.read(), "utf-8")


def agent_metric(text: str, name: str) -> float:
    """The value of a metric without labels."""
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(name + " "))
