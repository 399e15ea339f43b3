"""The hub as a real process: finds, pulls, scrapes, is killed, starts again, and says what keeps it from starting."""

import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from common.frames.codec import decode
from common.frames.model import read_header
from tests.integration.programs import ROOT, Running, Start, edge, hub, needs, wait_for
from tests.ports import free_port

pytestmark = pytest.mark.integration

FAST = "global: {scrape_interval: 1s, evaluation_interval: 1s}\nbramble: {pull_interval: 1s, commit_interval: 5s}\n"
FRAMES = {"Accept": "application/vnd.bramble.frames;version=1"}


def agents(program: Running) -> list[dict[str, Any]]:
    """Rows of the fleet."""
    found: list[dict[str, Any]] = program.client.api("/api/v1/bramble/fleet")["agents"]
    return found


def value(program: Running, query: str) -> float | None:
    """The only value of an instant query's result, or None."""
    points = program.client.instant(query)
    return points[0].value if len(points) == 1 else None


def raw(program: Running, selector: str) -> list[tuple[int, str]]:
    """All stored samples of one series: (ms, value as text)."""
    data = program.client.api("/api/v1/query", {"query": f"{selector}[1h]"})
    (series,) = data["result"]
    return [(round(at * 1000), text) for at, text in series["values"]]


def log_stamps(agent: Running) -> set[int]:
    """Timestamps of all slots in an agent's log, by its frames."""
    request = urllib.request.Request(agent.url + "/federate?have=&order=oldest&max_bytes=8000000", headers=FRAMES)
    with urllib.request.urlopen(request, timeout=60) as response:
        body = response.read()
    stamps: set[int] = set()
    offset = 0
    while offset < len(body):
        header = read_header(body, offset)
        stamps.update(map(int, decode(body[offset : offset + header.length]).timestamps))
        offset += header.length
    return stamps


