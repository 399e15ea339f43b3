"""Pulling from agents: what good ones give, and how each kind of bad one is told from the others."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from prometheus_client import CollectorRegistry

from common.config import Size
from common.errors import StorageError
from common.frames.codec import encode
from common.frames.model import MEDIA_TYPE, Epoch, FrameKey, Schema, SourceId, SubSchema, encode_schema
from common.frames.ranges import RangeSet, format_have, parse_have
from common.labels import Labels, Matcher, MatchType
from common.sample import Millis
from common.testing import FakeClock
from common.tsdb.options import StoreOptions
from common.tsdb.room import Room
from common.tsdb.store import Store
from hub.config import BrambleConfig
from hub.fleet import Announced, Device, Fleet, State
from hub.intake.commit import Committer
from hub.intake.pull import AgentClient, Puller
from hub.metrics import IntakeMetrics

PI = SourceId(b"\x01" * 16)
OTHER = SourceId(b"\x02" * 16)
EPOCH = Epoch(7)
SCHEMA = Schema((SubSchema("cpu", (Labels.of(__name__="busy", cpu="0"), Labels.of(__name__="busy", cpu="1"))),))
LIMIT = 50_000
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def frame(seq: int, source: SourceId = PI, schema: Schema = SCHEMA, at: int | None = None) -> bytes:
    """One slot of `schema`, a second apart."""
    stamp = 1_700_000_000_000 + seq * 1000 if at is None else at
    key = FrameKey(source, EPOCH, seq, 0, schema.hash)
    return encode(key, [stamp], np.full((schema.rows, 1), float(seq)))


@dataclass
class Agent:
    """A small agent over HTTP, whose every answer can be replaced."""

    source: SourceId = PI
    frames: dict[int, bytes] = field(default_factory=lambda: {n: frame(n) for n in range(5)})
    per_answer: int = 2
    asked: list[str] = field(default_factory=list)
    federate: Handler | None = None
    schema: Handler | None = None

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/federate", self._federate)
        app.router.add_get("/federate/schema", self._schema)
        return app

    def headers(self, **more: str) -> dict[str, str]:
        log = format_have({EPOCH: RangeSet.of(*self.frames)})
        return {"Content-Type": MEDIA_TYPE, "Bramble-Source": self.source.hex(), "Bramble-Log": log, **more}

    async def _federate(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.query["have"])
        if self.federate is not None:
            return await self.federate(request)
        have = parse_have(request.query["have"]).get(EPOCH, RangeSet())
        missing = [n for n in sorted(self.frames, reverse=True) if n not in have][: self.per_answer]
        return web.Response(body=b"".join(self.frames[n] for n in missing), headers=self.headers())

    async def _schema(self, request: web.Request) -> web.StreamResponse:
        if self.schema is not None:
            return await self.schema(request)
        assert request.query["hash"] == SCHEMA.hash.hex()
        return web.Response(body=encode_schema(SCHEMA))


@dataclass
class Rig:
    """A puller over a real store; times stand still unless the test moves them."""

    fleet: Fleet
    store: Store
    puller: Puller
    clock: FakeClock
    stack: AsyncExitStack

    async def serve(self, agent: Agent) -> str:
        server = TestServer(agent.app(), host="127.0.0.1")
        await self.stack.enter_async_context(server)
        return f"127.0.0.1:{server.port}"

    async def device(self, agent: Agent) -> Device:
        """An agent that mDNS has found."""
        address = await self.serve(agent)
        self.puller.seen(Announced(agent.source, f"pi{agent.source[0]}", 9100, (address,)))
        return self.fleet.devices[agent.source]

    async def visit(self, device: Device) -> str:
        """Pull once; the reason if it failed."""
        await self.puller.visit(device.source)
        return device.error

    def samples(self) -> dict[tuple[str, int], float]:
        """All stored samples of the CPU 0 by instance and time."""
        found = {}
        matchers = [Matcher(MatchType.EQ, "__name__", "busy"), Matcher(MatchType.EQ, "cpu", "0")]
        for batch in self.store.select(matchers, Millis(0), Millis(2**60)):
            for row, labels in enumerate(batch.labels):
                times = batch.timelines[batch.timeline_of[row]].timestamps.tolist()
                for at, value in zip(times, batch.values[row].tolist(), strict=False):
                    found[labels.get("instance"), at] = value
        return found


@pytest_asyncio.fixture
async def rig(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Rig]:
    async with AsyncExitStack() as stack:
        store = Store.open(tmp_path, StoreOptions(), clock)
        stack.callback(store.close)
        lane = stack.enter_context(ThreadPoolExecutor(1))
        config = BrambleConfig(pull_size_limit=Size(LIMIT))
        fleet = Fleet(config.pull_interval, config.lost_after)
        client = AgentClient(config.timeout, config.pull_size_limit)
        committer = Committer(store, lane, clock)
        metrics = IntakeMetrics(CollectorRegistry())
        puller = Puller(fleet, store, client, committer, lane, config, clock, metrics)
        yield Rig(fleet, store, puller, clock, stack)


async def test_everything_is_pulled_newest_first_and_stored_under_the_devices_labels(rig: Rig) -> None:
    agent = Agent()
    device = await rig.device(agent)
    assert await rig.visit(device) == ""
    assert rig.samples() == {("pi1:9100", 1_700_000_000_000 + n * 1000): float(n) for n in range(5)}
    assert agent.asked == ["", "0000000000000007:3-4", "0000000000000007:1-4"]


async def test_a_range_counts_as_had_only_once_it_is_durable(rig: Rig) -> None:
    device = await rig.device(Agent())
    await rig.visit(device)
    assert rig.store.have(PI) == {}
    rig.store.commit()
    assert rig.store.have(PI) == {EPOCH: RangeSet([(0, 4)])}


async def test_nothing_is_stored_twice_when_an_agent_repeats_itself(rig: Rig) -> None:
    agent = Agent()
    device = await rig.device(agent)
    await rig.visit(device)

    async def all_again(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"".join(agent.frames.values()), headers=agent.headers())

    agent.federate = all_again
    assert await rig.visit(device) == ""
    assert rig.store.stats().samples == 10
    assert rig.store.stats().frames["duplicate"] == 5


async def test_the_budget_of_an_interval_leaves_the_rest_for_the_next(rig: Rig) -> None:
    agent = Agent(frames={n: frame(n) for n in range(60)}, per_answer=1)
    device = await rig.device(agent)
    puller = rig.puller
    puller._config = BrambleConfig(backlog_rate=Size(3 * len(frame(0))), pull_size_limit=Size(LIMIT))
    await rig.visit(device)
    assert len(rig.samples()) == 3
    assert (device.behind, device.backlog.pending) == (True, 57)
    await rig.visit(device)
    assert len(rig.samples()) == 6


async def test_a_static_address_is_identified_by_its_first_answer(rig: Rig) -> None:
    address = await rig.serve(Agent())
    rig.fleet.set_static([address])
    assert await rig.puller.visit(address) is False
    assert rig.fleet.devices[PI].instance == address
    assert len(rig.samples()) == 5


async def test_an_agent_whose_log_is_too_long_to_list_is_told_everything_the_hub_has(rig: Rig) -> None:
    agent = Agent()
    device = await rig.device(agent)
    await rig.visit(device)
    agent.frames[5] = frame(5)

    async def cut(request: web.Request) -> web.StreamResponse:
        return web.Response(body=agent.frames[5], headers=agent.headers() | {"Bramble-Log": "0000000000000009:0;+"})

    agent.federate = cut
    await rig.visit(device)
    await rig.visit(device)
    assert agent.asked[-1] == "0000000000000007:0-5"
    assert device.backlog.gone == 0


async def test_an_agent_with_nothing_yet_is_late_and_not_failed(rig: Rig) -> None:
    device = await rig.device(Agent(frames={}))
    assert await rig.visit(device) == ""
    assert rig.fleet.status(device, rig.clock.now(), rig.clock.monotonic()).state is State.LATE


def answer(body: bytes = b"", status: int = 200, **headers: str) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        base = {"Content-Type": MEDIA_TYPE, "Bramble-Source": PI.hex(), "Bramble-Log": ""}
        return web.Response(
            body=body, status=status, headers={**base, **{k.replace("_", "-"): v for k, v in headers.items()}}
        )

    return handle


async def never(request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def trickle(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": MEDIA_TYPE, "Bramble-Source": PI.hex()})
    await response.prepare(request)
    await response.write(frame(0)[:10])
    await asyncio.Event().wait()
    return response


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": MEDIA_TYPE, "Bramble-Source": PI.hex()})
    await response.prepare(request)
    while True:
        await response.write(b"x" * 10_000)


async def hang_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def promise_more(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": MEDIA_TYPE, "Bramble-Source": PI.hex()})
    response.content_length = 1000
    await response.prepare(request)
    await response.write(b"short")
    assert request.transport is not None
    request.transport.close()
    return response


FLIPPED = bytearray(frame(0))
FLIPPED[-1] ^= 1

BAD: dict[str, tuple[Handler, str]] = {
    "500": (answer(b"full\nmore", 500), "it answers /federate with HTTP status 500 Internal Server Error: full"),
    "404": (answer(status=404), "it answers /federate with HTTP status 404 Not Found"),
    "redirect": (answer(status=302, Location="http://x/"), "it answers /federate with HTTP status 302 Found"),
    "a page": (answer(b"<html>", Content_Type="text/html"), "it is no agent of this kind: it answers with text/html"),
    "no id": (answer(Bramble_Source=""), "its header Bramble-Source is not an id: ''"),
    "short id": (answer(Bramble_Source="0102"), "its header Bramble-Source is not an id: '0102'"),
    "bad log": (answer(Bramble_Log="7:1"), "its header Bramble-Log is wrong: expected an epoch"),
    "rubbish": (answer(b"x" * 200), "the answer is not made of frames: no frame at byte 0"),
    "half a header": (answer(frame(0)[:50]), "the answer is not made of frames: cut inside a frame header"),
    "half a frame": (answer(frame(0)[:-1]), "the answer ends inside a frame"),
    "a frame of another": (answer(frame(0, OTHER)), "the answer has a frame of another device (02020202)"),
    "flipped bit": (answer(bytes(FLIPPED)), "the hub can't use a frame of it (damaged): "),
    "endless": (endless, "body size limit exceeded: more than 48.8 KiB"),
    "huge": (answer(b"x" * (LIMIT + 1)), "body size limit exceeded: 48.8 KiB announced, at most 48.8 KiB"),
    "hangs up": (hang_up, "it closed the connection without an answer"),
    "promises more": (promise_more, "the answer was cut off"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
async def test_an_agent_that_answers_badly_is_marked_with_the_reason_and_another_is_not(rig: Rig, kind: str) -> None:
    handler, reason = BAD[kind]
    bad = await rig.device(Agent(federate=handler))
    good_agent = Agent(source=OTHER, frames={n: frame(n, OTHER) for n in range(5)})
    good = await rig.device(good_agent)
    async with asyncio.TaskGroup() as group:
        group.create_task(rig.puller.visit(bad.source))
        group.create_task(rig.puller.visit(good.source))
    assert bad.error.startswith(reason)
    assert (bad.ok, good.ok) == (False, True)
    assert {instance for instance, _ in rig.samples()} == {"pi2:9100"}
    assert rig.fleet.status(bad, rig.clock.now(), rig.clock.monotonic()).state is State.UNREACHABLE


@pytest.mark.parametrize("handler", [never, trickle])
async def test_an_agent_that_does_not_end_its_answer_is_marked_and_holds_up_no_other(
    rig: Rig, handler: Handler
) -> None:
    silent = await rig.device(Agent(federate=handler))
    good = await rig.device(Agent(source=OTHER, frames={n: frame(n, OTHER) for n in range(5)}))
    visit = asyncio.create_task(rig.puller.visit(silent.source))
    assert await rig.visit(good) == ""
    assert not visit.done()
    visit.cancel()
    rig.puller._client = AgentClient(timeout_ms=200, size_limit=LIMIT)
    assert await rig.visit(silent) == "context deadline exceeded: no complete answer within 200ms"
    assert rig.fleet.status(silent, rig.clock.now(), rig.clock.monotonic()).state is State.UNREACHABLE
    assert {instance for instance, _ in rig.samples()} == {"pi2:9100"}


async def test_an_agent_that_is_not_there_is_marked_with_the_reason(rig: Rig) -> None:
    rig.puller.seen(Announced(PI, "pi", 9100, ("127.0.0.1:1",)))
    await rig.puller.visit(PI)
    assert rig.fleet.devices[PI].error == "connect: connection refused"


async def test_after_a_failure_the_next_good_answer_clears_it(rig: Rig) -> None:
    agent = Agent(federate=answer(status=500))
    device = await rig.device(agent)
    await rig.visit(device)
    agent.federate = None
    assert await rig.visit(device) == ""
    assert len(rig.samples()) == 5


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (answer(status=404), "it answers /federate/schema with HTTP status 404 Not Found"),
        (answer(b"junk"), "its schema "),
        (answer(encode_schema(Schema((SubSchema("x", (Labels.of(__name__="y"),)),)))), "its schema "),
    ],
)
async def test_frames_without_a_good_schema_are_not_stored(rig: Rig, handler: Handler, reason: str) -> None:
    device = await rig.device(Agent(schema=handler))
    assert (await rig.visit(device)).startswith(reason)
    assert rig.samples() == {}


async def test_a_frame_that_stays_damaged_is_given_up_and_the_others_are_taken(rig: Rig) -> None:
    agent = Agent(frames={0: bytes(FLIPPED), 1: frame(1), 2: frame(2)}, per_answer=3)
    device = await rig.device(agent)
    for _ in range(2):
        assert "damaged" in await rig.visit(device)
    assert await rig.visit(device) == ""
    assert sorted(rig.samples().values()) == [1.0, 2.0]
    assert (device.backlog.pending, device.backlog.gone) == (0, 1)
    rig.clock.step(1_700_000_002_000 - rig.clock.now())
    assert rig.fleet.status(device, rig.clock.now(), rig.clock.monotonic()).reason == "1 damaged frames were left out"
    assert rig.store.stats().frames["quarantined"] == 2


async def test_a_schema_that_is_not_to_be_had_holds_up_its_own_frames_only(rig: Rig) -> None:
    strange = Schema((SubSchema("x", (Labels.of(__name__="y"),)),))

    async def some(request: web.Request) -> web.StreamResponse:
        if request.query["hash"] == SCHEMA.hash.hex():
            return web.Response(body=encode_schema(SCHEMA))
        return web.Response(status=404)

    agent = Agent(frames={0: frame(0), 1: frame(1, schema=strange), 2: frame(2)}, per_answer=3, schema=some)
    device = await rig.device(agent)
    assert await rig.visit(device) == "it answers /federate/schema with HTTP status 404 Not Found"
    assert sorted(rig.samples().values()) == [0.0, 2.0]


async def test_another_device_at_an_address_is_no_answer_of_the_first(rig: Rig) -> None:
    agent = Agent(source=OTHER, frames={n: frame(n, OTHER) for n in range(5)})
    address = await rig.serve(agent)
    rig.puller.seen(Announced(PI, "pi", 9100, (address,)))
    await rig.puller.visit(PI)
    assert rig.fleet.devices[PI].error == f"{address} is now answered by another device (02020202)"
    assert rig.fleet.devices[PI].addresses == {}
    assert rig.samples() == {}


async def test_frames_of_a_refused_schema_fail_the_pull_and_say_the_limit(rig: Rig) -> None:
    rig.store._options = StoreOptions(max_series_per_source=1)
    device = await rig.device(Agent())
    assert "limit max_series_per_source" in await rig.visit(device)


async def test_a_full_disk_marks_the_device_and_loses_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    device = await rig.device(Agent(frames={0: frame(0)}))
    await rig.visit(device)

    def full() -> None:
        raise StorageError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(rig.store._wal, "commit", full)
        with pytest.raises(StorageError):
            rig.store.commit()
        device_agent = Agent(source=OTHER, frames={0: frame(0, OTHER)})
        other = await rig.device(device_agent)
        assert "no space left on device" in await rig.visit(other)
    rig.store.commit()
    assert await rig.visit(other) == ""
    assert len(rig.samples()) == 2


async def test_memory_over_its_limit_pauses_pulls_and_nothing_is_lost(rig: Rig) -> None:
    taken = [1000]
    rig.store._room = Room(1000, rig.clock, lambda: taken[0])
    device = await rig.device(Agent(frames={n: frame(n) for n in range(3)}))
    assert "limit max_head_bytes" in await rig.visit(device)
    assert rig.samples() == {}
    assert rig.store.stats().refused["max_head_bytes"] == 1
    taken[0] = 0
    rig.store._room.changed()
    assert await rig.visit(device) == ""
    assert len(rig.samples()) == 3


async def test_an_address_that_is_taken_out_while_it_is_asked_is_forgotten(rig: Rig) -> None:
    async def reload(request: web.Request) -> web.StreamResponse:
        rig.puller.set_static([])
        return web.Response(status=500)

    address = await rig.serve(Agent(federate=reload))
    rig.puller.set_static([address])
    assert await rig.puller.visit(address) is False
    assert rig.fleet.strangers == {}
