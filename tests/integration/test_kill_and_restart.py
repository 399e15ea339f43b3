"""SIGKILL of hub and agent in mid-flight: nothing the agent committed is lost on the hub, nothing is there twice."""

import time
import urllib.parse
import urllib.request
from functools import partial
from pathlib import Path

import pytest

from common.frames.codec import Frame, decode
from common.frames.model import decode_schema, read_header
from common.labels import Labels
from tests.integration.programs import Running, Start, edge, hub, wait_for
from tests.ports import free_port

pytestmark = pytest.mark.integration
ACCEPT = {"Accept": "application/vnd.bramble.frames;version=1"}
WATCHED = ("node_time_seconds", "node_load1", "node_memory_MemFree_bytes")


def fetch(url: str, headers: dict[str, str]) -> bytes:
    """The body of a GET."""
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
        return bytes(answer.read())


def frames(agent: Running) -> list[Frame]:
    """Every frame that the agent's log holds."""
    found, offset = [], 0
    body = fetch(f"{agent.url}/federate?have=&order=oldest&max_bytes=50000000", ACCEPT)
    while offset < len(body):
        length = read_header(body, offset).length
        found.append(decode(body[offset : offset + length]))
        offset += length
    return found


def samples_of_log(agent: Running, name: str) -> dict[int, float]:
    """Timestamp (ms) to value of the series `name` without labels, as the agent's log has it."""
    schemas: dict[bytes, list[Labels]] = {}
    found: dict[int, float] = {}
    for frame in frames(agent):
        schema = frame.header.schema
        if schema not in schemas:
            data = fetch(f"{agent.url}/federate/schema?hash={schema.hex()}", {})
            schemas[schema] = list(decode_schema(data).labels())
        for row, labels in enumerate(schemas[schema]):
            if labels == Labels.of(__name__=name):
                for slot, stamp in enumerate(frame.timestamps.tolist()):
                    if frame.presence is None or frame.presence[row, slot] == 1:
                        assert stamp not in found, f"{name} at {stamp} stands twice in the agent's log"
                        found[stamp] = float(frame.values[row, slot])
    return found


def samples_of_hub(server: Running, name: str) -> list[tuple[int, float]]:
    """The same as the hub's raw samples."""
    query = urllib.parse.urlencode({"query": f'{name}{{job="node"}}[1h]', "time": time.time() + 5})
    result = server.client.api(f"/api/v1/query?{query}")["result"]
    assert len(result) <= 1, "one agent is one series, whatever happened to it"
    return [(round(t * 1000), float(v)) for series in result for t, v in series["values"]]


def wait_for_samples(server: Running, count: int) -> None:
    """Until the hub has at least `count` samples of the first watched series."""
    wait_for(lambda: len(samples_of_hub(server, WATCHED[0])) >= count, f"samples flow\n{server.output()}")


def commits(agent: Running) -> int:
    """How many commits of its log the agent has done."""
    return int(metric(agent, "bramble_edge_commit_duration_seconds_count"))


def commits_reach(agent: Running, count: int) -> bool:
    """Whether the agent has done that many commits."""
    return commits(agent) >= count


def metric(program: Running, name: str) -> float:
    """The value of one of a program's own metrics without labels."""
    (line,) = [x for x in program.client.get("/metrics").decode().splitlines() if x.startswith(f"{name} ")]
    return float(line.rsplit(" ", 1)[1])


def hub_has(server: Running, name: str, want: dict[int, float]) -> bool:
    """Whether the hub has all samples of `want`, values included."""
    return want.items() <= dict(samples_of_hub(server, name)).items()


def test_kill_nine_of_both_loses_nothing_and_doubles_nothing(start: Start, tmp_path: Path) -> None:
    edge_port, hub_port = free_port(), free_port()
    config = f'bramble: {{pull_interval: 1s, commit_interval: 5s, agents: ["127.0.0.1:{edge_port}"]}}\n'
    flags = "--no-discovery.mdns"
    fast = "sample_interval: 500ms\ncommit_interval: 1s\n"
    agent = edge(start, tmp_path / "edge", flags, port=edge_port, config=fast).wait_ready()
    server = hub(start, tmp_path / "hub", flags, port=hub_port, config=config).wait_ready()
    committed: dict[str, dict[int, float]] = {name: {} for name in WATCHED}
    acknowledged: dict[str, set[int]] = {name: set() for name in WATCHED}
    for round_ in range(4):
        wait_for_samples(server, 4 * (round_ + 1))
        for name in WATCHED:
            acknowledged[name] |= {t for t, _ in samples_of_hub(server, name)}
        time.sleep(1.3)
        if round_ % 2 == 0:
            server.kill()
            time.sleep(2.2)
            server = hub(start, tmp_path / "hub", flags, port=hub_port, config=config).wait_ready()
        else:
            for name in WATCHED:
                committed[name] |= samples_of_log(agent, name)
            # The second commit to end from now on began after what was read, so it has written all of that.
            wait_for(partial(commits_reach, agent, commits(agent) + 2), "two commits")
            agent.kill()
            agent = edge(start, tmp_path / "edge", flags, port=edge_port, config=fast).wait_ready()
            kept = samples_of_log(agent, WATCHED[0])
            missing = [t for t in committed[WATCHED[0]] if t not in kept]
            assert not missing, f"the agent lost committed samples of {missing}"
    newest = max(samples_of_log(agent, WATCHED[0]))
    wait_for(lambda: samples_of_hub(server, WATCHED[0])[-1][0] > newest, "the restarted agent's new frames are taken")
    for name in WATCHED:
        log = samples_of_log(agent, name)
        log = {t: v for t, v in log.items() if t <= newest}
        got = samples_of_hub(server, name)
        assert len({t for t, _ in got}) == len(got), f"{name}: samples twice"
        wait_for(partial(hub_has, server, name, log), f"{name} is whole")
        assert acknowledged[name] <= {t for t, _ in got}, f"{name}: the hub lost what it had shown"
