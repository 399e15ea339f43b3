"""PCI devices (sysfs-bus-pci), with names from pci.ids if asked for."""

import os
from dataclasses import dataclass

from edge.collectors.base import GAUGE, Collector, Desc, NoDataError, Reading, Skip, flag
from edge.collectors.files import list_dir, optional_attr, optional_int, read_text

ADDRESS = ("segment", "bus", "device", "function")
INFO_LABELS = (
    *ADDRESS,
    *("parent_segment", "parent_bus", "parent_device", "parent_function"),
    *("class_id", "vendor_id", "device_id", "subsystem_vendor_id", "subsystem_device_id", "revision"),
)
NAME_LABELS = ("vendor_name", "device_name", "subsystem_vendor_name", "subsystem_device_name", "class_name")
_INFO_HELP = "Non-numeric data from /sys/bus/pci/devices/<location>, value is always 1."
INFO = Desc("node_pcidevice_info", GAUGE, _INFO_HELP, INFO_LABELS)
NAMED_INFO = Desc("node_pcidevice_info", GAUGE, _INFO_HELP, (*INFO_LABELS, *NAME_LABELS))


def _gauge(name: str, text: str) -> Desc:
    return Desc(f"node_pcidevice_{name}", GAUGE, text, ADDRESS)


NUMBERS = {
    "max_link_width": _gauge("max_link_width", "Value of maximum link's width (number of lanes)"),
    "current_link_width": _gauge("current_link_width", "Value of current link's width (number of lanes)"),
    "d3cold_allowed": _gauge("d3cold_allowed", "Whether the PCIe device supports D3cold power state (0/1)."),
    "sriov_drivers_autoprobe": _gauge(
        "sriov_drivers_autoprobe", "Whether SR-IOV drivers autoprobe is enabled for the device (0/1)."
    ),
    "sriov_numvfs": _gauge("sriov_numvfs", "Number of Virtual Functions (VFs) currently enabled for SR-IOV."),
    "sriov_totalvfs": _gauge("sriov_totalvfs", "Total number of Virtual Functions (VFs) supported by the device."),
    "sriov_vf_total_msix": _gauge("sriov_vf_total_msix", "Total number of MSI-X vectors for Virtual Functions."),
    "numa_node": _gauge("numa_node", "NUMA node number for the PCI device. -1 indicates unknown or not available."),
}
SPEEDS = {
    "max_link_speed": _gauge("max_link_transfers_per_second", "Value of maximum link's transfers per second (T/s)"),
    "current_link_speed": _gauge(
        "current_link_transfers_per_second", "Value of current link's transfers per second (T/s)"
    ),
}
POWER = Desc(
    "node_pcidevice_power_state",
    GAUGE,
    "PCIe device power state, one of: D0, D1, D2, D3hot, D3cold, unknown or error.",
    (*ADDRESS, "state"),
)
STATES = ("D0", "D1", "D2", "D3hot", "D3cold", "unknown", "error")
IDS_FILES = ("usr/share/misc/pci.ids", "usr/share/hwdata/pci.ids")


@dataclass(frozen=True, slots=True)
class PcideviceOptions:
    """Flags of the pcidevice collector."""

    ids_file: str = flag(
        "collector.pcidevice.idsfile", "", "Path to pci.ids file to use for PCI device identification."
    )
    names: bool = flag("collector.pcidevice.names", False, "Enable PCI device name resolution (requires pci.ids file).")


@dataclass(frozen=True, slots=True)
class PciIds:
    """Names by hexadecimal numbers without `0x`."""

    vendors: dict[str, str]
    devices: dict[tuple[str, str], str]
    subsystems: dict[tuple[str, str, str, str], str]
    classes: dict[str, str]


