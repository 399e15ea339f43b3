"""Pulls frames from agents: asks by ranges, verifies, appends. A loop a device: trouble stays where it arises."""

import asyncio
import random
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import ParamSpec, TypeVar
from urllib.parse import urlencode

from common.clock import Clock
from common.errors import BrambleError, FormatError, FrameError, LimitError, RemoteError
from common.frames.model import (
    MEDIA_TYPE,
    NO_SCHEMA,
    VERSION,
    Epoch,
    FrameHeader,
    SchemaHash,
    SourceId,
    decode_schema,
    read_header,
)
from common.frames.ranges import EMPTY, Have, RangeSet, format_have, is_cut, parse_have
from common.labels import Labels
from common.logs import EventLog
from common.sample import Millis
from common.tsdb.options import Outcome
from common.tsdb.store import Store
from hub.config import DEFAULT_AGENT_PORT, BrambleConfig, parse_address
from hub.fleet import Announced, Device, Fleet, Success, question
from hub.intake.commit import Committer
from hub.intake.direct import Direct
from hub.intake.http import describe
from hub.metrics import IntakeMetrics

P = ParamSpec("P")
T = TypeVar("T")

ACCEPT = f"{MEDIA_TYPE};version={VERSION}"
MAX_HAVE_CHARACTERS = 40_000
"""Of the `have` in a URL; agents take request lines of 64 KiB. What is cut off is sent again, no harm done."""
MAX_CONNECTIONS = 4_096
"""Connections to agents that are kept; the one that was used longest ago makes room."""
MAX_SCHEMA_BYTES = 16 << 20
MAX_SCHEMAS_PER_PULL = 256
MAX_ATTEMPTS = 2
"""How often a frame that arrives damaged is asked for."""
MAX_DAMAGED = 4_096
"""Damaged frames of one device that are remembered."""
START_SPREAD_SECONDS = 1.0

_log = EventLog("pull")


@dataclass(frozen=True, slots=True)
class Answer:
    """What an agent sent, checked as far as headers go."""

    source: SourceId
    available: Have
    complete: bool
    body: bytes
    frames: list[tuple[int, FrameHeader]]


@dataclass(slots=True)
class Taken:
    """What the store made of an answer; `problem` says why it did not take all."""

    frames: int = 0
    samples: int = 0
    size: int = 0
    newest: Millis | None = None
    have: dict[Epoch, RangeSet] = field(default_factory=dict)
    rows: dict[int, tuple[Millis, int]] = field(default_factory=dict)
    """By lane: time of the newest frame and its rows."""
    damaged: list[tuple[Epoch, int]] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    problem: str = ""


class _OtherDeviceError(RemoteError):
    """Another device than the one expected answers at an address."""

    def __init__(self, source: SourceId) -> None:
        super().__init__(f"another device answers there ({source.hex()[:8]})")
        self.source = source


def split_frames(body: bytes, source: SourceId) -> list[tuple[int, FrameHeader]]:
    """Offsets and headers of the frames in `body`; RemoteError if they are not all whole and from `source`."""
    found: list[tuple[int, FrameHeader]] = []
    offset = 0
    while offset < len(body):
        try:
            header = read_header(body, offset)
        except FrameError as err:
            raise RemoteError(f"the answer is not made of frames: {err}") from None
        if header.source != source:
            raise RemoteError(f"the answer has a frame of another device ({header.source.hex()[:8]})")
        if offset + header.length > len(body):
            raise RemoteError("the answer ends inside a frame")
        found.append((offset, header))
        offset += header.length
    return found


