"""The agent as a real process: scraped, killed, stopped, refused a port, found by mDNS."""

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from zeroconf import ServiceStateChange
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from common.edgelog.segment import scan
from common.frames.codec import Frame, decode
from common.frames.model import read_header
from tests.integration.programs import ROOT, Running, Start, edge, needs, wait_for
from tests.ports import free_port

pytestmark = pytest.mark.integration
FRAMES = {"Accept": "application/vnd.bramble.frames;version=1"}


def get(running: Running, path: str, headers: Mapping[str, str] | None = None) -> tuple[Mapping[str, str], bytes]:
    request = urllib.request.Request(running.url + path, headers=dict(headers or {}))
    with urllib.request.urlopen(request, timeout=60) as response:
        return dict(response.headers), response.read()


def frames(running: Running, have: str = "") -> list[Frame]:
    """All frames of the agent's log, oldest first."""
    _, body = get(running, f"/federate?order=oldest&max_bytes=8000000&have={have}", FRAMES)
    found, at = [], 0
    while at < len(body):
        length = read_header(body, at).length
        found.append(decode(body[at : at + length]))
        at += length
    return found


def stamps(found: list[Frame]) -> list[int]:
    return [int(t) for frame in found for t in frame.timestamps]


def run_once(*flags: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """An agent that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "edge.cli", *flags],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_promtool_accepts_the_running_agents_page(start: Start, tmp_path: Path) -> None:
    promtool = needs("promtool")
    agent = edge(start, tmp_path, "--no-discovery.mdns").wait_ready()
    _, page = get(agent, "/metrics")
    done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True)
    assert done.returncode in (0, 3), done.stderr.decode()
    # 3 is lint; node_exporter's own names break its rules too, so only what we named ourselves counts.
    complaints = [line for line in done.stderr.decode().split("\n") if line and not line.startswith("node_")]
    assert not complaints


def test_the_strict_parser_accepts_the_running_agents_openmetrics_page(start: Start, tmp_path: Path) -> None:
    agent = edge(start, tmp_path, "--no-discovery.mdns").wait_ready()
    headers, page = get(agent, "/metrics", {"Accept": "application/openmetrics-text"})
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in openmetrics.text_string_to_metric_families(page.decode())}
    assert families["node_cpu_seconds"].type == "counter"
    assert families["bramble_edge_slots"].type == "counter"


def test_killed_at_any_moment_it_loses_no_committed_frame_and_repeats_none(start: Start, tmp_path: Path) -> None:
    rng = random.Random(7)
    port = free_port()
    seen: dict[tuple[int, int], list[int]] = {}
    for _ in range(6):
        agent = edge(
            start, tmp_path, "--no-discovery.mdns", port=port, config="sample_interval: 100ms\ncommit_interval: 1s\n"
        ).wait_ready()
        found = frames(agent)
        keys = [(int(f.header.epoch), f.header.seq) for f in found]
        assert len(keys) == len(set(keys))
        now = dict(zip(keys, (stamps([f]) for f in found), strict=True))
        for key, times in seen.items():
            assert now.get(key) == times, f"frame {key} was committed and is gone or changed"
        assert len(stamps(found)) == len(set(stamps(found)))
        time.sleep(rng.uniform(1.2, 2.6))
        # What a commit put on disk, as the log itself says: the file's frames.
        seen = {**seen, **committed(tmp_path / "log")}
        agent.kill()
    assert len(seen) >= 6


def committed(path: Path) -> dict[tuple[int, int], list[int]]:
    """Frames that stand in the log's files now; the last one may be half written and is then left out."""
    found: dict[tuple[int, int], list[int]] = {}
    for file in sorted(path.glob("*.seg")):
        data = file.read_bytes()
        for entry in scan(data).entries:
            times = stamps([decode(data[entry.offset : entry.offset + entry.length])])
            found[int(entry.epoch), entry.seq] = times
    return found


def test_sigterm_commits_what_was_sampled_and_ends_well(start: Start, tmp_path: Path) -> None:
    config = "sample_interval: 100ms\ncommit_interval: 1h\n"
    agent = edge(start, tmp_path, "--no-discovery.mdns", config=config).wait_ready()
    wait_for(lambda: len(stamps(frames(agent))) >= 5, "five samples")
    before = stamps(frames(agent))
    assert agent.stop() == 0
    assert "Traceback" not in agent.output()
    again = edge(start, tmp_path, "--no-discovery.mdns", config=config).wait_ready()
    assert stamps(frames(again))[: len(before)] == before


def test_the_id_survives_a_restart_and_the_epoch_does_not(start: Start, tmp_path: Path) -> None:
    heads = []
    for _ in range(2):
        agent = edge(start, tmp_path, "--no-discovery.mdns").wait_ready()
        heads.append(get(agent, "/federate", FRAMES)[0])
        agent.stop()
    assert heads[0]["Bramble-Source"] == heads[1]["Bramble-Source"]
    assert heads[0]["Bramble-Epoch"] != heads[1]["Bramble-Epoch"]


def test_a_port_in_use_is_one_clear_line_and_touches_nothing(start: Start, tmp_path: Path) -> None:
    agent = edge(start, tmp_path / "one", "--no-discovery.mdns").wait_ready()
    done = run_once(f"--web.listen-address=:{agent.port}", f"--storage.path={tmp_path / 'two'}")
    assert done.returncode == 1
    assert f"port {agent.port} is in use" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "two").exists()


def test_storage_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run_once("--web.listen-address=127.0.0.1:0", f"--storage.path={tmp_path / 'file' / 'log'}")
    assert done.returncode == 1
    assert "a file is in the way" in done.stderr
    assert "--storage.path" in done.stderr
    assert done.stderr.count("\n") == 1


