"""edge/api.py: what HTTP clients get."""

import asyncio
import gzip
import threading
from array import array
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytest_asyncio
import zstandard
from aiohttp.test_utils import TestClient, TestServer

from common.exposition.model import Desc
from common.frames.codec import decode
from common.frames.model import Schema, SubSchema, decode_schema
from common.frames.ranges import parse_have
from common.labels import Labels
from common.sample import MetricType, Millis
from common.serve import Connections, ServeLimits
from common.supervisor import Heartbeats
from common.testing import FakeClock, until
from edge import api as module
from edge.api import About, EdgeApi, Gatherer, federate_text, parse_selections
from edge.collectors.base import Collector, NoOptions, Paths, Reading, Skip
from edge.collectors.runner import Runner
from edge.config import WebConfig
from edge.log import Log, LogOptions
from edge.metrics import EdgeMetrics
from edge.rows import Slot
from edge.sampler import Latest, Sampler

LOAD = Desc("node_load1", MetricType.GAUGE, "1m load average.")
CPU = Desc("node_cpu_seconds_total", MetricType.COUNTER, "Seconds.", ("cpu", "mode"))
FRAMES = {"Accept": "application/vnd.bramble.frames;version=1"}


class Load(Collector):
    name = "loadavg"
    descs = (LOAD,)

    def collect(self, skip: Skip) -> list[Reading]:
        return [(LOAD, (), 0.5)]


class Cpu(Collector):
    name = "cpu"
    descs = (CPU,)
    runs = 0
    gate = threading.Event()

    def collect(self, skip: Skip) -> list[Reading]:
        Cpu.runs += 1
        Cpu.gate.wait(60)
        return [(CPU, ("0", "idle"), 10.0), (CPU, ("0", 'us"er'), 2.0)]


@pytest_asyncio.fixture
async def agent(tmp_path: Path) -> AsyncIterator[SimpleNamespace]:
    """An API over a real log, runner and sampler, with a test client; `tick()` samples once."""
    Cpu.runs = 0
    Cpu.gate.set()
    clock = FakeClock()
    metrics = EdgeMetrics("1.2.3")
    runner = Runner([kind(Paths(), NoOptions(), clock) for kind in (Load, Cpu)], clock, 30.0)
    gatherer = Gatherer(runner, metrics)
    log = Log.open(tmp_path / "log", LogOptions(), clock)
    with ThreadPoolExecutor(4) as executor:
        sampler = Sampler(gatherer.collect, log, clock, metrics, executor, 15_000, Heartbeats(clock))
        api = EdgeApi(
            gatherer,
            log,
            lambda: sampler.latest,
            metrics,
            clock,
            executor,
            About("1.2.3", "pi<4>"),
            WebConfig(max_requests=3),
            Connections(ServeLimits(), clock),
        )
        async with TestClient(TestServer(api.app)) as client:

            async def tick() -> None:
                await clock.advance(15)
                await asyncio.get_running_loop().run_in_executor(executor, sampler.sample, clock.now())

            await tick()
            yield SimpleNamespace(
                client=client, log=log, clock=clock, metrics=metrics, sampler=sampler, tick=tick, runner=runner
            )
        Cpu.gate.set()
        runner.close()
        log.close()


def in_flight(agent: SimpleNamespace) -> float:
    """How many requests are being answered."""
    return float(agent.metrics.registry.get_sample_value("bramble_edge_http_requests_in_flight"))


async def text_of(agent: SimpleNamespace, path: str, status: int = 200, **headers: str) -> str:
    async with agent.client.get(path, headers=headers) as response:
        body = await response.text()
        assert response.status == status, body
        assert response.headers["Server"] == "bramble-edge/1.2.3"
        return str(body)


async def test_metrics_are_fresh_readings_with_the_collectors_fate_and_own_metrics(agent: SimpleNamespace) -> None:
    page = await text_of(agent, "/metrics")
    assert 'node_cpu_seconds_total{cpu="0",mode="us\\"er"} 2.0\n' in page
    assert 'node_scrape_collector_success{collector="cpu"} 1.0\n' in page
    assert "# TYPE bramble_edge_slots_total counter\nbramble_edge_slots_total 1.0\n" in page
    assert 'bramble_edge_build_info{version="1.2.3"' in page
    assert "process_resident_memory_bytes" in page
    assert "_created" not in page


async def test_openmetrics_is_given_where_asked_for(agent: SimpleNamespace) -> None:
    async with agent.client.get("/metrics", headers={"Accept": "application/openmetrics-text"}) as response:
        assert response.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
        page = await response.text()
    assert page.endswith("# EOF\n")
    assert "# TYPE node_cpu_seconds counter\n" in page
    assert "# TYPE bramble_edge_commit_duration_seconds summary\n" in page


