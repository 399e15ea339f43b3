"""Memory under a limit: the highest resident size through ingest, cut, compaction and query, in a process of its own.

usage: python -m tests.bench.storage_memory [--limit 512MB] [--hosts 100] [--rows 1000] [--slots 750] [--loose 200000]
       [--every 1]

A store sized as the hub sizes it for `--memory.limit` takes 25 hours of frames of one schema as fast as it can, and
loose series beside them; what it refuses is offered again after its next maintenance, as agents and senders do. Then it
is cut, compacted to a day, and read metric by metric, over all times. With --every N that is each Nth metric only: of
many series the indexes of all blocks don't fit the limit and are read again for each. Fails if a peak is above it.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from common.clock import SystemClock
from common.errors import BusyError, LimitError
from common.frames.model import encode_schema
from common.labels import Labels, Matcher, MatchType
from common.sample import Millis
from common.tsdb.options import Outcome, StoreOptions
from common.tsdb.store import Store
from common.units import parse_size
from hub.memory import sized
from tests.bench.storage_peers import HEAD, Fleet, work

DAY = 86_400_000
STEP = 120_000
LOOSE_AT_ONCE = 20_000


class Late(SystemClock):
    """A clock that follows the data."""

    at = 0

    def now(self) -> Millis:
        return Millis(self.at)


def peak() -> float:
    """MB."""
    # Not getrusage's ru_maxrss: that of a child begins with what its parent had before exec.
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def run(limit: int, fleet: Fleet, slots: int, loose: int, every: int, folder: Path) -> tuple[dict[str, float], int]:
    """Peaks after each phase, MB, and how often the store refused."""
    clock = Late()
    clock.at = fleet.time(0)
    found = {"program and labels": 0.0}
    store = Store.open(folder, sized(StoreOptions(retention_ms=0), limit), clock)
    store.add_schema(encode_schema(fleet.schema))
    for host in range(fleet.hosts):
        store.set_target(fleet.source(host), fleet.target(host))
    labels = [Labels.of(__name__=f"loose_{i % 50}", instance=f"pi-{i // 50}", job="pushed") for i in range(loose)]
    found["program and labels"] = peak()
    refused = 0
    for slot in range(slots):
        clock.at = fleet.time(slot)
        values = fleet.values(slot)
        for host in range(fleet.hosts):
            data = fleet.frame(host, slot, values[host])
            while store.append_frame(data).outcome is not Outcome.ACCEPTED:
                refused += 1
                store.commit()
                store.maintain()
        for at in range(0, loose if slot % 10 == 0 else 0, LOOSE_AT_ONCE):
            part = labels[at : at + LOOSE_AT_ONCE]
            rows, times = np.arange(len(part)), np.full(len(part), fleet.time(slot))
            while True:
                try:
                    store.append_columns(part, rows, times, np.full(len(part), float(slot)))
                except (BusyError, LimitError):
                    refused += 1
                    store.commit()
                    store.maintain()
                else:
                    break
        store.commit()
        if slot % 10 == 0:
            store.maintain()
    found["ingest, with cuts as they come"] = peak()
    clock.at = fleet.time(slots)
    store.cut(clock.at + 1)
    found["cut of the rest"] = peak()
    store.maintain()
    found["compaction"] = peak()
    samples = Counter(f"loose_{i % 50}" for i in range(loose))
    samples = Counter({name: count * len(range(0, slots, 10)) for name, count in samples.items()})
    for each in fleet.schema.labels():
        samples[each.name] += slots * fleet.hosts
    cells, names = 0, sorted(samples)[::every]
    for name in names:
        for batch in store.select([Matcher(MatchType.EQ, "__name__", name)], Millis(0), Millis(2**60)):
            cells += sum(len(batch.timelines[line].timestamps) for line in batch.timeline_of.tolist())
    found["queries of all times"] = peak()
    expected = sum(samples[name] for name in names)
    if cells != expected:
        raise SystemExit(f"{cells} samples are there of {expected}")
    store.close()
    return found, refused


def lines(limit: int, found: dict[str, float], refused: int) -> list[str]:
    """Lines of the table."""
    mega = limit / 2**20
    out = [
        f"| memory limit {mega:.0f} MB: peak after {what}, MB | {size:.0f} | | | {mega:.0f} |"
        for what, size in found.items()
    ]
    return [*out, f"| memory limit {mega:.0f} MB: refused and offered again | {refused} | | | |"]


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=parse_size, default="512MB")
    parser.add_argument("--hosts", type=int, default=100)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=750)
    parser.add_argument("--loose", type=int, default=100_000)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--bare", action="store_true", help="lines without a head")
    args = parser.parse_args()
    fleet = Fleet(args.hosts, args.rows, 1_699_920_000_000 - 3_600_000, STEP)
    with work() as folder:
        found, refused = run(args.limit, fleet, args.slots, args.loose, args.every, folder / "data")
    print("\n".join([*(() if args.bare else HEAD), *lines(args.limit, found, refused)]))
    return 1 if max(found.values()) > args.limit / 2**20 else 0


if __name__ == "__main__":
    sys.exit(main())
