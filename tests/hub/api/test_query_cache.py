"""Range queries through the API with the result cache: hits are whole, bypassed where asked, and never stale."""

import asyncio
import threading
from typing import Any

import pytest

from common.labels import Labels
from common.testing import settle, until
from common.tsdb.changes import Changes
from common.tsdb.memory import MemoryQuerier
from hub.api.range_cache import RangeCache
from tests.hub.api.conftest import T0, Api

PATH = "/api/v1/query_range"
RANGE = {"start": str(T0 / 1000), "end": str(T0 / 1000 + 240), "step": "30s"}


class Cached:
    """The API over its filled store, with a cache."""

    def __init__(self, api: Api) -> None:
        api.fill()
        self.api = api
        self.changes = Changes()
        self.cache = RangeCache(self.changes, 1 << 20, api.state.registry)
        api.configure(cache=self.cache)

    async def body(self, query: str, headers: dict[str, str] | None = None, **params: str) -> bytes:
        client = await self.api.client()
        response = await client.get(PATH, params={**RANGE, "query": query, **params}, headers=headers or {})
        assert response.status == 200, await response.text()
        return await response.read()

    def add(self, labels: Labels, ms: int, value: float) -> None:
        self.api.store.add(labels, ms, value)
        self.changes.mark(ms, ms)

    def count(self, outcome: str) -> float:
        name = "bramble_hub_result_cache_requests_total"
        return self.api.state.registry.get_sample_value(name, {"outcome": outcome}) or 0.0


@pytest.fixture
def cached(api: Api) -> Cached:
    return Cached(api)


@pytest.mark.parametrize("query", ["temp", "sum(up)", "time()", "stddev(up)", "temp @ end()", "absent(nothing)", "1"])
async def test_a_repeated_query_is_answered_from_the_cache_with_the_same_bytes(cached: Cached, query: str) -> None:
    plain = await cached.body(query, nocache="1")
    assert await cached.body(query) == await cached.body(query) == plain
    assert cached.count("hit") == 1


@pytest.mark.parametrize("more", [{"nocache": "1"}, {"stats": "all"}])
async def test_who_asks_for_it_bypasses_the_cache(cached: Cached, more: dict[str, Any]) -> None:
    await cached.body("temp", **more)
    await cached.body("temp", **more)
    assert (cached.count("bypass"), cached.count("hit"), cached.count("miss")) == (2, 0, 0)


async def test_a_new_sample_is_in_the_next_answer(cached: Cached) -> None:
    await cached.body("up")
    cached.add(Labels.of(__name__="up", instance="new", job="node"), T0 + 100_000, 1.0)
    answer = await cached.body("up")
    assert b'"instance":"new"' in answer
    assert answer == await cached.body("up", nocache="1")


async def test_annotations_are_repeated(cached: Cached) -> None:
    first = await cached.body("rate(temp[2m])")
    assert b'"infos"' in first
    assert await cached.body("rate(temp[2m])") == first
    assert cached.count("hit") == 1


async def test_a_limit_cuts_what_is_cached_and_says_so(cached: Cached) -> None:
    whole = await cached.body("up")
    cut = await cached.body("up", limit="1")
    assert whole.count(b'"metric"') == 2
    assert cut.count(b'"metric"') == 1
    assert b"truncated" in cut
    assert cut == await cached.body("up", limit="1", nocache="1")


async def test_each_coding_has_its_answer(cached: Cached) -> None:
    # The client unpacks; what is the same must be the content.
    plain = await cached.body("up", {"Accept-Encoding": "identity"}, step="1s")
    packed = await cached.body("up", {"Accept-Encoding": "gzip"}, step="1s")
    assert plain == packed == await cached.body("up", {"Accept-Encoding": "gzip"}, step="1s")
    assert len(plain) > 1024


async def test_lookback_makes_another_query(cached: Cached) -> None:
    long = await cached.body("temp", end=str(T0 / 1000 + 500))
    short = await cached.body("temp", end=str(T0 / 1000 + 500), lookback_delta="10s")
    assert len(short) < len(long)
    assert await cached.body("temp", end=str(T0 / 1000 + 500)) == long


async def test_queries_that_print_alike_share_their_rows(cached: Cached) -> None:
    assert await cached.body("sum( up )") == await cached.body("sum(up)")
    assert cached.count("hit") == 1


async def test_errors_stay_errors(cached: Cached) -> None:
    for _ in range(2):
        kind, _ = await cached.api.error(PATH, 400, query="sum(", **RANGE)
        assert kind == "bad_data"
        kind, text = await cached.api.error(PATH, 400, query="up[5m]", **RANGE)
        assert "range vector" in text
    assert cached.count("hit") == 0


class SlowStore:
    """A store that answers when it is let."""

    def __init__(self, store: MemoryQuerier) -> None:
        self._store = store
        self.let = threading.Event()
        self.selects = 0

    def select(self, *args: Any) -> Any:
        self.selects += 1
        self.let.wait(60)
        return self._store.select(*args)


async def test_who_asks_for_what_is_being_computed_waits_for_it(cached: Cached) -> None:
    store = SlowStore(cached.api.store)
    cached.api.configure(querier=store)
    await cached.api.client()
    requests = [asyncio.create_task(cached.body("up")) for _ in range(3)]
    await until(lambda: store.selects)
    store.let.set()
    first, *others = await asyncio.gather(*requests)
    assert others == [first, first]
    assert store.selects == 1


async def test_what_changed_since_the_other_began_is_computed_anew(cached: Cached) -> None:
    store = SlowStore(cached.api.store)
    cached.api.configure(querier=store)
    await cached.api.client()
    early = asyncio.create_task(cached.body("up"))
    await until(lambda: store.selects)
    cached.add(Labels.of(__name__="up", instance="new", job="node"), T0 + 100_000, 1.0)
    late = asyncio.create_task(cached.body("up"))
    await until(lambda: store.selects == 2)
    store.let.set()
    assert b"new" in await late
    await early


async def test_when_the_first_client_leaves_the_others_get_their_answer(cached: Cached) -> None:
    store = SlowStore(cached.api.store)
    cached.api.configure(querier=store)
    await cached.api.client()
    first = asyncio.create_task(cached.body("up"))
    await until(lambda: store.selects)
    second = asyncio.create_task(cached.body("up"))
    await settle()
    first.cancel()
    await until(lambda: store.selects == 2)
    store.let.set()
    assert b'"instance":"a"' in await second


async def test_one_step_alone_is_never_joined(cached: Cached) -> None:
    end = RANGE["start"]
    assert await cached.body("up", end=end) == await cached.body("up", nocache="1", end=end)
