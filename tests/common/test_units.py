"""Durations and sizes."""

import pytest

from common.units import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("0", 0),
        ("15s", 15_000),
        ("1h30m", 5_400_000),
        ("1d", 86_400_000),
        ("5ms", 5),
        ("1y2w", 32_745_600_000),
    ],
)
def test_durations_parse(text: str, ms: int) -> None:
    assert parse_duration(text) == ms


@pytest.mark.parametrize("text", ["", "1", "fast", "1.5h", "-1s", "30m1h", "1s1s", "300y", "٣s"])
def test_what_is_no_duration_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0, "0s"), (90_000, "1m30s"), (691_200_000, "8d"), (604_800_000, "1w"), (1, "1ms"), (-5000, "-5s")],
)
def test_durations_print_shortest(ms: int, text: str) -> None:
    assert format_duration(ms) == text


@pytest.mark.parametrize(("text", "size"), [("512MB", 512 * 2**20), ("2GiB", 2 * 2**30), ("10", 10), ("1.5KB", 1536)])
def test_sizes_parse_in_powers_of_1024(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_a_bad_size_is_named() -> None:
    with pytest.raises(ValueError, match='got "2 GB"'):
        parse_size("2 GB")


def test_sizes_print_for_people() -> None:
    assert format_size(1536) == "1.5 KiB"