async def test_pages_are_compressed_where_the_client_takes_it(agent: SimpleNamespace) -> None:
    async with agent.client.get("/metrics", headers={"Accept-Encoding": "gzip"}, skip_auto_headers=()) as response:
        assert response.headers["Content-Encoding"] == "gzip"
    client = TestClient(agent.client.server, auto_decompress=False)
    async with client:
        async with client.get("/metrics", headers={"Accept-Encoding": "gzip"}) as response:
            assert b"node_load1 0.5\n" in gzip.decompress(await response.read())
        async with client.get("/metrics", headers={"Accept-Encoding": "gzip, zstd"}) as response:
            assert response.headers["Content-Encoding"] == "zstd"
            assert b"node_load1 0.5\n" in zstandard.decompress(await response.read())


async def test_collectors_can_be_chosen_and_excluded(agent: SimpleNamespace) -> None:
    chosen = await text_of(agent, "/metrics?collect[]=loadavg")
    assert "node_load1" in chosen
    assert "node_cpu" not in chosen
    assert "node_load1" not in await text_of(agent, "/metrics?exclude[]=loadavg")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("collect[]=nope", "missing or disabled collector: nope"),
        ("collect[]=cpu&exclude[]=cpu", "Combined collect and exclude queries are not allowed."),
    ],
)
async def test_impossible_choices_are_answered_with_400(agent: SimpleNamespace, query: str, message: str) -> None:
    assert message in await text_of(agent, f"/metrics?{query}", 400)


async def test_equal_scrapes_at_the_same_time_share_one_run(agent: SimpleNamespace) -> None:
    Cpu.gate.clear()
    before = Cpu.runs
    scrapes = [asyncio.create_task(text_of(agent, "/metrics")) for _ in range(3)]
    await until(lambda: in_flight(agent) == 3 and Cpu.runs > before)
    Cpu.gate.set()
    first, second, third = await asyncio.gather(*scrapes)
    assert first == second == third
    assert Cpu.runs == before + 1


async def test_requests_beyond_the_limit_are_refused_and_the_others_answered(agent: SimpleNamespace) -> None:
    Cpu.gate.clear()
    scrapes = [asyncio.create_task(text_of(agent, "/metrics")) for _ in range(3)]
    await until(lambda: in_flight(agent) == 3)
    assert "Limit of concurrent requests reached (3)" in await text_of(agent, "/metrics", 503)
    Cpu.gate.set()
    await asyncio.gather(*scrapes)
    assert agent.metrics.registry.get_sample_value("bramble_edge_http_requests_refused_total") == 1


async def test_federation_gives_the_latest_stored_samples_as_prometheus_does(agent: SimpleNamespace) -> None:
    page = await text_of(agent, "/federate?match[]=node_cpu_seconds_total{mode=~%22i.*%22}&match[]=node_load1")
    assert page == (
        "# TYPE node_cpu_seconds_total untyped\n"
        'node_cpu_seconds_total{cpu="0",mode="idle",instance=""} 10.0 1700000015000\n'
        "# TYPE node_load1 untyped\n"
        'node_load1{instance=""} 0.5 1700000015000\n'
    )


async def test_federation_without_selection_is_empty(agent: SimpleNamespace) -> None:
    assert await text_of(agent, "/federate") == ""


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("match[]={", "parse error"),
        ("match[]=rate(x[5m])", "expected a series selector"),
        ("match[]=x+offset+5m", "expected a series selector"),
        ("match[]={}", ""),
        ("&".join(["match[]=x"] * 65), "more than 64 match"),
    ],
)
async def test_a_bad_selection_is_answered_with_400(agent: SimpleNamespace, query: str, message: str) -> None:
    assert message in await text_of(agent, f"/federate?{query}", 400)


async def test_samples_older_than_the_lookback_are_not_federated(agent: SimpleNamespace) -> None:
    agent.clock.step(300_001)
    assert await text_of(agent, "/federate?match[]=node_load1") == ""


async def test_frames_hold_what_was_sampled_and_say_who_sends_them(agent: SimpleNamespace) -> None:
    await agent.tick()
    async with agent.client.get("/federate", headers=FRAMES) as response:
        assert response.headers["Content-Type"] == "application/vnd.bramble.frames;version=1"
        assert response.headers["Bramble-Source"] == agent.log.source_id.hex()
        assert response.headers["Bramble-Epoch"] == f"{agent.log.epoch:016x}"
        held = parse_have(response.headers["Bramble-Log"])
        frame = decode(await response.read())
    assert 0 in held[agent.log.epoch]
    assert list(frame.timestamps) == [1_700_000_015_000, 1_700_000_030_000]
    async with agent.client.get(f"/federate/schema?hash={frame.header.schema.hex()}") as response:
        schema = decode_schema(await response.read())
    row = list(schema.labels()).index(Labels.of(__name__="node_load1"))
    assert list(frame.values[row]) == [0.5, 0.5]