def test_storage_in_use_by_another_agent_is_refused(start: Start, tmp_path: Path) -> None:
    edge(start, tmp_path, "--no-discovery.mdns").wait_ready()
    done = run_once("--web.listen-address=127.0.0.1:0", f"--storage.path={tmp_path / 'log'}")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1


def test_a_real_prometheus_scrapes_and_federates_it(start: Start, tmp_path: Path) -> None:
    prometheus = needs("prometheus")
    agent = edge(start, tmp_path, "--no-discovery.mdns").wait_ready()
    port = free_port()
    target = f"static_configs: [{{targets: ['127.0.0.1:{agent.port}']}}]"
    (tmp_path / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s}\nscrape_configs:\n"
        f"  - job_name: node\n    {target}\n"
        f"  - job_name: federate\n    honor_labels: true\n    metrics_path: /federate\n"
        f"    params: {{'match[]': ['node_load1']}}\n    {target}\n"
    )
    peer = start(
        [
            prometheus,
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        tmp_path / "prometheus.log",
        port,
    ).wait_ready()

    def result(query: str) -> list[dict[str, object]]:
        _, body = get(peer, f"/api/v1/query?query={urllib.parse.quote(query)}")
        return list(json.loads(body)["data"]["result"])

    wait_for(lambda: result("up{job='node'}==1"), "scraped")
    wait_for(lambda: result("up{job='federate'}==1"), "federated")
    wait_for(lambda: result("node_cpu_seconds_total{job='node'}"), "cpu")
    wait_for(lambda: result("node_load1{job='federate',instance=''}"), "the federated sample")


async def browse(seconds: float, interfaces: list[str], until: str = "") -> dict[str, AsyncServiceInfo]:
    """Agents seen by mDNS on these interfaces; ends early when a port named `until` is among them."""
    zeroconf = AsyncZeroconf(interfaces=interfaces)
    names: set[str] = set()
    found: dict[str, AsyncServiceInfo] = {}

    def changed(zeroconf: object, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change is ServiceStateChange.Removed:
            names.discard(name)
        else:
            names.add(name)

    browser = AsyncServiceBrowser(zeroconf.zeroconf, ["_bramble._tcp.local."], handlers=[changed])
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        await asyncio.sleep(0.1)
        for name in sorted(names - set(found)):
            info = AsyncServiceInfo("_bramble._tcp.local.", name)
            if await info.async_request(zeroconf.zeroconf, 1000):
                found[name] = info
        if any(str(info.port) == until for info in found.values()):
            break
    await browser.async_cancel()
    await zeroconf.async_close()
    return {name: info for name, info in found.items() if name in names}


def test_it_is_found_over_loopback_by_mdns_and_withdraws_when_it_stops(start: Start, tmp_path: Path) -> None:
    agent = edge(start, tmp_path).wait_ready()
    found = asyncio.run(browse(15, ["127.0.0.1"], str(agent.port)))
    info = next(i for i in found.values() if i.port == agent.port)
    source = get(agent, "/federate", FRAMES)[0]["Bramble-Source"]
    assert info.decoded_properties["id"] == source
    assert info.decoded_properties["api"] == "1"
    assert info.parsed_addresses() == ["127.0.0.1"]
    assert agent.stop() == 0
    left = asyncio.run(browse(2, ["127.0.0.1"]))
    assert agent.port not in {i.port for i in left.values()}


def test_it_starts_and_samples_where_there_is_no_network_at_all(start: Start, tmp_path: Path) -> None:
    unshare = needs("unshare")
    done = subprocess.run([unshare, "-n", "true"], capture_output=True)
    if done.returncode:
        pytest.skip("network namespaces need more rights than this user has")
    command = [unshare, "-n", sys.executable, "-m", "edge.cli", f"--storage.path={tmp_path / 'log'}"]
    agent = start([*command, "--sample.interval=100ms", "--commit.interval=1s"], tmp_path / "edge.log")
    wait_for(lambda: "not announced by mDNS" in agent.output(), "the warning")
    wait_for(lambda: list((tmp_path / "log").glob("*.seg")), "a committed segment")
    agent.process.send_signal(signal.SIGTERM)
    assert agent.process.wait(60) == 0
    assert agent.output().count("not announced by mDNS") == 1


def test_under_systemd_it_says_ready_and_stopping_and_feeds_the_watchdog(start: Start, tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(address)
        sock.settimeout(60)
        env = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "400000", "STATE_DIRECTORY": str(tmp_path / "state")}
        command = [sys.executable, "-m", "edge.cli", "--web.listen-address=127.0.0.1:0", "--no-discovery.mdns"]
        command += ["--sample.interval=100ms", "--commit.interval=1s"]
        agent = start(command, tmp_path / "edge.log", env=env)
        said = [sock.recv(100) for _ in range(3)]
        assert said[0] == b"READY=1"
        assert said[1:] == [b"WATCHDOG=1", b"WATCHDOG=1"]
        # The state directory is where it keeps its log.
        while not list((tmp_path / "state").glob("*.seg")):
            assert sock.recv(100) == b"WATCHDOG=1"
        assert agent.stop() == 0
        while (last := sock.recv(100)) == b"WATCHDOG=1":
            pass
        assert last == b"STOPPING=1"


@pytest.mark.parametrize("path", ["/nope", "/federate/schema?hash=1"])
def test_errors_are_plain_text_with_a_status(start: Start, tmp_path: Path, path: str) -> None:
    agent = edge(start, tmp_path, "--no-discovery.mdns").wait_ready()
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(agent, path)
    with caught.value:
        assert caught.value.code in (400, 404)
        assert b"<" not in caught.value.read()
