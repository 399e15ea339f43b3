"""CPU frequencies and governors (kernel: Documentation/admin-guide/pm/cpufreq.rst)."""

import re

from edge.collectors.base import GAUGE, Collector, Desc, NoDataError, Reading, Skip
from edge.collectors.files import list_dir, optional_attr, optional_int

_CPU = ("cpu",)
FILES = (
    ("cpuinfo_cur_freq", Desc("node_cpu_frequency_hertz", GAUGE, "Current CPU thread frequency in hertz.", _CPU)),
    (
        "cpuinfo_min_freq",
        Desc("node_cpu_frequency_min_hertz", GAUGE, "Minimum CPU thread frequency in hertz.", _CPU),
    ),
    (
        "cpuinfo_max_freq",
        Desc("node_cpu_frequency_max_hertz", GAUGE, "Maximum CPU thread frequency in hertz.", _CPU),
    ),
    (
        "scaling_cur_freq",
        Desc("node_cpu_scaling_frequency_hertz", GAUGE, "Current scaled CPU thread frequency in hertz.", _CPU),
    ),
    (
        "scaling_min_freq",
        Desc("node_cpu_scaling_frequency_min_hertz", GAUGE, "Minimum scaled CPU thread frequency in hertz.", _CPU),
    ),
    (
        "scaling_max_freq",
        Desc("node_cpu_scaling_frequency_max_hertz", GAUGE, "Maximum scaled CPU thread frequency in hertz.", _CPU),
    ),
)
GOVERNOR = Desc("node_cpu_scaling_governor", GAUGE, "Current enabled CPU frequency governor.", ("cpu", "governor"))

_CPU_DIR = re.compile(r"cpu([0-9]+)\Z")


class CpufreqCollector(Collector):
    """node_cpu_scaling_*, node_cpu_frequency_*"""

    name = "cpufreq"
    descs = (*(desc for _, desc in FILES), GOVERNOR)

    def collect(self, skip: Skip) -> list[Reading]:
        base = self.paths.sys("devices/system/cpu")
        try:
            cpus = [match[1] for match in map(_CPU_DIR.match, list_dir(base)) if match]
        except FileNotFoundError:
            raise NoDataError(f"{base} does not exist") from None
        readings: list[Reading] = []
        for cpu in sorted(cpus, key=int):
            path = f"{base}/cpu{cpu}/cpufreq"
            governor = optional_attr(f"{path}/scaling_governor", skip)
            if governor is None and optional_attr(f"{path}/scaling_cur_freq", skip) is None:
                continue
            for name, desc in FILES:
                # What the hardware runs at may only be read by root, and costs a firmware call: EACCES is normal.
                value = optional_int(f"{path}/{name}", _quiet if name == "cpuinfo_cur_freq" else skip)
                if value is not None:
                    readings.append((desc, (cpu,), value * 1000.0))
            if governor:
                available = (optional_attr(f"{path}/scaling_available_governors", skip) or governor).split()
                if governor not in available:
                    available = [governor]  # whatever that list is, it is not one of governors
                readings += [(GOVERNOR, (cpu, g), 1.0 if g == governor else 0.0) for g in available]
        return readings


def _quiet(what: str, error: Exception) -> None:
    """A Skip that forgets."""
