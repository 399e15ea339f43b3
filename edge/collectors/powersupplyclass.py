"""Batteries and supplies (sysfs-class-power)."""

from dataclasses import dataclass

from edge.collectors.base import GAUGE, Collector, Desc, DeviceFilter, NoDataError, Reading, Skip, flag
from edge.collectors.files import list_dir, optional_attr, optional_int

MICRO = 1e6
DECI = 10.0


def _desc(name: str) -> Desc:
    return Desc(
        f"node_power_supply_{name}",
        GAUGE,
        f"{name} value of /sys/class/power_supply/<power_supply>.",
        ("power_supply",),
    )


FILES: dict[str, tuple[Desc, float]] = {
    **{
        name: (_desc(metric), 1.0)
        for name, metric in (
            ("authentic", "authentic"),
            ("calibrate", "calibrate"),
            ("capacity", "capacity"),
            ("capacity_alert_max", "capacity_alert_max"),
            ("capacity_alert_min", "capacity_alert_min"),
            ("cycle_count", "cyclecount"),
            ("online", "online"),
            ("present", "present"),
            ("time_to_empty_now", "time_to_empty_seconds"),
            ("time_to_full_now", "time_to_full_seconds"),
        )
    },
    **{
        name: (_desc(metric), MICRO)
        for name, metric in (
            ("current_boot", "current_boot"),
            ("current_max", "current_max"),
            ("current_now", "current_ampere"),
            ("energy_empty", "energy_empty"),
            ("energy_empty_design", "energy_empty_design"),
            ("energy_full", "energy_full"),
            ("energy_full_design", "energy_full_design"),
            ("energy_now", "energy_watthour"),
            ("voltage_boot", "voltage_boot"),
            ("voltage_max", "voltage_max"),
            ("voltage_max_design", "voltage_max_design"),
            ("voltage_min", "voltage_min"),
            ("voltage_min_design", "voltage_min_design"),
            ("voltage_now", "voltage_volt"),
            ("voltage_ocv", "voltage_ocv"),
            ("charge_control_limit", "charge_control_limit"),
            ("charge_control_limit_max", "charge_control_limit_max"),
            ("charge_counter", "charge_counter"),
            ("charge_empty", "charge_empty"),
            ("charge_empty_design", "charge_empty_design"),
            ("charge_full", "charge_full"),
            ("charge_full_design", "charge_full_design"),
            ("charge_now", "charge_ampere"),
            ("charge_term_current", "charge_term_current"),
            ("constant_charge_current", "constant_charge_current"),
            ("constant_charge_current_max", "constant_charge_current_max"),
            ("constant_charge_voltage", "constant_charge_voltage"),
            ("constant_charge_voltage_max", "constant_charge_voltage_max"),
            ("precharge_current", "precharge_current"),
            ("input_current_limit", "input_current_limit"),
            ("power_now", "power_watt"),
        )
    },
    **{
        name: (_desc(f"{name}_celsius"), DECI)
        for name in (
            *("temp", "temp_alert_max", "temp_alert_min", "temp_ambient", "temp_ambient_max", "temp_ambient_min"),
            *("temp_max", "temp_min"),
        )
    },
}
"""Files of a supply, what they become, and the divisor to the metric's unit."""

WORDS = (
    *("capacity_level", "charge_type", "health", "manufacturer", "model_name", "serial_number", "status"),
    *("technology", "type", "usb_type", "scope"),
)
INFO = Desc(
    "node_power_supply_info",
    GAUGE,
    "info of /sys/class/power_supply/<power_supply>.",
    ("power_supply", *WORDS),
)


@dataclass(frozen=True, slots=True)
class PowersupplyOptions:
    """Flags of the powersupplyclass collector."""

    ignored: str = flag(
        "collector.powersupply.ignored-supplies",
        "^$",
        "Regexp of power supplies to ignore for powersupplyclass collector.",
    )


class PowersupplyclassCollector(Collector):
    """node_power_supply_*"""

    name = "powersupplyclass"
    options_type = PowersupplyOptions
    descs = (*(desc for desc, _ in FILES.values()), INFO)
    options: PowersupplyOptions

    def _prepare(self) -> None:
        self._filter = DeviceFilter(self.options.ignored, "", "collector.powersupply.ignored-supplies")

    def collect(self, skip: Skip) -> list[Reading]:
        base = self.paths.sys("class/power_supply")
        try:
            supplies = list_dir(base)
        except FileNotFoundError:
            raise NoDataError(f"{base} does not exist") from None
        readings: list[Reading] = []
        for supply in supplies:
            path = f"{base}/{supply}"
            if self._filter.ignored(supply):
                continue
            try:
                names = set(list_dir(path))
            except OSError as err:
                skip(path, err)
                continue
            for name in sorted(names & FILES.keys()):
                desc, divisor = FILES[name]
                value = optional_int(f"{path}/{name}", skip)
                if value is not None:
                    readings.append((desc, (supply,), value / divisor))
            words = tuple((optional_attr(f"{path}/{word}", skip) or "") if word in names else "" for word in WORDS)
            readings.append((INFO, (supply, *words), 1.0))
        return readings
