"""The registry of agents: who they are, where they answer, what state they are in. Pure: it takes `now`.

A device is known by its random id; a static address becomes a device when it first answers. Times are wall
milliseconds for what is shown and monotonic seconds for what is decided.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from common.frames.model import Epoch, SourceId
from common.frames.ranges import EMPTY as NO_RANGES
from common.frames.ranges import Have, RangeSet
from common.labels import Labels
from common.sample import Millis
from common.units import format_duration

JOB = "node"
MAX_DEVICES = 20_000
MAX_ADDRESSES = 16
LATE_INTERVALS = 3
MISSED_INTERVALS = 3
CLOCK_AHEAD_MS = 60_000
"""Samples this far in the future are worth a word."""


class State(StrEnum):
    """States of a device, from best to worst; UNKNOWN before the first contact since the start."""

    UNKNOWN = "unknown"
    ONLINE = "online"
    LATE = "late"
    UNREACHABLE = "unreachable"
    LOST = "lost"


class Via(StrEnum):
    """Where an address came from."""

    STATIC = "static"
    MDNS = "mdns"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class Announced:
    """What discovery says: the device `source` answers at any of `addresses` (`HOST:PORT`)."""

    source: SourceId
    host: str
    port: int
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Backlog:
    """Frames by what can become of them."""

    pending: int = 0
    """On the agent, not here."""
    gone: int = 0
    """Neither here nor on the agent: lost for ever."""


@dataclass(slots=True)
class Ledger:
    """Which frames of one agent are still to come and which never will, by what it says it holds."""

    known: dict[Epoch, RangeSet] = field(default_factory=dict)
    """Frames that were written, as far as the agent's answers tell, of epochs that it holds."""
    vanished: int = 0
    """Frames of epochs that the agent dropped before they were pulled."""

    def account(self, have: Have, available: Have, complete: bool) -> Backlog:
        """Take note of an answer; without `complete`, epochs that it doesn't list may still be there."""
        pending = gone = 0
        for epoch, theirs in available.items():
            mine = have.get(epoch, NO_RANGES)
            known = theirs.union(self.known.get(epoch, NO_RANGES))
            if not known:
                continue
            # Sequence numbers of an epoch start at 0 and leave no hole, so what lies below the newest did exist.
            self.known[epoch] = RangeSet([(0, known.ranges[-1][1])])
            pending += mine.missing(theirs).count
            gone += mine.union(theirs).missing(self.known[epoch]).count
        if complete:
            for epoch in self.known.keys() - available.keys():
                self.vanished += have.get(epoch, NO_RANGES).missing(self.known.pop(epoch)).count
        return Backlog(pending, gone + self.vanished)


@dataclass(frozen=True, slots=True)
class Success:
    """A pull that was stored: `newest` is the wall time of the newest sample, None if none ever came."""

    at: Millis
    duration: float
    have: Have
    available: Have
    samples: int = 0
    newest: Millis | None = None
    behind: bool = False
    complete: bool = True
    """Whether `available` lists every epoch that the agent holds."""
    rows: Mapping[int, int] = field(default_factory=dict)
    """Rows of the newest schema by lane."""


@dataclass(slots=True)
class Device:
    """One agent. `addresses` are `HOST:PORT` with their origin, the one that answered last in front."""

    source: SourceId
    host: str
    port: int
    announced: str = ""
    """Host and port that mDNS said last."""
    addresses: dict[str, Via] = field(default_factory=dict)
    instance: str = ""
    warning: str = ""
    ok: bool | None = None
    error: str = ""
    failures: int = 0
    last_ok: float | None = None
    first_asked: float | None = None
    last_contact: Millis | None = None
    last_attempt: Millis | None = None
    last_duration: float = 0.0
    newest: Millis | None = None
    samples: int = 0
    rate: float = 0.0
    behind: bool = False
    skipped: int = 0
    """Frames given up since the start because they arrive damaged."""
    rows: dict[int, int] = field(default_factory=dict)
    available: Have = field(default_factory=dict)
    """What it holds; empty where it didn't list everything."""
    ledger: Ledger = field(default_factory=Ledger)
    backlog: Backlog = field(default_factory=Backlog)

    @property
    def series(self) -> int:
        """How many series it sends now."""
        return sum(self.rows.values())

    @property
    def key(self) -> str:
        """The id as 32 hex digits."""
        return self.source.hex()

    @property
    def address(self) -> str:
        """Where to ask first."""
        return next(iter(self.addresses), "")

    @property
    def labels(self) -> Labels:
        """Its target labels."""
        return Labels.of(job=JOB, instance=self.instance)

    @property
    def via(self) -> str:
        """Origins of its addresses, as `mdns, static`."""
        return ", ".join(sorted(set(self.addresses.values())))


