"""The Raspberry Pi 5's clock: its backup battery's charger, and how far it is off (sysfs-class-rtc, rtc-rpi)."""

from edge.collectors.base import GAUGE, Collector, Desc, NoDataError, Reading, Skip
from edge.collectors.files import list_dir, optional_int

_RTC = ("rtc",)
CHARGING = Desc(
    "rpi_rtc_charging_volts", GAUGE, "Voltage that the backup battery is charged to; 0: it is not charged.", _RTC
)
CHARGING_MIN = Desc("rpi_rtc_charging_min_volts", GAUGE, "Lowest voltage that the charger can be set to.", _RTC)
CHARGING_MAX = Desc("rpi_rtc_charging_max_volts", GAUGE, "Highest voltage that the charger can be set to.", _RTC)
OFFSET = Desc(
    "rpi_rtc_time_offset_seconds",
    GAUGE,
    "Hardware clock minus system clock, to the second: it counts whole seconds only.",
    _RTC,
)
MICRO = 1e6


class RpiRtcCollector(Collector):
    """rpi_rtc_*"""

    name = "rpi_rtc"
    silent_without_data = True
    descs = (CHARGING, CHARGING_MIN, CHARGING_MAX, OFFSET)

    def collect(self, skip: Skip) -> list[Reading]:
        base = self.paths.sys("class/rtc")
        try:
            names = list_dir(base)
        except FileNotFoundError:
            raise NoDataError("there is no hardware clock") from None
        readings: list[Reading] = []
        for name in names:
            for desc, file in (
                (CHARGING, "charging_voltage"),
                (CHARGING_MIN, "charging_voltage_min"),
                (CHARGING_MAX, "charging_voltage_max"),
            ):
                value = optional_int(f"{base}/{name}/{file}", skip)
                if value is not None:
                    readings.append((desc, (name,), value / MICRO))
            seconds = optional_int(f"{base}/{name}/since_epoch", skip)
            if seconds is not None:
                readings.append((OFFSET, (name,), float(seconds - self.clock.now() // 1000)))
        if not readings:
            raise NoDataError("the hardware clock says nothing")
        return readings