class AgentClient:
    """HTTP to agents; every method raises RemoteError with a reason that an operator understands."""

    def __init__(self, timeout_ms: int, size_limit: int) -> None:
        self._timeout = timeout_ms / 1000
        self._limit = size_limit
        self._connections: OrderedDict[str, Direct] = OrderedDict()

    def close(self) -> None:
        """Close all connections."""
        while self._connections:
            self._connections.popitem()[1].close()

    def _connection(self, address: str) -> Direct:
        """The kept connection to an address, the least recently used one given up for a new one beyond the limit."""
        direct = self._connections.get(address)
        if direct is None or direct.busy:
            host, port = parse_address(address)
            direct = self._connections[address] = Direct(host, port or DEFAULT_AGENT_PORT)
        self._connections.move_to_end(address)
        if len(self._connections) > MAX_CONNECTIONS:
            self._connections.popitem(last=False)[1].close()
        return direct

    async def frames(self, address: str, have: Have, max_bytes: int) -> Answer:
        """The newest frames that `have` lacks, about `max_bytes` of them."""
        params = {
            "have": format_have(have, MAX_HAVE_CHARACTERS),
            "order": "newest",
            "max_bytes": str(max_bytes),
        }
        headers, body = await self._get(address, "/federate", params, self._limit)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != MEDIA_TYPE:
            raise RemoteError(f"it is no agent of this kind: it answers with {kind[:60] or 'no content type'}")
        key = headers.get("bramble-source", "")
        try:
            source = SourceId(bytes.fromhex(key))
            if len(source) != 16:
                raise ValueError
            log = headers.get("bramble-log", "")
            available = parse_have(log)
        except FormatError as err:
            raise RemoteError(f"its header Bramble-Log is wrong: {err}") from None
        except ValueError:
            raise RemoteError(f"its header Bramble-Source is not an id: {key[:40]!r}") from None
        return Answer(source, available, not is_cut(log), body, split_frames(body, source))

    async def schema(self, address: str, key: SchemaHash) -> bytes:
        """The schema with that hash, as bytes."""
        _, body = await self._get(address, "/federate/schema", {"hash": key.hex()}, MAX_SCHEMA_BYTES)
        return body

    async def _get(
        self, address: str, path: str, params: dict[str, str], limit: int
    ) -> tuple[Mapping[str, str], bytes]:
        """Header fields (names in lower case) and body."""
        query = urlencode(params, safe=":,")
        lines = [f"GET {path}?{query} HTTP/1.1", f"Host: {address}", f"Accept: {ACCEPT}", "Accept-Encoding: identity"]
        direct = self._connection(address)
        try:
            async with asyncio.timeout(self._timeout):
                answer = await direct.get("\r\n".join([*lines, "", ""]).encode(), limit)
        except TimeoutError as err:
            raise RemoteError(describe(err, self._timeout * 1000)) from None
        finally:
            if self._connections.get(address) is not direct:
                # Another request took its place meanwhile.
                direct.close()
        if answer.status != 200:
            text = answer.body[:200].decode("utf-8", "replace").strip().partition("\n")[0]
            status = f"{answer.status} {answer.reason}".strip()
            raise RemoteError(f"it answers {path} with HTTP status {status}" + (f": {text}" if text else ""))
        return answer.headers, answer.body


