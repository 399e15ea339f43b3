"""NVMe controllers and their namespaces (sysfs, drivers/nvme/host/sysfs.c)."""

import re

from edge.collectors.base import GAUGE, Collector, Desc, NoDataError, Reading, Skip
from edge.collectors.files import list_dir, optional_attr, optional_int

INFO = Desc(
    "node_nvme_info",
    GAUGE,
    "Non-numeric data from /sys/class/nvme/<device>, value is always 1.",
    ("device", "firmware_revision", "model", "serial", "state", "cntlid"),
)
_NAMESPACE = ("device", "nsid")
NAMESPACE_INFO = Desc(
    "node_nvme_namespace_info",
    GAUGE,
    "Information about NVMe namespaces. Value is always 1",
    ("device", "nsid", "ana_state"),
)
CAPACITY = Desc(
    "node_nvme_namespace_capacity_bytes",
    GAUGE,
    "Capacity of the NVMe namespace in bytes. Computed as namespace_size * namespace_logical_block_size",
    _NAMESPACE,
)
SIZE = Desc(
    "node_nvme_namespace_size_bytes",
    GAUGE,
    "Size of the NVMe namespace in bytes. Available in /sys/class/nvme/<device>/<namespace>/size",
    _NAMESPACE,
)
USED = Desc(
    "node_nvme_namespace_used_bytes",
    GAUGE,
    "Used space of the NVMe namespace in bytes. Available in /sys/class/nvme/<device>/<namespace>/nuse",
    _NAMESPACE,
)
BLOCK = Desc(
    "node_nvme_namespace_logical_block_size_bytes",
    GAUGE,
    "Logical block size of the NVMe namespace in bytes. Usually 4Kb. Available in"
    " /sys/class/nvme/<device>/<namespace>/queue/logical_block_size",
    _NAMESPACE,
)

_CONTROLLER_NAMESPACE = re.compile(r"nvme[0-9]+n([0-9]+)\Z", re.ASCII)


class NvmeCollector(Collector):
    """node_nvme_*"""

    name = "nvme"
    descs = (INFO, NAMESPACE_INFO, CAPACITY, SIZE, USED, BLOCK)

    def collect(self, skip: Skip) -> list[Reading]:
        base = self.paths.sys("class/nvme")
        try:
            devices = list_dir(base)
        except FileNotFoundError:
            raise NoDataError("there is no NVMe device") from None
        readings: list[Reading] = []
        for device in devices:
            path = f"{base}/{device}"
            names = ("firmware_rev", "model", "serial", "state", "cntlid")
            info = (device, *(optional_attr(f"{path}/{name}", skip) or "" for name in names))
            readings.append((INFO, info, 1.0))
            try:
                found = [match for match in map(_CONTROLLER_NAMESPACE.match, list_dir(path)) if match]
            except OSError as err:
                skip(path, err)
                continue
            for match in found:
                readings += self._namespace(f"{path}/{match[0]}", device, match[1], skip)
        return readings

    def _namespace(self, path: str, device: str, number: str, skip: Skip) -> list[Reading]:
        block = optional_int(f"{path}/queue/logical_block_size", skip)
        size = optional_int(f"{path}/size", skip)
        used = optional_int(f"{path}/nuse", skip)
        labels = (device, number)
        readings: list[Reading] = [
            (NAMESPACE_INFO, (*labels, optional_attr(f"{path}/ana_state", skip) or "unknown"), 1.0)
        ]
        if block is not None:
            readings.append((BLOCK, labels, float(block)))
        # The kernel's `size` counts 512 bytes, not blocks; upstream multiplies by the block all the same, and so its
        # users' dashboards do. The two are one on namespaces formatted with 512-byte blocks.
        if size is not None and block is not None:
            readings += [(CAPACITY, labels, float(size * block)), (SIZE, labels, float(size * block))]
        if used is not None and block is not None:
            readings.append((USED, labels, float(used * block)))
        return readings
