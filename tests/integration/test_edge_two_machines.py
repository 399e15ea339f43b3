"""An agent and a hub on two "machines" that share one wire: two network namespaces joined by a veth pair."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.programs import Start, needs, wait_for

pytestmark = pytest.mark.integration
QUERY = "count by (instance, job) (node_cpu_seconds_total)"
ASK = (
    "import sys, urllib.request, urllib.parse\n"
    "url = 'http://127.0.0.1:9090/api/v1/query?' + urllib.parse.urlencode({'query': sys.argv[1]})\n"
    "print(urllib.request.urlopen(url, timeout=5).read().decode())\n"
)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def wire() -> Iterator[tuple[str, str]]:
    """Names of two namespaces, 10.77.0.1 and 10.77.0.2, with nothing but loopback and the wire between them."""
    needs("ip")
    pi, hub = f"bramble-pi-{os.getpid()}", f"bramble-hub-{os.getpid()}"
    try:
        ip("netns", "add", pi)
    except subprocess.CalledProcessError as err:
        pytest.skip(f"network namespaces need more rights than this user has: {err.stderr.decode().strip()}")
    try:
        ip("netns", "add", hub)
        ip("link", "add", "wire", "netns", pi, "type", "veth", "peer", "name", "wire", "netns", hub)
        for number, name in ((1, pi), (2, hub)):
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", "wire")
            ip("-n", name, "link", "set", "wire", "up")
        yield pi, hub
    finally:
        for name in (pi, hub):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def test_a_hub_finds_an_agent_on_the_wire_by_mdns_and_has_its_samples(
    start: Start, tmp_path: Path, wire: tuple[str, str]
) -> None:
    pi, hub = wire
    inside = ["ip", "netns", "exec"]
    config = tmp_path / "prometheus.yml"
    config.write_text("bramble: {pull_interval: 1s}\n")
    agent = start(
        [
            *[*inside, pi, sys.executable, "-m", "edge.cli", "--sample.interval=1s"],
            f"--storage.path={tmp_path / 'edge'}",
        ],
        tmp_path / "edge.log",
    )
    collector = start(
        [
            *[*inside, hub, sys.executable, "-m", "hub.cli", f"--config.file={config}"],
            *["--web.listen-address=127.0.0.1:9090", f"--storage.tsdb.path={tmp_path / 'hub'}"],
        ],
        tmp_path / "hub.log",
    )
    wait_for(lambda: "via=mdns address=10.77.0.1:9100" in collector.output(), "found by mDNS")

    def answer() -> list[dict[str, object]]:
        done = subprocess.run(
            [*inside, hub, sys.executable, "-c", ASK, QUERY], capture_output=True, text=True, check=True
        )
        return list(json.loads(done.stdout)["data"]["result"])

    found = wait_for(answer, "the agent's samples")
    assert len(found) == 1
    wait_for(lambda: "addresses=10.77.0.1 " in agent.output(), "the agent says where it is announced")
    assert agent.stop() == 0
