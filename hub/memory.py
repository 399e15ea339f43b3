"""How much memory this machine, or the container on it, has to give, and what of it storage may hold."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from common.tsdb.options import StoreOptions

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup/memory.max")
SHARE = 16
"""Recent samples may stay unpacked in this part of the memory, and decoded old ones in as much again."""
RESULT_SHARE = 32
"""Results of range queries may stay in this part of the memory."""
MOST_RESULTS = 128 << 20
"""A dashboard of twelve panels over a hundred agents and six hours takes 20 MiB."""
MOST_CACHE = 256 << 20
"""A panel over a hundred agents fits; all metrics of all of them would not fit into twice as much."""
LEAST_RESULTS = 16 << 20
"""Where the memory is unknown."""


def total(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int:
    """Bytes: MemTotal of proc(5), or the limit of the cgroup (v2) if that is lower; 0 where neither is known."""
    known = []
    with suppress(OSError, ValueError, StopIteration, IndexError):
        line = next(line for line in meminfo.read_text("ascii").splitlines() if line.startswith("MemTotal:"))
        known.append(int(line.split()[1]) * 1024)
    # No cgroup of its own, or no limit ("max"), is no error.
    with suppress(OSError, ValueError):
        known.append(int(cgroup.read_text("ascii")))
    return min(known, default=0)


def sized(options: StoreOptions, memory: int) -> StoreOptions:
    """Options whose bounds of memory suit a machine with `memory` bytes; never less than they were."""
    share = memory // SHARE
    return replace(
        options,
        seal_bytes=max(options.seal_bytes, share),
        cache_bytes=max(options.cache_bytes, min(share, MOST_CACHE)),
    )


def result_cache(memory: int) -> int:
    """Bytes that results of range queries may take on a machine with `memory` bytes."""
    return min(memory // RESULT_SHARE, MOST_RESULTS) or LEAST_RESULTS
