"""What storage may hold follows the memory there is."""

from pathlib import Path

import pytest

from common.tsdb.options import StoreOptions
from hub.memory import result_cache, sized, total

MIB = 1 << 20


@pytest.mark.parametrize(
    ("meminfo", "cgroup", "found"),
    [
        ("MemTotal:         948012 kB\nMemFree: 1 kB\n", "max\n", 948012 * 1024),
        ("MemTotal:         948012 kB\n", "268435456\n", 256 * MIB),
        ("MemTotal:         948012 kB\n", "99999999999\n", 948012 * 1024),
        ("MemTotal: broken\n", "max\n", 0),
    ],
)
def test_the_lower_of_memory_and_cgroup_limit_counts(tmp_path: Path, meminfo: str, cgroup: str, found: int) -> None:
    (tmp_path / "meminfo").write_text(meminfo)
    (tmp_path / "memory.max").write_text(cgroup)
    assert total(tmp_path / "meminfo", tmp_path / "memory.max") == found


def test_unknown_memory_is_none(tmp_path: Path) -> None:
    assert total(tmp_path / "meminfo", tmp_path / "memory.max") == 0


@pytest.mark.parametrize(
    ("memory", "seal", "cache"), [(0, 64, 64), (512, 64, 64), (4096, 256, 256), (16384, 1024, 256)]
)
def test_bounds_grow_with_memory_and_the_cache_stops_at_its_most(memory: int, seal: int, cache: int) -> None:
    options = sized(StoreOptions(), memory * MIB)
    assert (options.seal_bytes, options.cache_bytes) == (seal * MIB, cache * MIB)


@pytest.mark.parametrize(("memory", "results"), [(0, 16), (1024, 32), (4096, 128), (16384, 128)])
def test_results_take_a_small_part_of_memory(memory: int, results: int) -> None:
    assert result_cache(memory * MIB) == results * MIB
