"""A simulated fleet for benchmarks: one process that is many agents and many targets, on the data of gen.py.

usage: python -m tests.bench.simulated --data DIR --template FILE --port PORT [--interval 5] [--paced START]

It listens on all of 127.0.0.0/8; which device answers is told by the address that was asked (`address(0)` and so
on). Each answers `/federate` with frames, as an agent does, and `/metrics` as node_exporter does: the values of the
slot that the wall clock says, numbers as Go writes them, most of them as they were. With --paced START (ms) the newest
slot is that of the last request of `/shown?slot=N` instead. What a slot took to render is kept for the next who asks,
so that several servers can be measured on the same targets. `--template` is the exposition from which the data was
made; its HELP and TYPE lines are shown.
"""

import argparse
import asyncio
import contextlib
import gzip
import http.client
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path

import numpy as np

from common.exposition.encode import series_text
from common.frames.codec import encode
from common.frames.model import (
    MEDIA_TYPE,
    PRESENT,
    Epoch,
    Flags,
    FrameKey,
    Schema,
    SourceId,
    SubSchema,
    encode_schema,
)
from common.frames.ranges import EMPTY, RangeSet, format_have, parse_have
from common.labels import Labels
from tests.bench.query_data import Fleet
from tests.ports import free_port

MOST_FRAMES = 60
"""Slots that a device keeps."""
CHUNK = 2048
ROOT = Path(__file__).resolve().parents[2]

Heads = Mapping[str, tuple[str, str]]


def address(number: int) -> str:
    """The IP address of one simulated device."""
    return f"127.{1 + number // 62_500}.{number // 250 % 250}.{number % 250 + 1}"


def number_of(host: str) -> int:
    """The device of an address."""
    _, high, middle, low = map(int, host.split("."))
    return (high - 1) * 62_500 + middle * 250 + low - 1


def go_text(value: float) -> str:
    """A float as Go's client library writes it: the shortest digits, with an exponent below 1e-04 and from 1e+06 on."""
    if not np.isfinite(value):
        return "NaN" if np.isnan(value) else f"{'+' if value > 0 else '-'}Inf"
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    number = Decimal(repr(value))
    exponent = number.adjusted()
    if -4 <= exponent < 6:
        return f"{number:f}"
    digits = "".join(map(str, number.as_tuple().digits)).rstrip("0")
    sign = "-" if value < 0 else ""
    return f"{sign}{digits[0]}{'.' + digits[1:] if len(digits) > 1 else ''}e{exponent:+03d}"


def read_heads(template: Path) -> Heads:
    """Type and help by family."""
    types: dict[str, str] = {}
    helps: dict[str, str] = {}
    for line in template.read_text().splitlines():
        if line.startswith("# "):
            _, what, name, text = line.split(" ", 3)
            (types if what == "TYPE" else helps)[name] = text
    return {name: (kind, helps.get(name, "Simulated.")) for name, kind in types.items()}


class Device:
    """One agent and target, with a new slot every `interval` ms."""

    def __init__(
        self, fleet: Fleet, heads: Heads, number: int, interval: int, start: int, kept: int = MOST_FRAMES
    ) -> None:
        self._kept = kept
        self._fleet = fleet
        self._row = number % len(fleet.times)
        self._interval = interval
        self._start = start
        self.source = SourceId(blake2b(b"simulated %d" % number, digest_size=16).digest())
        self.epoch = Epoch(number + 1)
        labels = fleet.rows(self._row)
        self.schema = Schema((SubSchema("node", tuple(labels)),))
        self._frames: dict[int, bytes] = {}
        self._tick = -1
        self._pages: dict[bool, bytes] = {}
        self._shown = np.zeros(len(labels))
        self._parts: list[str] = []
        self._spot = [0] * len(labels)
        family = ""
        for at in sorted(range(len(labels)), key=lambda at: (_family(labels[at], heads), at)):
            name = _family(labels[at], heads)
            if name != family:
                family = name
                kind, text = heads.get(name, ("histogram" if "le" in labels[at] else "gauge", "Simulated."))
                self._parts.append(f"# HELP {name} {text}\n# TYPE {name} {kind}\n")
            self._parts.append(series_text(labels[at].name, labels[at].without_name()) + " ")
            self._spot[at] = len(self._parts)
            self._parts.append("0\n")

    def newest(self, now: int) -> int:
        """The number of the newest slot."""
        return (now - self._start) // self._interval

    def frame(self, seq: int) -> bytes:
        """The frame of one slot."""
        if seq not in self._frames:
            slot = seq % self._fleet.times.shape[1]
            values, cells = self._fleet.cut(self._row, slot, slot + 1)
            key = FrameKey(self.source, self.epoch, seq, 0, self.schema.hash, Flags.SYNCED)
            self._frames[seq] = encode(key, [self._start + seq * self._interval], values, cells)
            self._frames.pop(seq - self._kept, None)
        return self._frames[seq]

    def page(self, now: int, packed: bool) -> bytes:
        """The newest slot as text, gzipped if `packed`; a cell without sample shows the value before."""
        tick = self.newest(now)
        if tick != self._tick:
            self._tick, self._pages = tick, {}
            slot = tick % self._fleet.times.shape[1]
            values, cells = self._fleet.cut(self._row, slot, slot + 1)
            for at in np.flatnonzero((values[:, 0] != self._shown) & (cells[:, 0] == PRESENT)).tolist():
                self._parts[self._spot[at]] = go_text(float(values[at, 0])) + "\n"
                self._shown[at] = values[at, 0]
            self._pages[False] = "".join(self._parts).encode()
        if packed and True not in self._pages:
            self._pages[True] = gzip.compress(self._pages[False], 6, mtime=0)
        return self._pages[packed]