def run_once(*flags: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A hub that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "hub.cli", *flags],
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_an_agent_is_found_by_mdns_and_queried_under_node_exporters_names(start: Start, tmp_path: Path) -> None:
    agent = edge(start, tmp_path / "edge")
    program = hub(start, tmp_path / "hub", config=FAST).wait_ready()
    row = wait_for(
        lambda: next(r for r in agents(program) if r["url"].endswith(f":{agent.port}") and r["state"] == "online"),
        "the agent online",
    )
    assert row["instance"].endswith(f":{agent.port}")
    assert row["discoveredBy"] == "mdns"
    selector = f'{{job="node",instance="{row["instance"]}"}}'
    assert wait_for(lambda: value(program, f"up{selector}"), "up") == 1
    assert wait_for(lambda: value(program, f"node_memory_MemTotal_bytes{selector}"), "memory") == 1024 * int(
        re.findall(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[0]
    )
    assert wait_for(
        lambda: value(program, f"sum(rate(node_cpu_seconds_total{selector}[10s]))"), "the rate of all CPU modes"
    )
    assert program.stop() == 0


def test_an_agent_that_dies_is_unreachable_with_the_reason_and_recovers(start: Start, tmp_path: Path) -> None:
    port = free_port()
    agent = edge(start, tmp_path / "edge", "--no-discovery.mdns", port=port).wait_ready()
    address = f"127.0.0.1:{port}"
    config = FAST.replace("pull_interval: 1s", f"pull_interval: 1s, agents: ['{address}', '127.0.0.1:1']")
    program = hub(start, tmp_path / "hub", "--no-discovery.mdns", config=config).wait_ready()
    up = f'up{{instance="{address}"}}'
    wait_for(lambda: value(program, up) == 1, "up")
    assert wait_for(lambda: value(program, 'up{instance="127.0.0.1:1"}') == 0, "up of nobody")
    agent.kill()
    wait_for(lambda: value(program, up) == 0, "down")
    (row,) = agents(program)
    assert (row["state"], row["reason"]) == ("unreachable", "connect: connection refused")
    edge(start, tmp_path / "edge", "--no-discovery.mdns", port=port).wait_ready()
    wait_for(lambda: value(program, up) == 1, "up again")
    last = raw(program, f'node_time_seconds{{instance="{address}"}}')[-1][0]
    wait_for(
        lambda: raw(program, f'node_time_seconds{{instance="{address}"}}')[-1][0] > last, "new samples of the new epoch"
    )


def test_the_real_node_exporter_is_scraped_whole(start: Start, tmp_path: Path) -> None:
    port = free_port()
    exporter = start(
        [needs("prometheus-node-exporter"), f"--web.listen-address=127.0.0.1:{port}"], tmp_path / "node.log", port
    )
    job = f"{{job_name: node, static_configs: [{{targets: ['127.0.0.1:{port}'], labels: {{room: lab}}}}]}}"
    config = f"{FAST}scrape_configs: [{job}]\n"
    program = hub(start, tmp_path / "hub", "--no-discovery.mdns", config=config).wait_ready()
    instance = f'instance="127.0.0.1:{port}"'
    wait_for(lambda: value(program, f'up{{job="node",{instance},room="lab"}}') == 1, "up")
    scraped = value(program, f"scrape_samples_scraped{{{instance}}}")
    stored = value(program, f'count({{{instance},__name__!~"up|scrape_.*"}})')
    body = exporter.client.get("/metrics").decode()
    lines = [line for line in body.splitlines() if line and not line.startswith("#")]
    assert scraped == pytest.approx(len(lines), abs=30)
    assert stored == pytest.approx(len(lines), abs=30)
    assert value(program, f"node_memory_MemTotal_bytes{{{instance}}}") == float(
        next(line for line in lines if line.startswith("node_memory_MemTotal_bytes ")).split()[1]
    )
    exporter.kill()
    wait_for(lambda: value(program, f"up{{{instance}}}") == 0, "down")
    assert program.client.instant(f"node_memory_MemTotal_bytes{{{instance}}}") == []
    (target,) = [t for t in program.client.api("/api/v1/targets")["activeTargets"] if t["scrapePool"] == "node"]
    assert (target["health"], target["lastError"]) == ("down", "connect: connection refused")


def test_a_hub_killed_again_and_again_loses_and_doubles_nothing_of_an_agent(start: Start, tmp_path: Path) -> None:
    rng = random.Random(1)
    agent = edge(start, tmp_path / "edge", "--no-discovery.mdns").wait_ready()
    config = FAST.replace("pull_interval: 1s", f"pull_interval: 1s, agents: ['127.0.0.1:{agent.port}']")
    series = f'node_time_seconds{{instance="127.0.0.1:{agent.port}"}}'
    for _ in range(5):
        program = hub(start, tmp_path / "hub", "--no-discovery.mdns", config=config).wait_ready()
        wait_for(lambda p=program: raw(p, series), "samples")  # type: ignore[misc]
        time.sleep(rng.uniform(0.0, 7.0))
        program.kill()
    program = hub(start, tmp_path / "hub", "--no-discovery.mdns", config=config).wait_ready()
    stamps = log_stamps(agent)
    wait_for(lambda: raw(program, series)[-1][0] > max(stamps), "the hub to catch up")
    found = [at for at, _ in raw(program, series)]
    assert found == sorted(set(found))
    missing = stamps - set(found)
    assert not missing, f"{len(missing)} of {len(stamps)} instants are missing"
    assert wait_for(lambda: agents(program)[0]["state"] == "online", "the agent online")
    assert agents(program)[0]["goneFrames"] == 0
    frames = [line for line in metrics(program) if line.startswith("bramble_hub_frames_total")]
    assert 'bramble_hub_frames_total{outcome="quarantined"} 0.0' in frames


def metrics(program: Running) -> list[str]:
    """Lines of the hub's own metrics."""
    return program.client.get("/metrics").decode().splitlines()


def test_scraped_samples_that_were_committed_survive_a_kill(start: Start, tmp_path: Path) -> None:
    port = free_port()
    config = f"{FAST}scrape_configs: [{{job_name: self, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}]\n"
    program = hub(start, tmp_path / "hub", "--no-discovery.mdns", port=port, config=config).wait_ready()
    series = f'up{{instance="127.0.0.1:{port}"}}'
    wait_for(lambda: commits(program) >= 1, "the first commit")
    before = raw(program, series)
    at = commits(program)
    wait_for(lambda: commits(program) > at, "a commit after what was read")
    program.kill()
    program = hub(start, tmp_path / "hub", "--no-discovery.mdns", port=port, config=config).wait_ready()
    after = raw(program, series)
    assert after[: len(before)] == before
    assert len({at for at, _ in after}) == len(after)


def commits(program: Running) -> float:
    """Commits since the start."""
    return float(next(m for m in metrics(program) if m.startswith("bramble_hub_commits_total")).split()[1])


def test_a_full_disk_pauses_intake_and_loses_nothing_stored(start: Start, tmp_path: Path) -> None:
    port = free_port()
    config = f"{FAST}scrape_configs: [{{job_name: self, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}]\n"
    program = hub(start, tmp_path / "hub", "--no-discovery.mdns", port=port, config=config).wait_ready()
    series = f'up{{instance="127.0.0.1:{port}"}}'
    wait_for(lambda: len(raw(program, series)) >= 2, "samples")
    before = raw(program, series)
    assert program.stop() == 0
    # No file may grow beyond what the log has already: every write fails as on a full disk (EFBIG for ENOSPC).
    largest = max(p.stat().st_size for p in (tmp_path / "hub").rglob("*") if p.is_file())
    limited = [needs("prlimit"), f"--fsize={largest + 4096}", *program.command]
    program = start(limited, tmp_path / "limited.log", port).wait_ready()
    wait_for(lambda: "bramble_hub_storage_paused 1.0" in metrics(program), "intake paused", 60)
    assert raw(program, series)[: len(before)] == before
    program.kill()
    program = hub(start, tmp_path / "hub", "--no-discovery.mdns", port=port, config=config).wait_ready()
    assert raw(program, series)[: len(before)] == before


def test_a_hangup_reloads_the_configuration_and_a_bad_one_changes_nothing(start: Start, tmp_path: Path) -> None:
    port = free_port()
    program = hub(start, tmp_path / "hub", "--no-discovery.mdns", port=port, config=FAST).wait_ready()
    file = tmp_path / "hub" / "prometheus.yml"
    job = f"{FAST}scrape_configs: [{{job_name: self, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}]\n"
    file.write_text(job)
    program.process.send_signal(signal.SIGHUP)
    wait_for(lambda: value(program, "up") == 1, "the new job")
    file.write_text("nonsense: 1\n")
    program.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "prometheus_config_last_reload_successful 0.0" in metrics(program), "the failure to show")
    last = raw(program, "up")[-1][0]
    wait_for(lambda: raw(program, "up")[-1][0] > last, "the old job going on")
    file.write_text(FAST)
    program.process.send_signal(signal.SIGHUP)
    wait_for(lambda: program.client.instant("up") == [], "the removed target to be stale")


