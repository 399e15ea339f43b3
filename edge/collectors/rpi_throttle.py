"""Throttling and under-voltage of a Raspberry Pi, watched more often than it is scraped, so that no dip is lost.

Bits: raspberrypi.com, documentation/computers/os, "get_throttled". Alarm: drivers/hwmon/raspberrypi-hwmon.c, which asks
the firmware every 2 s and so covers the 2 s before.
"""

import glob
from dataclasses import dataclass

from common.errors import FormatError
from edge.collectors.background import BackgroundCollector
from edge.collectors.base import COUNTER, GAUGE, Desc, NoDataError, Reading, Skip, flag
from edge.collectors.devicetree import is_raspberry_pi
from edge.collectors.files import list_dir, read_attr
from edge.collectors.rpi_mailbox import DEVICES, Mailbox, Vcgencmd, open_firmware, parse_hex

THROTTLED = Desc(
    "rpi_throttled",
    GAUGE,
    "Whether the firmware reports the condition: now, or at any time since boot.",
    ("condition", "period"),
)
RAW = Desc("rpi_throttled_raw", GAUGE, "All throttled bits as the firmware gives them.")
OCCURRENCES = Desc(
    "rpi_throttled_occurrences_total",
    COUNTER,
    "How often the condition began, as far as it was watched; since-boot bits count what began between two looks.",
    ("condition",),
)
ALARM = Desc("rpi_under_voltage_alarm", GAUGE, "Whether the supply dipped below 4.63 V within the last 2 seconds.")
ALARMS = Desc("rpi_under_voltage_occurrences_total", COUNTER, "How often the under-voltage alarm was raised.")

CONDITIONS = ("under_voltage", "frequency_capped", "throttled", "soft_temperature_limit")
SINCE_BOOT_SHIFT = 16
FAST_SECONDS = 1.0
SLOW_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class RpiThrottleOptions:
    """Flags of the rpi_throttle collector."""

    vcgencmd: str = flag("collector.rpi_firmware.vcgencmd", "vcgencmd", "")


@dataclass(frozen=True, slots=True)
class Watch:
    """What is remembered from look to look: the last bits (None before the first) and how often each began."""

    bits: int | None = None
    occurrences: tuple[int, ...] = (0, 0, 0, 0)

    def look(self, bits: int) -> "Watch":
        """The watch after seeing `bits`: a condition that began, or that a since-boot bit newly admits, counts once."""
        last = bits if self.bits is None else self.bits
        counts = list(self.occurrences)
        for i in range(len(CONDITIONS)):
            now, before = bits >> i & 1, last >> i & 1
            sticky, sticky_before = bits >> i + SINCE_BOOT_SHIFT & 1, last >> i + SINCE_BOOT_SHIFT & 1
            if (now and not before) or (sticky and not sticky_before and not before):
                counts[i] += 1
        return Watch(bits, tuple(counts))


def throttled_readings(watch: Watch) -> list[Reading]:
    """Readings of the bits last seen."""
    bits = watch.bits or 0
    readings: list[Reading] = []
    for i, condition in enumerate(CONDITIONS):
        readings.append((THROTTLED, (condition, "now"), float(bits >> i & 1)))
        readings.append((THROTTLED, (condition, "since_boot"), float(bits >> i + SINCE_BOOT_SHIFT & 1)))
    readings.append((RAW, (), float(bits)))
    readings += [(OCCURRENCES, (c,), float(n)) for c, n in zip(CONDITIONS, watch.occurrences, strict=True)]
    return readings


class RpiThrottleCollector(BackgroundCollector):
    """rpi_throttled*, rpi_under_voltage_*"""

    name = "rpi_throttle"
    silent_without_data = True
    options_type = RpiThrottleOptions
    descs = (THROTTLED, RAW, OCCURRENCES, ALARM, ALARMS)
    options: RpiThrottleOptions
    own_lane = False
    interval = FAST_SECONDS

    def _prepare(self) -> None:
        self._pi = is_raspberry_pi(self.paths)
        self._watch = Watch()
        self._alarm: bool | None = None
        self._alarms = 0
        self._alarm_path: str | None = None
        self._bits_path: str | None = None
        self._firmware: Mailbox | Vcgencmd | None = None
        self._bits_due = 0.0
        if self._pi:
            pattern = self.paths.sys("devices/platform/soc*/soc*firmware/get_throttled")
            self._bits_path = next(iter(sorted(glob.glob(pattern))), None)  # noqa: PTH207
            self._alarm_path = find_alarm(self.paths.sys("class/hwmon"))
            self._firmware = open_firmware(self.paths.live, DEVICES, self.options.vcgencmd)

    def start(self) -> None:
        if self._pi:
            super().start()

    def close(self) -> None:
        super().close()
        if self._firmware is not None:
            self._firmware.close()

    def collect(self, skip: Skip) -> list[Reading]:
        if not self._pi:
            raise NoDataError("this is no Raspberry Pi")
        return super().collect(skip)

    def read(self, skip: Skip) -> list[Reading]:
        readings: list[Reading] = []
        if self._look_at_bits(skip) and self._watch.bits is not None:
            readings += throttled_readings(self._watch)
        if self._alarm_path is not None:
            try:
                raised = read_attr(self._alarm_path) == "1"
            except OSError as err:
                skip(self._alarm_path, err)
            else:
                if raised and self._alarm is not True:
                    self._alarms += 1
                self._alarm = raised
                readings += [(ALARM, (), 1.0 if raised else 0.0), (ALARMS, (), float(self._alarms))]
        if not readings:
            raise NoDataError("neither the firmware nor its hwmon driver answers")
        return readings

    def _look_at_bits(self, skip: Skip) -> bool:
        """Look at the throttled bits by the cheapest way there is; False if there is none that works."""
        if self._bits_path is not None:
            try:
                self._watch = self._watch.look(parse_hex(read_attr(self._bits_path)))
            except (OSError, FormatError) as err:
                skip(self._bits_path, err)
            else:
                return True
        if self._firmware is None:
            return False
        now = self.clock.monotonic()
        if not self._firmware.cheap and now < self._bits_due:
            return True
        self._bits_due = now + SLOW_SECONDS
        try:
            self._watch = self._watch.look(self._firmware.throttled())
        except (OSError, FormatError) as err:
            skip("get_throttled", err)
            return False
        return True


def find_alarm(base: str) -> str | None:
    """Path of the under-voltage alarm of the hwmon chip `rpi_volt`, or None."""
    try:
        names = list_dir(base)
    except OSError:
        return None
    for name in names:
        try:
            if read_attr(f"{base}/{name}/name") == "rpi_volt":
                return f"{base}/{name}/in0_lcrit_alarm"
        except OSError:
            continue
    return None