class Puller:
    """A service that pulls from every device of the fleet and from static addresses that are none yet."""

    name = "pull"

    def __init__(
        self,
        fleet: Fleet,
        store: Store,
        client: AgentClient,
        committer: Committer,
        executor: Executor,
        config: BrambleConfig,
        clock: Clock,
        metrics: IntakeMetrics,
        *,
        remember: Callable[[], None] = lambda: None,
        beat: Callable[[str, float], None] = lambda name, within: None,
        rng: random.Random | None = None,
    ) -> None:
        self._fleet = fleet
        self._store = store
        self._client = client
        self._committer = committer
        self._executor = executor
        self._config = config
        self._clock = clock
        self._metrics = metrics
        self._remember = remember
        self._beat = beat
        self._rng = rng or random.Random()
        self._changed = asyncio.Event()
        self._slots = asyncio.Semaphore(config.pull_concurrency)
        self._loops: dict[SourceId | str, asyncio.Task[None]] = {}
        # Appended, not yet durable: not asked for again, and forgotten with the process, so that a crash loses nothing.
        self._damaged: dict[SourceId, Counter[tuple[Epoch, int]]] = {}
        self._in_flight: dict[SourceId, list[tuple[int, Have]]] = {}

    def seen(self, found: Announced) -> None:
        """Discovery saw an agent."""
        new = found.source not in self._fleet.devices
        device = self._fleet.announce(found)
        if device is not None and new:
            _log.info("agent found", instance=device.instance, id=device.key[:8], via="mdns", address=device.address)
            self._named(device)
        self._changed.set()

    def set_static(self, addresses: Iterable[str]) -> None:
        """The addresses that the configuration lists now."""
        self._fleet.set_static(addresses)
        self._changed.set()

    def _named(self, device: Device) -> None:
        if device.warning:
            _log.warn("instance name is taken", reason=device.warning)
        self._remember()

    async def run(self) -> None:
        """Pull until cancelled."""
        self._loops.clear()
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                keys: list[SourceId | str] = [*self._fleet.devices, *self._fleet.strangers]
                for key in keys:
                    if key not in self._loops:
                        self._loops[key] = group.create_task(self._loop(key), name=f"pull {key!r}")
                self._loops = {key: task for key, task in self._loops.items() if not task.done()}
                await self._changed.wait()

    async def _loop(self, key: SourceId | str) -> None:
        interval = self._config.pull_interval / 1000
        await self._clock.sleep(self._rng.random() * min(START_SPREAD_SECONDS, interval))
        due = self._clock.monotonic()
        while True:
            async with self._slots:
                again = await self.visit(key)
            if not again:
                return
            self._beat(self.name, 4 * interval + 120)
            # Jitter keeps agents that were found together from being asked together for ever.
            due += interval
            now = self._clock.monotonic()
            if due < now:
                due = now
            await self._clock.sleep(due - now + self._rng.random() * 0.02 * interval)

    async def visit(self, key: SourceId | str) -> bool:
        """One pull, whatever comes of it; False when `key` needs no more visits."""
        if isinstance(key, str):
            if key not in self._fleet.strangers:
                return False
            device, address = None, key
        else:
            device = self._fleet.devices[key]
            address = device.address
        before = device.error if device else self._fleet.strangers[address].error
        began, at = self._clock.monotonic(), self._clock.now()
        try:
            if not address:
                raise RemoteError("no address is known; waiting for its announcement")
            await self._pull(device, address)
        except _OtherDeviceError as err:
            assert device is not None
            self._fleet.failed(device, address, str(err), at, self._clock.monotonic() - began, self._clock.monotonic())
            self._fleet.disown(device, address, err.source)
            self._changed.set()
        except (BrambleError, OSError) as err:
            self._failed(device, address, str(err), at, began)
        except Exception as err:  # noqa: BLE001 - the boundary of a source: a fault met in one stays in it
            _log.error("pull failed by a fault of the hub", exc=err, address=address)
            self._failed(device, address, f"fault of the hub: {type(err).__name__}: {err}", at, began)
        asked = device or self._fleet.at(address) or self._fleet.strangers.get(address)
        if asked is None:
            # The configuration that was loaded meanwhile does not list it any more.
            return False
        after = asked.error
        if after != before:
            who = asked.instance if isinstance(asked, Device) else address
            if after:
                _log.warn("pull failed", instance=who, address=address, reason=after)
            else:
                _log.info("pulls work again", instance=who, address=address)
        self._metrics.pulls.labels("failure" if after else "success").inc()
        return isinstance(key, bytes) or key in self._fleet.strangers

    def _failed(self, device: Device | None, address: str, reason: str, at: Millis, began: float) -> None:
        now = self._clock.monotonic()
        if device is None:
            self._fleet.stranger_failed(address, reason, at, now - began)
        else:
            self._fleet.failed(device, address, reason, at, now - began, now)

    async def _pull(self, device: Device | None, address: str) -> None:
        """Ask until nothing is missing or this interval's budget of bytes is used up."""
        budget: int = self._config.backlog_rate
        began = self._clock.monotonic()
        samples = 0
        newest: Millis | None = None
        rows: dict[int, int] = {}
        while True:
            at = self._clock.now()
            have = self._have(device.source) if device else {}
            wanted = question(have, device.available if device else {})
            answer = await self._client.frames(address, wanted, min(budget, self._config.pull_size_limit // 2))
            if device is None:
                device = self._introduce(address, answer)
            elif answer.source != device.source:
                raise _OtherDeviceError(answer.source)
            missing = await self._fetch_schemas(address, answer)
            taken = await self._in_executor(self._take, answer, device.labels, missing)
            self._skip(device, taken)
            if taken.frames:
                self._in_flight.setdefault(device.source, []).append((self._committer.touch(), taken.have))
            self._count(taken)
            samples += taken.samples
            for lane, (_, count) in taken.rows.items():
                rows.setdefault(lane, count)
            newest = max(filter(None, (newest, taken.newest)), default=None)
            budget -= len(answer.body)
            self._fleet.saw(device, taken.newest)
            if taken.problem:
                raise RemoteError(taken.problem)
            have = self._have(device.source)
            device.available = answer.available if answer.complete else {}
            behind = any(have.get(epoch, EMPTY).missing(theirs) for epoch, theirs in answer.available.items())
            if behind and taken.frames and budget > 0:
                continue
            duration = self._clock.monotonic() - began
            self._metrics.pull_seconds.observe(duration)
            result = Success(at, duration, have, answer.available, samples, newest, behind, answer.complete, rows)
            self._fleet.succeeded(device, address, result, self._clock.monotonic())
            return

    def _introduce(self, address: str, answer: Answer) -> Device:
        """A static address told its id."""
        host, port = parse_address(address)
        new = answer.source not in self._fleet.devices
        device = self._fleet.identify(address, answer.source, host, port or DEFAULT_AGENT_PORT)
        if device is None:
            raise LimitError(f"{len(self._fleet.devices)} devices are known and no more are taken")
        if new:
            _log.info("agent found", instance=device.instance, id=device.key[:8], via="static", address=address)
            self._named(device)
        else:
            _log.info("another address of an agent", instance=device.instance, id=device.key[:8], address=address)
        self._changed.set()
        return device

    async def _fetch_schemas(self, address: str, answer: Answer) -> dict[SchemaHash, str]:
        """Fetch schemas that the store lacks; those that can't be had, with the reason."""
        wanted = {h.schema for _, h in answer.frames if h.schema != NO_SCHEMA and not self._store.has_schema(h.schema)}
        if len(wanted) > MAX_SCHEMAS_PER_PULL:
            raise RemoteError(f"its answer needs {len(wanted)} new schemas, at most {MAX_SCHEMAS_PER_PULL} are taken")
        missing: dict[SchemaHash, str] = {}
        for key in sorted(wanted):
            try:
                encoded = await self._client.schema(address, key)
                if decode_schema(encoded).hash != key:
                    missing[key] = f"its schema {key.hex()[:8]} has another content than its hash says"
                    continue
                await self._in_executor(self._store.add_schema, encoded)
            except FormatError as err:
                missing[key] = f"its schema {key.hex()[:8]} is broken: {err}"
            except (RemoteError, LimitError) as err:
                missing[key] = str(err)
        return missing

    def _take(self, answer: Answer, target: Labels, missing: Mapping[SchemaHash, str]) -> Taken:
        """Append the frames of an answer but those without schema; stops when the store takes no more."""
        taken = Taken()
        self._store.set_target(answer.source, target)
        for offset, header in answer.frames:
            if header.schema in missing:
                taken.problem = missing[header.schema]
                continue
            result = self._store.append_frame(answer.body[offset : offset + header.length])
            taken.outcomes[result.outcome] += 1
            if result.outcome is Outcome.QUARANTINED:
                taken.problem = f"the hub can't use a frame of it ({result.reason}): {result.detail}"
                taken.damaged.append((header.epoch, header.seq))
                continue
            if result.outcome is Outcome.REFUSED:
                taken.problem = f"the hub takes no more: {result.detail} (limit {result.reason})"
                break
            taken.frames += result.outcome is Outcome.ACCEPTED
            taken.samples += result.samples
            taken.size += header.length
            taken.have[header.epoch] = taken.have.get(header.epoch, EMPTY).add(header.seq)
            if header.slots:
                taken.newest = max(taken.newest or header.last, header.last)
                taken.rows[header.lane] = max(taken.rows.get(header.lane, (header.last, 0)), (header.last, header.rows))
        return taken

    def _skip(self, device: Device, taken: Taken) -> None:
        """Give up on frames that arrived damaged twice: it was not the way that spoiled them."""
        suspects = self._damaged.setdefault(device.source, Counter())
        for key in taken.damaged:
            suspects[key] += 1
        while len(suspects) > MAX_DAMAGED:
            del suspects[next(iter(suspects))]
        device.skipped = sum(count >= MAX_ATTEMPTS for count in suspects.values())

    def _count(self, taken: Taken) -> None:
        self._metrics.pull_bytes.inc(taken.size)
        self._metrics.pull_samples.inc(taken.samples)
        for outcome, count in taken.outcomes.items():
            self._metrics.pull_frames.labels(outcome).inc(count)

    def _have(self, source: SourceId) -> Have:
        """What is durable here or will be with the next commit."""
        durable = self._store.have(source)
        reached = self._committer.generation
        waiting = [(due, have) for due, have in self._in_flight.get(source, []) if due > reached]
        self._in_flight[source] = waiting
        out = dict(durable)
        for (epoch, seq), count in self._damaged.get(source, {}).items():
            if count >= MAX_ATTEMPTS:
                out[epoch] = out.get(epoch, EMPTY).add(seq)
        for _, have in waiting:
            for epoch, ranges in have.items():
                out[epoch] = out.get(epoch, EMPTY).union(ranges)
        return out

    async def _in_executor(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        call = partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)
