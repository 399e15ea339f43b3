"""Hardware watchdogs (sysfs-class-watchdog)."""

from edge.collectors.base import GAUGE, Collector, Desc, NoDataError, Reading, Skip
from edge.collectors.files import list_dir, optional_attr, optional_int


def _desc(name: str, file: str) -> Desc:
    return Desc(f"node_watchdog_{name}", GAUGE, f"Value of /sys/class/watchdog/<watchdog>/{file}", ("name",))


FILES = {
    "bootstatus": _desc("bootstatus", "bootstatus"),
    "fw_version": _desc("fw_version", "fw_version"),
    "nowayout": _desc("nowayout", "nowayout"),
    "timeleft": _desc("timeleft_seconds", "timeleft"),
    "timeout": _desc("timeout_seconds", "timeout"),
    "pretimeout": _desc("pretimeout_seconds", "pretimeout"),
    "access_cs0": _desc("access_cs0", "access_cs0"),
}
WORDS = ("options", "identity", "state", "status", "pretimeout_governor")
INFO = Desc("node_watchdog_info", GAUGE, "Info of /sys/class/watchdog/<watchdog>", ("name", *WORDS))


class WatchdogCollector(Collector):
    """node_watchdog_*"""

    name = "watchdog"
    descs = (*FILES.values(), INFO)

    def collect(self, skip: Skip) -> list[Reading]:
        base = self.paths.sys("class/watchdog")
        try:
            names = list_dir(base)
        except OSError as err:
            raise NoDataError(f"{base} cannot be read: {err.strerror}") from None
        readings: list[Reading] = []
        for name in names:
            for file, desc in FILES.items():
                value = optional_int(f"{base}/{name}/{file}", skip)
                if value is not None:
                    readings.append((desc, (name,), float(value)))
            words = tuple(optional_attr(f"{base}/{name}/{word}", skip) or "" for word in WORDS)
            readings.append((INFO, (name, *words), 1.0))
        return readings
