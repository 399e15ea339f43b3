"""The write budget, the device's counters, the under-voltage alarm."""

import asyncio
import os
from pathlib import Path

import pytest

from common.testing import FakeClock
from edge.flash import DeviceWrites, Undervoltage, VoltageWatch, WriteBudget, device_writes


async def commits(clock: FakeClock, budget: WriteBudget, interval: float, seconds: float) -> int:
    """How many commits a writer that waits as told makes in that time."""
    count, end = 0, clock.monotonic() + seconds
    while (wait := budget.wait(interval)) + clock.monotonic() <= end:
        await clock.advance(wait)
        budget.spend()
        count += 1
    return count


async def test_without_a_budget_the_interval_rules(clock: FakeClock) -> None:
    assert await commits(clock, WriteBudget(0, clock), 60, 3600) == 60


async def test_a_budget_beyond_the_interval_changes_nothing(clock: FakeClock) -> None:
    assert await commits(clock, WriteBudget(10_000, clock), 60, 3600) == 60


async def test_a_small_budget_stretches_the_interval(clock: FakeClock) -> None:
    assert 96 <= await commits(clock, WriteBudget(96, clock), 60, 86_400) <= 100


async def test_early_commits_are_paid_back_later(clock: FakeClock) -> None:
    budget = WriteBudget(96, clock)
    for _ in range(20):
        budget.spend()
    assert budget.left < 0
    assert budget.wait(60) > 16 * 900


def test_counters_of_the_device_are_read(tmp_path: Path) -> None:
    device = os.stat(tmp_path).st_dev  # noqa: PTH116
    real = tmp_path / "sys/devices/mmcblk0p2"
    real.mkdir(parents=True)
    (real / "stat").write_text("  10 0 80 5 200 7 4096 9 0 1 1 0 0 0 0 0 0\n")
    (tmp_path / "sys/dev/block").mkdir(parents=True)
    (tmp_path / f"sys/dev/block/{os.major(device)}:{os.minor(device)}").symlink_to(real)
    assert device_writes(tmp_path, tmp_path / "sys") == DeviceWrites("mmcblk0p2", 4096 * 512, 200)


@pytest.mark.parametrize("text", [None, "", "1 2 3", "a b c d e f g"])
def test_a_device_without_counters_is_none(tmp_path: Path, text: str | None) -> None:
    device = os.stat(tmp_path).st_dev  # noqa: PTH116
    place = tmp_path / f"sys/dev/block/{os.major(device)}:{os.minor(device)}"
    place.mkdir(parents=True)
    if text is not None:
        (place / "stat").write_text(text)
    assert device_writes(tmp_path, tmp_path / "sys") is None


def hwmon(root: Path, alarm: str) -> Path:
    for number, name in enumerate(("cpu_thermal", "rpi_volt")):
        chip = root / f"class/hwmon/hwmon{number}"
        chip.mkdir(parents=True, exist_ok=True)
        (chip / "name").write_text(name + "\n")
    file = root / "class/hwmon/hwmon1/in0_lcrit_alarm"
    file.write_text(alarm + "\n")
    return file


async def test_a_falling_voltage_is_reported_once_and_again_only_after_a_while(tmp_path: Path) -> None:
    clock = FakeClock()
    alarm = hwmon(tmp_path, "0")
    calls: list[float] = []
    start = clock.monotonic()
    watch = VoltageWatch(Undervoltage(tmp_path), clock, lambda: calls.append(clock.monotonic() - start))
    task = asyncio.create_task(watch.run())
    for text in "01101011000001":
        alarm.write_text(text + "\n")
        await clock.advance(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert calls == [2, 7, 14]


async def test_a_machine_without_the_alarm_needs_no_watch(tmp_path: Path) -> None:
    assert not Undervoltage(tmp_path).available
    assert not Undervoltage(tmp_path).low()
    await VoltageWatch(Undervoltage(tmp_path), FakeClock(), lambda: None).run()
