"""What the kernel knows of the CPU's flaws (sysfs-devices-system-cpu, vulnerabilities)."""

from edge.collectors.base import GAUGE, Collector, Desc, NoDataError, Reading, Skip
from edge.collectors.files import list_dir, read_attr

INFO = Desc(
    "node_cpu_vulnerabilities_info",
    GAUGE,
    "Details of each CPU vulnerability reported by sysfs. The value of the series is an int encoded state of the"
    " vulnerability. The same state is stored as a string in the label",
    ("codename", "state", "mitigation"),
)
STATES = ("not affected", "vulnerable", "mitigation")


def parse_vulnerability(text: str) -> tuple[str, str]:
    """(state, mitigation) of a file's text; a state that the kernel did not have before is `unknown`."""
    lowered = text.lower()
    for state in STATES:
        if lowered.startswith(state):
            rest = text[len(state) :]
            return state, rest.removeprefix(":").strip() if state == "mitigation" else ""
    return "unknown", ""


class CpuVulnerabilitiesCollector(Collector):
    """node_cpu_vulnerabilities_info"""

    name = "cpu_vulnerabilities"
    default_enabled = False
    descs = (INFO,)

    def collect(self, skip: Skip) -> list[Reading]:
        base = self.paths.sys("devices/system/cpu/vulnerabilities")
        try:
            names = list_dir(base)
        except FileNotFoundError:
            raise NoDataError("the kernel lists no CPU vulnerabilities") from None
        readings: list[Reading] = []
        for name in names:
            try:
                readings.append((INFO, (name, *parse_vulnerability(read_attr(f"{base}/{name}"))), 1.0))
            except OSError as err:
                skip(f"{base}/{name}", err)
        return readings