def _family(labels: Labels, heads: Heads) -> str:
    for suffix in ("", "_bucket", "_sum", "_count"):
        if labels.name.endswith(suffix) and labels.name.removesuffix(suffix) in heads:
            return labels.name.removesuffix(suffix)
    for suffix in ("_bucket", "_sum", "_count"):
        if labels.name.startswith("app_") and labels.name.endswith(suffix):
            return labels.name.removesuffix(suffix)
    return labels.name


def phase(number: int, interval: int) -> int:
    """By how many ms a paced device's slots come later than the first one's: agents don't sample all at once."""
    return number * 7919 % interval


class Simulation:
    """All devices; those that nobody asks are never made."""

    def __init__(self, fleet: Fleet, heads: Heads, interval: int, paced: int | None = None) -> None:
        """With `paced`, ms of the first slot, slots come as they are told to, and devices differ by their phase."""
        self._paced = paced
        self._shown = 0
        self._fleet = fleet
        self._heads = heads
        self._interval = interval
        # A minute of slots stands ready, as on an agent that ran before.
        self._start = (int(time.time() * 1000) - 60_000) // interval * interval
        self._devices: dict[int, Device] = {}

    def answer(self, host: str, target: str, headers: str) -> tuple[int, list[tuple[str, str]], bytes]:
        """Status, headers and body for a request."""
        number = number_of(host)
        if number not in self._devices:
            start, kept = self._start, MOST_FRAMES
            if self._paced is not None:
                start, kept = self._paced + phase(number, self._interval), self._fleet.times.shape[1]
            self._devices[number] = Device(self._fleet, self._heads, number, self._interval, start, kept)
        device = self._devices[number]
        path, _, query = target.partition("?")
        form = dict(urllib.parse.parse_qsl(query))
        now, kept = int(time.time() * 1000), MOST_FRAMES
        if self._paced is not None:
            now, kept = self._paced + (self._shown + 1) * self._interval - 1, self._fleet.times.shape[1]
        match path:
            case "/shown" if self._paced is not None:
                self._shown = int(form["slot"])
                return 200, [], b""
            case "/metrics":
                packed = "accept-encoding: gzip" in headers.lower()
                kind = [("Content-Type", "text/plain; version=0.0.4; charset=utf-8; escaping=underscores")]
                return 200, kind + [("Content-Encoding", "gzip")] * packed, device.page(now, packed)
            case "/federate":
                newest = device.newest(now)
                there = RangeSet([(max(0, newest - kept + 1), newest)])
                missing = parse_have(form.get("have", "")).get(device.epoch, EMPTY).missing(there)
                body = b"".join(device.frame(seq) for seq in reversed(missing))
                about = [("Bramble-Source", device.source.hex()), ("Bramble-Log", format_have({device.epoch: there}))]
                return 200, [("Content-Type", MEDIA_TYPE), *about], body
            case "/federate/schema":
                return 200, [("Content-Type", "application/octet-stream")], encode_schema(device.schema)
            case _:
                return 404, [], b""


class _Connection(asyncio.Protocol):
    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._waiting = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._host: str = transport.get_extra_info("sockname")[0]

    def data_received(self, data: bytes) -> None:
        self._waiting += data
        while b"\r\n\r\n" in self._waiting:
            head, _, self._waiting = self._waiting.partition(b"\r\n\r\n")
            first, _, headers = head.decode("latin-1").partition("\r\n")
            status, fields, body = self._simulation.answer(self._host, first.split(" ")[1], headers)
            if len(body) > CHUNK:
                # Go's server sends what is longer in chunks of its buffer's size.
                fields.append(("Transfer-Encoding", "chunked"))
                parts = [body[at : at + CHUNK] for at in range(0, len(body), CHUNK)]
                body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
            else:
                fields.append(("Content-Length", str(len(body))))
            lines = [f"HTTP/1.1 {status} -", *(f"{name}: {value}" for name, value in fields)]
            self._transport.write("\r\n".join([*lines, "", ""]).encode() + body)


@contextlib.contextmanager
def simulation(data: Path, template: Path, interval: int, paced: int | None = None) -> Iterator[int]:
    """Run a simulated fleet in a process of its own, with a slot every `interval` seconds; its port.

    `paced` is as for Simulation.
    """
    port = free_port()
    argv = [sys.executable, "-m", "tests.bench.simulated", f"--data={data.resolve()}", f"--port={port}"]
    argv += [f"--template={template.resolve()}", f"--interval={interval}"]
    argv += [] if paced is None else [f"--paced={paced}"]
    process = subprocess.Popen(argv, cwd=ROOT)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError):
                connection = http.client.HTTPConnection(address(0), port, timeout=60)
                connection.request("GET", "/metrics")
                connection.getresponse().read()
                connection.close()
                break
            if process.poll() is not None:
                break
            time.sleep(0.1)
        else:
            raise SystemExit("the simulated fleet does not answer")
        yield port
    finally:
        process.terminate()
        process.wait(10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--template", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--interval", type=int, default=5)
    parser.add_argument("--paced", type=int, metavar="START", help="ms of the first slot")
    args = parser.parse_args()

    async def serve() -> None:
        devices = Simulation(Fleet(args.data), read_heads(args.template), args.interval * 1000, args.paced)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Connection(devices), "0.0.0.0", args.port, backlog=1024)
        async with server:
            await server.serve_forever()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