def parse_pci_ids(text: str) -> PciIds:
    """Names of a pci.ids file (https://pci-ids.ucw.cz); lines that do not fit are ignored."""
    ids = PciIds({}, {}, {}, {})
    vendor = device = pci_class = ""
    for line in text.split("\n"):
        depth = len(line) - len(line.lstrip("\t"))
        number, _, name = line.strip().partition("  ")
        if not name or line.startswith("#"):
            continue
        if depth == 0:
            vendor = pci_class = ""
            if number.startswith("C "):
                pci_class = number[2:]
                ids.classes[pci_class] = name
            else:
                vendor = number
                ids.vendors[vendor] = name
        elif depth == 1 and pci_class:
            device = number
            ids.classes[pci_class + number] = name
        elif depth == 1 and vendor:
            device = number
            ids.devices[vendor, device] = name
        elif depth == 2 and pci_class:
            ids.classes[pci_class + device + number] = name
        elif depth == 2 and vendor and " " in number:
            sub_vendor, _, sub_device = number.partition(" ")
            ids.subsystems[vendor, device, sub_vendor, sub_device] = name
    return ids


def split_address(name: str) -> tuple[str, ...] | None:
    """(segment, bus, device, function) of `0000:01:00.0`; None for another name."""
    front, dot, function = name.rpartition(".")
    parts = front.split(":")
    return (*parts, function) if dot and len(parts) == 3 else None


class PcideviceCollector(Collector):
    """node_pcidevice_*"""

    name = "pcidevice"
    default_enabled = False
    options_type = PcideviceOptions
    descs = (INFO, *SPEEDS.values(), *NUMBERS.values(), POWER)
    options: PcideviceOptions

    def _prepare(self) -> None:
        self._ids: PciIds | None = None

    def collect(self, skip: Skip) -> list[Reading]:
        base = self.paths.sys("bus/pci/devices")
        try:
            names = list_dir(base)
        except FileNotFoundError:
            raise NoDataError("there is no PCI bus") from None
        if self.options.names and self._ids is None:
            self._ids = self._load(skip)
        readings: list[Reading] = []
        for name in names:
            address = split_address(name)
            if address is not None:
                readings += self._device(f"{base}/{name}", address, skip)
        return readings

    def _load(self, skip: Skip) -> PciIds:
        chosen = self.options.ids_file
        for path in [chosen] if chosen else [self.paths.root(name) for name in IDS_FILES]:
            try:
                return parse_pci_ids(read_text(path))
            except OSError as err:
                skip(path, err)
        return PciIds({}, {}, {}, {})

    def _device(self, path: str, address: tuple[str, ...], skip: Skip) -> list[Reading]:
        parent = split_address(os.path.basename(os.path.dirname(os.path.realpath(path))))  # noqa: PTH119, PTH120
        numbers = [
            optional_attr(f"{path}/{name}", skip) or ""
            for name in ("class", "vendor", "device", "subsystem_vendor", "subsystem_device", "revision")
        ]
        labels = (*address, *(parent or ("*", "*", "*", "*")), *numbers)
        readings: list[Reading] = []
        if self._ids is not None:
            readings.append((NAMED_INFO, (*labels, *_names(self._ids, numbers)), 1.0))
        else:
            readings.append((INFO, labels, 1.0))
        for name, desc in SPEEDS.items():
            text = optional_attr(f"{path}/{name}", skip)
            if text is not None and text.endswith(("GT/s", "GT/s PCIe")):
                try:
                    readings.append((desc, address, float(text.partition(" ")[0]) * 1e9))
                except ValueError as err:
                    skip(f"{path}/{name}", err)
        for name, desc in NUMBERS.items():
            value = optional_int(f"{path}/{name}", skip)
            if value is not None and not (name == "numa_node" and value < 0):
                readings.append((desc, address, float(value)))
        state = optional_attr(f"{path}/power_state", skip)
        if state is not None:
            readings += [(POWER, (*address, known), 1.0 if known == state else 0.0) for known in STATES]
        return readings


def _names(ids: PciIds, numbers: list[str]) -> tuple[str, ...]:
    code, vendor, device, sub_vendor, sub_device = (number.removeprefix("0x") for number in numbers[:5])
    return (
        ids.vendors.get(vendor, ""),
        ids.devices.get((vendor, device), ""),
        ids.vendors.get(sub_vendor, ""),
        ids.subsystems.get((vendor, device, sub_vendor, sub_device), ""),
        ids.classes.get(code) or ids.classes.get(code[:4]) or ids.classes.get(code[:2], ""),
    )
