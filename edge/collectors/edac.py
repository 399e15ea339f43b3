"""Memory errors by controller (kernel: Documentation/admin-guide/RAS)."""

import re

from edge.collectors.base import COUNTER, Collector, Desc, Reading, Skip
from edge.collectors.files import list_dir, optional_int

_CONTROLLER = ("controller",)
_ROW = ("controller", "csrow")
CORRECTABLE = Desc("node_edac_correctable_errors_total", COUNTER, "Total correctable memory errors.", _CONTROLLER)
UNCORRECTABLE = Desc("node_edac_uncorrectable_errors_total", COUNTER, "Total uncorrectable memory errors.", _CONTROLLER)
ROW_CORRECTABLE = Desc(
    "node_edac_csrow_correctable_errors_total", COUNTER, "Total correctable memory errors for this csrow.", _ROW
)
ROW_UNCORRECTABLE = Desc(
    "node_edac_csrow_uncorrectable_errors_total",
    COUNTER,
    "Total uncorrectable memory errors for this csrow.",
    _ROW,
)

_MC = re.compile(r"mc([0-9]+)\Z")
_CSROW = re.compile(r"csrow([0-9]+)\Z")


class EdacCollector(Collector):
    """node_edac_*"""

    name = "edac"
    descs = (CORRECTABLE, UNCORRECTABLE, ROW_CORRECTABLE, ROW_UNCORRECTABLE)

    def collect(self, skip: Skip) -> list[Reading]:
        base = self.paths.sys("devices/system/edac/mc")
        try:
            controllers = [match[1] for match in map(_MC.match, list_dir(base)) if match]
        except FileNotFoundError:
            return []
        readings: list[Reading] = []
        for number in controllers:
            path = f"{base}/mc{number}"
            wanted: list[tuple[Desc, tuple[str, ...], str]] = [
                (CORRECTABLE, (number,), "ce_count"),
                (ROW_CORRECTABLE, (number, "unknown"), "ce_noinfo_count"),
                (UNCORRECTABLE, (number,), "ue_count"),
                (ROW_UNCORRECTABLE, (number, "unknown"), "ue_noinfo_count"),
            ]
            try:
                rows = [match[1] for match in map(_CSROW.match, list_dir(path)) if match]
            except OSError as err:
                skip(path, err)
                continue
            for row in rows:
                wanted += [
                    (ROW_CORRECTABLE, (number, row), f"csrow{row}/ce_count"),
                    (ROW_UNCORRECTABLE, (number, row), f"csrow{row}/ue_count"),
                ]
            for desc, labels, file in wanted:
                value = optional_int(f"{path}/{file}", skip)
                if value is not None:
                    readings.append((desc, labels, float(value)))
        return readings