def test_a_lost_agent_is_still_down_after_the_hubs_restart(start: Start, tmp_path: Path) -> None:
    agent = edge(start, tmp_path / "edge")
    program = hub(start, tmp_path / "hub", config=FAST).wait_ready()
    wait_for(lambda: any(r["url"].endswith(f":{agent.port}") for r in agents(program)), "the agent")
    (row,) = [r for r in agents(program) if r["url"].endswith(f":{agent.port}")]
    wait_for(lambda: value(program, f'up{{instance="{row["instance"]}"}}') == 1, "up")
    at = commits(program)
    wait_for(lambda: commits(program) > at, "a commit: an agent that no disk knows of is forgotten")
    program.kill()
    agent.kill()
    program = hub(start, tmp_path / "hub", "--no-discovery.mdns", config=FAST).wait_ready()
    wait_for(lambda: value(program, f'up{{instance="{row["instance"]}"}}') == 0, "down")
    assert row["source"] in {r["source"] for r in agents(program)}


def test_systemd_is_told_of_the_start_the_watchdog_and_the_stop(start: Start, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(tmp_path / "notify"))
        notify.settimeout(20)
        folder = tmp_path / "hub"
        folder.mkdir()
        port = free_port()
        command = [sys.executable, "-m", "hub.cli", "--no-discovery.mdns", f"--web.listen-address=127.0.0.1:{port}"]
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "500000"}
        program = start(command, folder / "hub.log", port, env)
        assert notify.recv(100) == b"READY=1"
        assert [notify.recv(100) for _ in range(2)] == [b"WATCHDOG=1"] * 2
        assert program.stop() == 0
        while (said := notify.recv(100)) == b"WATCHDOG=1":
            continue
        assert said == b"STOPPING=1"


def test_bad_configuration_ends_with_status_2_and_touches_nothing(tmp_path: Path) -> None:
    (tmp_path / "prometheus.yml").write_text("scrape_configs: [{job_name: a, scrape_interval: fast}]\n")
    done = run_once(cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "bramble-hub: error: prometheus.yml:1:49: scrape_configs[0].scrape_interval: expected"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["prometheus.yml"]


def test_a_broken_rule_file_ends_with_status_2_and_touches_nothing(tmp_path: Path) -> None:
    (tmp_path / "prometheus.yml").write_text("rule_files: [rules.yml]\n")
    (tmp_path / "rules.yml").write_text("groups: [{name: g, rules: [{record: x, expr: 'sum('}]}]\n")
    done = run_once(cwd=tmp_path)
    assert done.returncode == 2
    assert "rules.yml" in done.stderr
    assert "parse error" in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("flag", ["--nonsense", "--web.listen-address=pi", "--log.level=loud", "--query.timeout=0s"])
def test_bad_flags_end_with_status_2(tmp_path: Path, flag: str) -> None:
    done = run_once(flag, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("bramble-hub: error: ")
    assert done.stderr.endswith(", try --help\n")
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_is_said_in_one_line_with_a_way_out(start: Start, tmp_path: Path) -> None:
    program = hub(start, tmp_path / "hub", "--no-discovery.mdns").wait_ready()
    done = run_once(f"--web.listen-address=127.0.0.1:{program.port}", cwd=tmp_path)
    assert done.returncode == 1
    assert f"port {program.port} is in use" in done.stderr
    assert "--web.listen-address=:PORT" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "data").exists()


def test_a_data_directory_in_use_is_said_in_one_line(start: Start, tmp_path: Path) -> None:
    hub(start, tmp_path / "hub", "--no-discovery.mdns").wait_ready()
    data = f"--storage.tsdb.path={tmp_path / 'hub' / 'data'}"
    done = run_once(f"--web.listen-address=127.0.0.1:{free_port()}", data, cwd=tmp_path)
    assert done.returncode == 1
    assert "is in use by" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_data_directory_that_cannot_be_used_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    data = f"--storage.tsdb.path={tmp_path / 'file'}"
    done = run_once(f"--web.listen-address=127.0.0.1:{free_port()}", data, cwd=tmp_path)
    assert done.returncode == 1
    assert "--storage.tsdb.path" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "file").read_text() == "no directory"