@dataclass(slots=True)
class Stranger:
    """A static address that has not told an id yet."""

    address: str
    ok: bool | None = None
    error: str = ""
    failures: int = 0
    last_attempt: Millis | None = None
    last_duration: float = 0.0


@dataclass(frozen=True, slots=True)
class Remembered:
    """A device as kept over restarts."""

    source: SourceId
    host: str
    port: int
    announced: str
    instance: str
    addresses: tuple[str, ...]
    last_contact: Millis | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """A state and the sentence that explains it; `lag_ms` is how old the newest sample is."""

    state: State
    reason: str = ""
    lag_ms: int | None = None


class Fleet:
    """All devices and the static addresses that are none yet."""

    def __init__(self, interval_ms: int, lost_after_ms: int) -> None:
        self.interval_ms = interval_ms
        self.lost_after_ms = lost_after_ms
        self.devices: dict[SourceId, Device] = {}
        self.strangers: dict[str, Stranger] = {}
        self._holders: dict[str, Device] = {}
        self.refused = 0
        """Announcements not taken because of MAX_DEVICES."""

    # Who is there

    def set_static(self, addresses: Iterable[str]) -> None:
        """The addresses that the configuration lists now; what it listed before and no more is forgotten."""
        wanted = dict.fromkeys(addresses)
        for device in self.devices.values():
            for address, via in list(device.addresses.items()):
                if address in wanted:
                    device.addresses[address] = Via.STATIC
                elif via is Via.STATIC:
                    del device.addresses[address]
        known = {address for device in self.devices.values() for address in device.addresses}
        self.strangers = {a: self.strangers.get(a) or Stranger(a) for a in wanted if a not in known}

    def restore(self, devices: Iterable[Remembered]) -> None:
        """Devices known before a restart; instances stay theirs."""
        for each in devices:
            if each.source in self.devices or len(self.devices) >= MAX_DEVICES:
                continue
            addresses = dict.fromkeys(each.addresses[:MAX_ADDRESSES], Via.MEMORY)
            device = Device(
                each.source, each.host, each.port, each.announced, addresses, last_contact=each.last_contact
            )
            self.devices[each.source] = device
            self._name(device, each.instance)

    def remember(self) -> list[Remembered]:
        """What `restore` takes."""
        return [
            Remembered(d.source, d.host, d.port, d.announced, d.instance, tuple(d.addresses), d.last_contact)
            for d in self.devices.values()
        ]

    def announce(self, seen: Announced) -> Device | None:
        """Discovery saw a device; None if there are too many. Its state changes only by pulls."""
        device = self.devices.get(seen.source)
        if device is None:
            if len(self.devices) >= MAX_DEVICES:
                self.refused += 1
                return None
            device = self.devices[seen.source] = Device(seen.source, seen.host, seen.port)
            self._name(device)
        elif device.announced and device.announced != f"{seen.host}:{seen.port}":
            # It was renamed. One first found by its static address keeps that as its instance.
            device.host, device.port = seen.host, seen.port
            self._name(device)
        if seen.addresses:
            device.announced = f"{seen.host}:{seen.port}"
        for address in seen.addresses:
            self._add_address(device, address, Via.MDNS)
        return device

    def identify(self, address: str, source: SourceId, host: str, port: int) -> Device | None:
        """A static address told its id: it is a device now, or one more address of a known device."""
        device = self.devices.get(source)
        if device is None:
            device = self.announce(Announced(source, host, port, ()))
            if device is None:
                return None
        self._add_address(device, address, Via.STATIC)
        self.strangers.pop(address, None)
        return device

    def disown(self, device: Device, address: str, other: SourceId) -> None:
        """Another device answered at `address`: it is no address of `device` any more."""
        via = device.addresses.pop(address, None)
        if via is Via.STATIC:
            self.strangers.setdefault(address, Stranger(address))
        device.error = f"{address} is now answered by another device ({other.hex()[:8]})"

    def _add_address(self, device: Device, address: str, via: Via) -> None:
        if address in device.addresses:
            if device.addresses[address] is Via.MEMORY:
                device.addresses[address] = via
            return
        if len(device.addresses) >= MAX_ADDRESSES:
            spare = next((a for a, v in reversed(device.addresses.items()) if v is not Via.STATIC), None)
            if spare is None:
                return
            del device.addresses[spare]
        device.addresses[address] = via

    def _name(self, device: Device, wanted: str = "") -> None:
        """Give `device` its instance: HOST:PORT, or HOST-ID4:PORT where another device has that already."""
        if self._holders.get(device.instance) is device:
            del self._holders[device.instance]
        host = device.host or device.key[:8]
        plain = f"{host}:{device.port}"
        for name in (wanted or plain, *(f"{host}-{device.key[:n]}:{device.port}" for n in (4, 8, 32))):
            if name not in self._holders:
                device.instance = name
                break
        self._holders[device.instance] = device
        holder = self._holders.get(plain)
        device.warning = (
            f"{plain} is device {holder.key[:8]} already: this one is {device.instance}"
            if holder is not None and holder is not device
            else ""
        )

    def at(self, address: str) -> Device | None:
        """The device that has that address."""
        return next((device for device in self.devices.values() if address in device.addresses), None)

    # What they answer

    def succeeded(self, device: Device, address: str, result: Success, now: float) -> None:
        """A pull from `address` was stored."""
        via = device.addresses.pop(address, Via.MEMORY)
        device.addresses = {address: via, **device.addresses}
        if device.last_ok is not None and now > device.last_ok and result.samples:
            device.rate = result.samples / (now - device.last_ok)
        gaps = device.ledger.account(result.have, result.available, result.complete)
        device.backlog = Backlog(gaps.pending, gaps.gone + device.skipped)
        device.ok, device.error, device.failures = True, "", 0
        device.last_ok = now
        device.last_contact = device.last_attempt = result.at
        device.last_duration = result.duration
        device.samples = result.samples
        device.behind = result.behind
        device.rows.update(result.rows)
        device.available = dict(result.available) if result.complete else {}
        self.saw(device, result.newest)

    def saw(self, device: Device, newest: Millis | None) -> None:
        """Samples up to `newest` were taken, whether or not the pull went well in the end."""
        if newest is not None:
            device.newest = newest if device.newest is None else max(device.newest, newest)

    def failed(self, device: Device, address: str, reason: str, at: Millis, duration: float, now: float) -> None:
        """A pull failed; the address goes behind the others, so that the next attempt takes another."""
        if device.first_asked is None:
            device.first_asked = now
        if address in device.addresses:
            device.addresses[address] = device.addresses.pop(address)
        device.ok, device.error = False, reason
        device.failures += 1
        device.samples = 0
        device.rate = 0.0
        device.last_attempt, device.last_duration = at, duration

    def stranger_failed(self, address: str, reason: str, at: Millis, duration: float) -> None:
        """A static address that is no device yet failed to answer properly."""
        if stranger := self.strangers.get(address):
            stranger.ok, stranger.error, stranger.failures = False, reason, stranger.failures + 1
            stranger.last_attempt, stranger.last_duration = at, duration

    # What that means

    def status(self, device: Device, wall: Millis, now: float) -> Status:
        """The device's state now, why, and how old its newest sample is."""
        lag = None if device.newest is None else max(0, wall - device.newest)
        if device.ok is None:
            contact = device.last_contact
            if contact is not None and wall - contact > self.lost_after_ms:
                return Status(State.LOST, f"no contact for {_ago(wall - contact)}", lag)
            return Status(State.UNKNOWN, "not asked yet", lag)
        since = device.last_ok if device.last_ok is not None else device.first_asked
        silent = 0.0 if since is None else (now - since) * 1000
        if device.last_ok is None and device.last_contact is not None:
            silent = max(silent, float(wall - device.last_contact))
        if not device.ok:
            state = State.LOST if silent > self.lost_after_ms else State.UNREACHABLE
            return Status(state, device.error, lag)
        if silent > (MISSED_INTERVALS + 1) * self.interval_ms:
            return Status(State.UNREACHABLE, f"no pull was finished for {_ago(silent)}", lag)
        if lag is None:
            return Status(State.LATE, "it answers, but has sent no sample yet", lag)
        if lag > LATE_INTERVALS * self.interval_ms + 1000:
            why = f"newest sample is {_ago(lag)} old"
            if device.behind:
                why += f", {device.backlog.pending} frames are still to come"
            return Status(State.LATE, why, lag)
        damaged = f"{device.skipped} damaged frames were left out" if device.skipped else ""
        assert device.newest is not None
        ahead = device.newest - wall
        clock = f"its clock is {_ago(ahead)} ahead of the hub's" if ahead > CLOCK_AHEAD_MS else ""
        return Status(State.ONLINE, "; ".join(filter(None, (device.warning, clock, damaged))), lag)


def _ago(ms: float) -> str:
    return format_duration(int(ms) // 1000 * 1000)


def question(have: Have, available: Have) -> dict[Epoch, RangeSet]:
    """The part of `have` to tell an agent that last said `available` (nothing: not known), its newest epoch first."""
    if not available:
        return dict(reversed(list(have.items())))
    return {epoch: have[epoch] for epoch in available if epoch in have}
