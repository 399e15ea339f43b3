"""How much memory this machine, or the container on it, has to give, and what of it storage may hold."""

import struct
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from common.listen import StartError
from common.tsdb.options import StoreOptions

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup/memory.max")
ADDRESSES = 1 << 64 if struct.calcsize("P") == 8 else 3 << 30
"""Bytes that this process can have addresses for: of 4 GiB a 32-bit kernel keeps one for itself."""
SHARE = 8
"""Recent samples may stay unpacked in this part of the limit, and decoded old ones in as much again."""
HEAD_SHARE = 4
"""Recent samples, packed or not, with their labels, may take this part of the limit before more are refused: cutting
them into a block takes about as much again for a while, and queries and the program itself need the rest."""
INDEX_SHARE = 16
"""Indexes of blocks may stay open in this part of the limit."""
LABEL_BYTES = 8192
"""Of the limit, for each label set of answers that is kept."""
LEAST_LIMIT = 128 << 20
"""The program alone takes some 70 MiB, and cutting a block a few times ten."""
SAMPLE_BYTES = 32
"""Of the limit, for each sample that a query may hold: a quarter of it for the values of one."""
LEAST = 16 << 20
LEAST_LABELS = 10_000
LEAST_REMEMBERED, MOST_REMEMBERED = 100_000, 2_000_000
RESULT_SHARE = 16
"""Results of range queries may stay in this part of the limit."""
MOST_RESULTS = 128 << 20
"""A dashboard of twelve panels over a hundred agents and six hours takes 20 MiB."""
MOST_CACHE = 256 << 20
"""A panel over a hundred agents fits; all metrics of all of them would not fit into twice as much."""
MOST_SAMPLES = 50_000_000
"""As in Prometheus."""
LEAST_RESULTS = 16 << 20
"""Where the memory is unknown."""


def total(meminfo: Path = MEMINFO, cgroup: Path = CGROUP, addresses: int = ADDRESSES) -> int:
    """Bytes: MemTotal of proc(5), or the limit of the cgroup (v2) if that is lower; 0 where neither is known.

    Never more than `addresses`: a 32-bit system may run on a Pi with 8 GiB.
    """
    known = []
    with suppress(OSError, ValueError, StopIteration, IndexError):
        line = next(line for line in meminfo.read_text("ascii").splitlines() if line.startswith("MemTotal:"))
        known.append(int(line.split()[1]) * 1024)
    # No cgroup of its own, or no limit ("max"), is no error.
    with suppress(OSError, ValueError):
        known.append(int(cgroup.read_text("ascii")))
    return min(*known, addresses) if known else 0


def limit(given: int) -> int:
    """The memory to plan with, bytes: as given, else half of what there is; 0 if that is not known.

    StartError for one that is given and too small to work with.
    """
    if 0 < given < LEAST_LIMIT:
        least = f"{LEAST_LIMIT >> 20}MB"
        raise StartError(
            f"--memory.limit of {given >> 20}MB is too small: the program itself takes 70MB, give {least} or more "
            "(and 256MB for each 100,000 series that come by remote write)"
        )
    return given or total() // 2


def query_samples(given: int | None, memory: int) -> int:
    """Samples that a query may hold: as given, else the usual number, or what `memory` bytes (0: not known) allow."""
    return given or (min(MOST_SAMPLES, memory // SAMPLE_BYTES) if memory else MOST_SAMPLES)


def sized(options: StoreOptions, memory: int) -> StoreOptions:
    """Options whose bounds suit a program that may take `memory` bytes (0: not known)."""
    share = memory // SHARE
    return replace(
        options,
        seal_bytes=max(min(options.seal_bytes, LEAST), share),
        cache_bytes=max(min(options.cache_bytes, LEAST), min(share, MOST_CACHE)),
        index_bytes=max(min(options.index_bytes, LEAST), memory // INDEX_SHARE),
        cached_labels=max(LEAST_LABELS, min(memory // LABEL_BYTES, options.cached_labels)),
        max_head_bytes=max(memory // HEAD_SHARE, 2 * LEAST) if memory else options.max_head_bytes,
    )


def result_cache(memory: int) -> int:
    """Bytes that results of range queries may take in a program that may take `memory` bytes."""
    return min(memory // RESULT_SHARE, MOST_RESULTS) or LEAST_RESULTS


def remembered(memory: int) -> int:
    """Label sets of remote write that stay decoded."""
    return max(LEAST_REMEMBERED, min(memory // 4096, MOST_REMEMBERED))
