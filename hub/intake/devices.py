"""What the hub itself writes and keeps about agents: their `up`, and the file that remembers them."""

import asyncio
import hashlib
import json
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

from common.clock import Clock
from common.errors import BrambleError
from common.files import write_atomic
from common.frames.model import SourceId
from common.labels import EMPTY, NAME, Labels
from common.logs import EventLog
from common.sample import Millis
from common.tsdb.store import Store
from common.tsdb.writer import SourceWriter
from hub.config import parse_address
from hub.fleet import JOB, MAX_DEVICES, Fleet, Remembered
from hub.intake.commit import Committer
from hub.intake.scrape import DURATION, REPORT_META, SCRAPED, UP

UP_SOURCE = SourceId(hashlib.blake2b(b"up", digest_size=16).digest())
FILE = "fleet.json"
FILE_VERSION = 1
MAX_FILE_BYTES = 64 << 20
SAVE_SECONDS = 3600.0

_log = EventLog("fleet")


def up_rows(fleet: Fleet) -> list[tuple[Labels, float]]:
    """`up` and how the last pull went, of each device and static address that was asked already."""
    rows: list[tuple[Labels, float]] = []
    asked = [(d.instance, d.ok, d.last_duration, d.samples) for d in fleet.devices.values()]
    asked += [(s.address, s.ok, s.last_duration, 0) for s in fleet.strangers.values()]
    for instance, ok, duration, samples in asked:
        if ok is None:
            continue
        for name, value in ((UP, float(ok)), (DURATION, duration), (SCRAPED, float(samples))):
            rows.append((Labels.of({NAME: name, "job": JOB, "instance": instance}), value))
    return rows


def load_devices(path: Path) -> list[Remembered]:
    """Devices of earlier runs; a file that can't be used is moved aside, and the fleet begins anew."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"larger than {MAX_FILE_BYTES} bytes")
        data = json.loads(path.read_bytes())
        if data["version"] != FILE_VERSION:
            raise ValueError(f"version {data['version']}")
        return [_device(each) for each in data["devices"][:MAX_DEVICES]]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        aside = path.with_suffix(".bad")
        path.replace(aside)
        _log.error("the list of known agents is damaged; starting without it", file=path, moved_to=aside, error=err)
        return []


def _device(each: dict[str, object]) -> Remembered:
    source, addresses, contact, port = (each[k] for k in ("id", "addresses", "last_contact", "port"))
    if not isinstance(source, str) or len(bytes.fromhex(source)) != 16:
        raise ValueError(f"not an id: {source!r}")
    if not isinstance(addresses, list) or not isinstance(port, int) or not 0 < port < 65536:
        raise ValueError(f"addresses or port of {source}")
    for address in addresses:
        parse_address(str(address))
    return Remembered(
        SourceId(bytes.fromhex(source)),
        str(each["host"]),
        port,
        str(each["announced"]),
        str(each["instance"]),
        tuple(map(str, addresses)),
        Millis(int(contact)) if isinstance(contact, int) else None,
    )


def dump_devices(devices: list[Remembered]) -> bytes:
    """What `load_devices` reads."""
    items = [
        {
            "id": d.source.hex(),
            "host": d.host,
            "port": d.port,
            "announced": d.announced,
            "instance": d.instance,
            "addresses": list(d.addresses),
            "last_contact": d.last_contact,
        }
        for d in devices
    ]
    return json.dumps({"version": FILE_VERSION, "devices": items}, indent=1).encode()


class FleetKeeper:
    """A service: writes `up` of all agents in one frame each interval, and saves who they are."""

    name = "fleet"

    def __init__(
        self,
        fleet: Fleet,
        store: Store,
        committer: Committer,
        executor: Executor,
        clock: Clock,
        path: Path,
        beat: Callable[[str, float], None] = lambda name, within: None,
    ) -> None:
        self._fleet = fleet
        self._writer = SourceWriter(store, UP_SOURCE, EMPTY)
        self._committer = committer
        self._executor = executor
        self._clock = clock
        self._path = path
        self._beat = beat
        self._changed = False
        self._saved_at = clock.monotonic()
        self._problem = ""

    def remember(self) -> None:
        """The fleet has changed: save it soon."""
        self._changed = True

    async def run(self) -> None:
        """Write and save until cancelled."""
        loop = asyncio.get_running_loop()
        interval = self._fleet.interval_ms
        while True:
            self._beat(self.name, 3 * interval / 1000 + 60)
            now = self._clock.now()
            await self._clock.sleep((interval - now % interval) / 1000)
            problem = ""
            try:
                rows = up_rows(self._fleet)
                await loop.run_in_executor(self._executor, self._write, self._clock.now(), rows)
                if self._changed or self._clock.monotonic() - self._saved_at > SAVE_SECONDS:
                    await loop.run_in_executor(self._executor, self.save)
            except (BrambleError, OSError) as err:
                problem = str(err)
                if problem != self._problem:
                    _log.error("the state of the fleet can't be written", error=err)
            self._problem = problem

    def _write(self, at: Millis, rows: list[tuple[Labels, float]]) -> None:
        self._writer.write(at, rows, REPORT_META[:3])
        self._committer.touch()

    def save(self) -> None:
        """Write the file now; blocks."""
        self._changed = False
        self._saved_at = self._clock.monotonic()
        write_atomic(self._path, dump_devices(self._fleet.remember()))
