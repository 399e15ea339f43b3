"""What storage may hold follows the memory there is."""

from pathlib import Path

import pytest

from common.listen import StartError
from common.tsdb.options import StoreOptions
from hub.memory import limit, query_samples, remembered, result_cache, sized, total

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


def test_memory_that_a_32_bit_program_cannot_address_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:        8000000 kB\n")
    assert total(tmp_path / "meminfo", tmp_path / "memory.max", 3 << 30) == 3 << 30
    assert total(tmp_path / "meminfo", tmp_path / "memory.max", 1 << 64) == 8_000_000 * 1024


def test_unknown_memory_is_none(tmp_path: Path) -> None:
    assert total(tmp_path / "meminfo", tmp_path / "memory.max") == 0


@pytest.mark.parametrize(
    ("memory", "seal", "cache", "head"),
    [(0, 16, 16, 0), (64, 16, 16, 32), (512, 64, 64, 128), (2048, 256, 256, 512), (16384, 2048, 256, 4096)],
)
def test_bounds_grow_with_memory_and_the_cache_stops_at_its_most(memory: int, seal: int, cache: int, head: int) -> None:
    options = sized(StoreOptions(), memory * MIB)
    assert (options.seal_bytes, options.cache_bytes, options.max_head_bytes) == (seal * MIB, cache * MIB, head * MIB)


@pytest.mark.parametrize(
    ("memory", "index", "labels"), [(0, 16, 10_000), (512, 32, 65_536), (2048, 128, 200_000), (16384, 1024, 200_000)]
)
def test_open_indexes_and_label_sets_of_answers_follow_memory(memory: int, index: int, labels: int) -> None:
    options = sized(StoreOptions(), memory * MIB)
    assert (options.index_bytes, options.cached_labels) == (index * MIB, labels)


def test_without_a_limit_half_of_the_memory_is_planned_with() -> None:
    assert limit(0) == total() // 2
    assert limit(700 * MIB) == 700 * MIB


def test_a_limit_that_is_too_small_to_work_with_is_refused() -> None:
    with pytest.raises(StartError, match=r"--memory.limit of 64MB is too small.*give 128MB or more"):
        limit(64 * MIB)
    assert limit(128 * MIB) == 128 * MIB


@pytest.mark.parametrize(
    ("given", "memory", "found"),
    [(None, 0, 50_000_000), (None, 512, 16 * MIB), (None, 4096, 50_000_000), (70_000_000, 512, 70_000_000)],
)
def test_a_query_may_hold_what_the_limit_allows_unless_a_number_is_given(
    given: int | None, memory: int, found: int
) -> None:
    assert query_samples(given, memory * MIB) == found


def test_label_sets_of_remote_write_stay_within_bounds() -> None:
    assert [remembered(size) for size in (0, 2**30, 2**40)] == [100_000, 262_144, 2_000_000]


@pytest.mark.parametrize(("memory", "results"), [(0, 16), (512, 32), (2048, 128), (16384, 128)])
def test_results_take_a_small_part_of_memory(memory: int, results: int) -> None:
    assert result_cache(memory * MIB) == results * MIB
