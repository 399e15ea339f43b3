"""A real application over the dictionary model of the store and the real engine."""

from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry

from common.labels import Labels
from common.panel.service import Lamp
from common.promql.engine import Engine, EngineOptions
from common.rules.model import GroupStatus
from common.sample import MetricMeta, MetricType
from common.testing import FakeClock
from common.tsdb.memory import MemoryQuerier
from hub.api.app import make_app
from hub.api.state import (
    ActiveTarget,
    ApiState,
    BuildInfo,
    DroppedTarget,
    FleetRow,
    Health,
    QueryLimits,
    RuntimeInfo,
    WebOptions,
)

T0 = 1_700_000_000_000


@dataclass
class Views:
    """Targets, fleet, panel and rules that a test fills."""

    targets: list[ActiveTarget] = field(default_factory=list)
    drops: list[DroppedTarget] = field(default_factory=list)
    fleet_rows: list[FleetRow] = field(default_factory=list)
    lamp_rows: list[Lamp] = field(default_factory=list)
    group_rows: list[GroupStatus] = field(default_factory=list)
    metas: list[MetricMeta] = field(default_factory=list)

    def active(self) -> Sequence[ActiveTarget]:
        return self.targets

    def dropped(self) -> Sequence[DroppedTarget]:
        return self.drops

    def pools(self) -> Sequence[str]:
        return sorted({t.scrape_pool for t in self.targets})

    def metadata(self, labels: Labels) -> Sequence[MetricMeta]:
        return self.metas

    def rows(self) -> Sequence[FleetRow]:
        return self.fleet_rows

    def lamps(self) -> Sequence[Lamp]:
        return self.lamp_rows

    def groups(self) -> Sequence[GroupStatus]:
        return self.group_rows


class Api:
    """One hub's API: its store, views and a client."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.store = MemoryQuerier()
        self.views = Views()
        self.executor = ThreadPoolExecutor(2)
        self.not_ready = ""
        self.state = ApiState(
            clock=clock,
            querier=self.store,
            executor=self.executor,
            engine=Engine(EngineOptions(), clock),
            rules=self.views,
            targets=self.views,
            fleet=self.views,
            panel=self.views,
            build=BuildInfo("0.1.0", revision="abc"),
            runtime=lambda: RuntimeInfo(clock.now(), "/data", "hub", True, clock.now(), "15d"),
            config_text=lambda: "global: {}\n",
            flags=lambda: {"web.listen-address": ":9090"},
            ready=lambda: self.not_ready,
            registry=CollectorRegistry(),
        )
        self._clients: list[TestClient] = []

    def configure(self, **changes: Any) -> None:
        """Replace fields of the state before the first request."""
        self.state = replace(self.state, **changes)

    def limit(self, **changes: int) -> None:
        """Replace limits of queries before the first request."""
        self.configure(limits=replace(QueryLimits(), **changes))

    def web(self, **changes: Any) -> None:
        """Replace web options before the first request."""
        self.configure(web=replace(WebOptions(), **changes))

    async def client(self) -> TestClient:
        """A client of a running server over the state."""
        if not self._clients:
            client = TestClient(TestServer(make_app(self.state), handler_cancellation=True))
            await client.start_server()
            self._clients.append(client)
        return self._clients[0]

    async def close(self) -> None:
        for client in self._clients:
            await client.close()
        self.executor.shutdown()

    async def get(self, path: str, status: int = 200, **params: Any) -> Any:
        """The JSON that a GET answers, with this status."""
        response = await (await self.client()).get(path, params=params)
        assert response.status == status, await response.text()
        return await response.json()

    async def data(self, path: str, **params: Any) -> Any:
        """`data` of a successful answer."""
        body = await self.get(path, **params)
        assert body["status"] == "success"
        return body["data"]

    async def error(self, path: str, status: int, **params: Any) -> tuple[str, str]:
        """errorType and text of a failed one."""
        body = await self.get(path, status, **params)
        assert body["status"] == "error"
        return body["errorType"], body["error"]

    def fill(self) -> None:
        """Two `up` series and one of another name, from T0 on, every 15 s for 5 minutes."""
        for i in range(21):
            at = T0 + i * 15_000
            self.store.add(Labels.of(__name__="up", instance="a", job="node"), at, 1.0)
            self.store.add(Labels.of(__name__="up", instance="b", job="node"), at, 0.0)
            self.store.add(Labels.of(__name__="temp", instance="a"), at, 40.5 + i)
        self.store.add_metadata(MetricMeta("up", MetricType.GAUGE, "Whether it answers."))


@pytest_asyncio.fixture
async def api(clock: FakeClock) -> AsyncIterator[Api]:
    made = Api(clock)
    yield made
    await made.close()


@pytest.fixture
def target() -> ActiveTarget:
    return ActiveTarget(
        discovered_labels={"__address__": "a:9100"},
        labels=Labels.of(instance="a:9100", job="node"),
        scrape_pool="node",
        scrape_url="http://a:9100/metrics",
        health=Health.UP,
        interval_ms=15_000,
        timeout_ms=10_000,
        last_scrape=T0,  # type: ignore[arg-type]
        last_duration=0.25,
    )
