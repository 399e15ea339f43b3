"""Flash is a budget: how often the log may be written, what its device was written, and when power is failing."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.clock import Clock

DAY: Final = 86_400.0
SECTOR: Final = 512
EARLY_SPACING: Final = 5.0
"""Seconds between two early commits: under-voltage comes and goes many times a second."""


class WriteBudget:
    """At most `per_day` commits a day (0: no limit), smoothed over an hour; early ones are never refused, but count."""

    def __init__(self, per_day: int, clock: Clock) -> None:
        self._rate = per_day / DAY
        self._burst = max(2.0, per_day / 24)
        self._clock = clock
        self._left = self._burst
        self._since = clock.monotonic()

    @property
    def left(self) -> float:
        """Commits that may happen now without waiting; below 0 after early ones."""
        if not self._rate:
            return self._burst
        passed = self._clock.monotonic() - self._since
        return min(self._burst, self._left + passed * self._rate)

    def spend(self) -> None:
        """Count one commit."""
        self._left, self._since = self.left - bool(self._rate), self._clock.monotonic()

    def wait(self, interval: float) -> float:
        """Seconds until the next regular commit: `interval`, or longer where the budget asks for it."""
        if not self._rate:
            return interval
        return max(interval, (1 - self.left) / self._rate)


@dataclass(frozen=True, slots=True)
class DeviceWrites:
    """What a block device was written since the kernel found it, by everybody."""

    name: str
    written_bytes: int
    writes: int


def device_writes(path: Path, sysfs: Path = Path("/sys")) -> DeviceWrites | None:
    """Counters of the block device that holds `path` (sysfs-block, `stat`); None on memory and network file systems."""
    try:
        device = path.stat().st_dev
        place = sysfs / "dev/block" / f"{os.major(device)}:{os.minor(device)}"
        fields = (place / "stat").read_text("ascii").split()
        return DeviceWrites(place.resolve().name, int(fields[6]) * SECTOR, int(fields[4]))
    except (OSError, ValueError, IndexError):
        return None


class Undervoltage:
    """The supply's low-voltage alarm as the kernel's raspberrypi-hwmon driver shows it."""

    def __init__(self, sysfs: Path = Path("/sys")) -> None:
        self._alarm: Path | None = None
        for name in sorted((sysfs / "class/hwmon").glob("hwmon*/name")):
            try:
                if name.read_text("ascii").strip() == "rpi_volt":
                    self._alarm = name.with_name("in0_lcrit_alarm")
            except OSError:
                continue

    @property
    def available(self) -> bool:
        """Whether this machine has the alarm."""
        return self._alarm is not None

    def low(self) -> bool:
        """Whether the voltage is too low now."""
        try:
            return self._alarm is not None and self._alarm.read_text("ascii").strip() == "1"
        except OSError:
            return False


class VoltageWatch:
    """A service that calls `on_low` when the voltage falls, at most every EARLY_SPACING seconds."""

    name = "undervoltage"

    def __init__(self, alarm: Undervoltage, clock: Clock, on_low: Callable[[], None], every: float = 1.0) -> None:
        """Looks every `every` seconds: a read of a value that the driver refreshes at that pace anyway."""
        self._alarm = alarm
        self._clock = clock
        self._on_low = on_low
        self._every = every

    async def run(self) -> None:
        """Watch until cancelled; ends at once on machines without the alarm."""
        reported = False
        last = -EARLY_SPACING + self._clock.monotonic()
        while self._alarm.available:
            low = self._alarm.low()
            reported = reported and low
            if low and not reported and self._clock.monotonic() - last >= EARLY_SPACING:
                last = self._clock.monotonic()
                reported = True
                self._on_low()
            await self._clock.sleep(self._every)