async def test_a_hub_gets_nothing_that_it_has(agent: SimpleNamespace) -> None:
    have = f"have={agent.log.epoch:016x}:0"
    async with agent.client.get(f"/federate?{have}", headers=FRAMES) as response:
        assert await response.read() == b""
    await agent.tick()
    async with agent.client.get(f"/federate?{have}", headers=FRAMES) as response:
        assert list(decode(await response.read()).timestamps) == [1_700_000_030_000]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("have=zz", "expected an epoch of 16 hex digits"),
        ("order=random", "order: expected one of newest, oldest, got 'random'"),
        ("max_bytes=-1", "max_bytes: expected a whole number above 0"),
        ("max_bytes=1e9", "max_bytes: expected a whole number above 0"),
    ],
)
async def test_bad_parameters_of_a_pull_are_named(agent: SimpleNamespace, query: str, message: str) -> None:
    assert message in await text_of(agent, f"/federate?{query}", 400, **FRAMES)


async def test_unknown_and_malformed_schema_hashes_differ(agent: SimpleNamespace) -> None:
    assert "no schema" in await text_of(agent, f"/federate/schema?hash={'0' * 32}", 404)
    assert "expected 32 hex digits" in await text_of(agent, "/federate/schema?hash=xyz", 400)


async def test_health_and_the_landing_page(agent: SimpleNamespace) -> None:
    assert await text_of(agent, "/-/healthy") == "Bramble Edge is Healthy.\n"
    assert await text_of(agent, "/-/ready") == "Bramble Edge is Ready.\n"
    page = await text_of(agent, "/")
    assert 'href="/metrics"' in page
    assert "<td>cpu</td><td>ok</td>" in page
    assert "pi&lt;4&gt;" in page


async def test_it_is_not_ready_before_the_first_slot(agent: SimpleNamespace) -> None:
    agent.sampler.latest = None
    assert "nothing was stored yet" in await text_of(agent, "/-/ready", 503)


async def test_unknown_paths_and_methods_are_refused(agent: SimpleNamespace) -> None:
    assert "Not Found" in await text_of(agent, "/nope", 404)
    async with agent.client.post("/metrics", data=b"x") as response:
        assert response.status == 405
        assert "GET" in response.headers["Allow"]


async def test_a_request_that_breaks_costs_only_itself(agent: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent.runner, "outcomes", lambda: 1 / 0)
    assert "internal error: ZeroDivisionError" in await text_of(agent, "/", 500)
    assert "node_load1" in await text_of(agent, "/metrics")


async def test_a_client_that_does_not_read_is_cut_off(agent: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEND_SECONDS", 0.05)
    # Few long ones: making many would hold the loop.
    rows = tuple(Labels.of(__name__="big", n="x" * 2_000 + str(i)) for i in range(5_000))
    slot = Slot(Schema((SubSchema("big", rows),)), array("d", bytes(8 * len(rows))), b"\1" * len(rows))
    agent.sampler.latest = Latest(agent.clock.now(), slot)
    reader, writer = await asyncio.open_connection("127.0.0.1", agent.client.server.port, limit=1024)
    writer.write(b"GET /federate?match[]=big HTTP/1.1\r\nHost: x\r\n\r\n")
    await until(lambda: agent.metrics.registry.get_sample_value("bramble_edge_http_slow_clients_total") == 1)
    assert len(await reader.read(-1)) < 10_000_000
    writer.close()


def test_stale_and_absent_rows_are_not_federated() -> None:
    rows = tuple(Labels.of(__name__="m", i=str(i)) for i in range(3))
    slot = Slot(Schema((SubSchema("c", rows),)), array("d", [1.0, 2.0, 3.0]), bytes([0, 1, 2]))
    text = federate_text(Latest(Millis(5), slot), parse_selections(["m"]), 5)
    assert text == '# TYPE m untyped\nm{i="1",instance=""} 2.0 5\n'


async def test_own_metrics_can_be_left_off_the_page_but_not_out_of_the_log(agent: SimpleNamespace) -> None:
    gatherer = Gatherer(agent.runner, agent.metrics, show_own=False)
    page = gatherer.page(None, "text", "identity")
    assert b"bramble_edge_" not in page
    assert b"node_load1" in page
    assert any(b"bramble_edge_slots_total" in r[0].name.encode() for r in gatherer.collect()[-1].samples)
