"""All collectors, and how command-line flags choose and configure them."""

import argparse
import dataclasses
import typing
from collections.abc import Mapping, Sequence

from common.clock import Clock
from common.errors import ConfigError
from common.logs import EventLog
from edge.collectors.arp import ArpCollector
from edge.collectors.base import Collector, Flag, Paths
from edge.collectors.bonding import BondingCollector
from edge.collectors.btrfs import BtrfsCollector
from edge.collectors.conntrack import ConntrackCollector
from edge.collectors.cpu import CpuCollector
from edge.collectors.cpu_vulnerabilities import CpuVulnerabilitiesCollector
from edge.collectors.cpufreq import CpufreqCollector
from edge.collectors.diskstats import DiskstatsCollector
from edge.collectors.edac import EdacCollector
from edge.collectors.ethtool import EthtoolCollector
from edge.collectors.filesystem import FilesystemCollector
from edge.collectors.hwmon import HwmonCollector
from edge.collectors.interrupts import InterruptsCollector
from edge.collectors.kernel import EntropyCollector, FilefdCollector, KernelHungCollector
from edge.collectors.ksmd import KsmdCollector
from edge.collectors.loadavg import LoadavgCollector
from edge.collectors.mdadm import MdadmCollector
from edge.collectors.meminfo import MeminfoCollector
from edge.collectors.mountstats import MountstatsCollector
from edge.collectors.netclass import NetclassCollector
from edge.collectors.netdev import NetdevCollector
from edge.collectors.netstat import NetstatCollector
from edge.collectors.nfs import NfsCollector
from edge.collectors.nfsd import NfsdCollector
from edge.collectors.nvme import NvmeCollector
from edge.collectors.os_release import OsCollector
from edge.collectors.pcidevice import PcideviceCollector
from edge.collectors.plugin import load_plugins
from edge.collectors.powersupplyclass import PowersupplyclassCollector
from edge.collectors.pressure import PressureCollector
from edge.collectors.processes import ProcessesCollector
from edge.collectors.qdisc import QdiscCollector
from edge.collectors.rpi_board import RpiBoardCollector
from edge.collectors.rpi_firmware import RpiFirmwareCollector
from edge.collectors.rpi_gpio import RpiGpioCollector
from edge.collectors.rpi_humidity import RpiHumidityCollector
from edge.collectors.rpi_iio import RpiIioCollector
from edge.collectors.rpi_kernel_log import RpiKernelLogCollector
from edge.collectors.rpi_rtc import RpiRtcCollector
from edge.collectors.rpi_storage import RpiStorageCollector
from edge.collectors.rpi_throttle import RpiThrottleCollector
from edge.collectors.rpi_w1 import RpiW1Collector
from edge.collectors.rpi_wireless import RpiWirelessCollector
from edge.collectors.runner import Runner
from edge.collectors.schedstat import SchedstatCollector
from edge.collectors.slabinfo import SlabinfoCollector
from edge.collectors.sockstat import SockstatCollector
from edge.collectors.softnet import SoftnetCollector
from edge.collectors.stat import StatCollector
from edge.collectors.sysctl import SysctlCollector
from edge.collectors.systemd import SystemdCollector
from edge.collectors.tables import BuddyinfoCollector, CgroupsCollector, SoftirqsCollector
from edge.collectors.textfile import TextfileCollector
from edge.collectors.thermal_zone import ThermalZoneCollector
from edge.collectors.time import TimeCollector
from edge.collectors.timex import TimexCollector
from edge.collectors.udp_queues import UdpQueuesCollector
from edge.collectors.uname import UnameCollector
from edge.collectors.vmstat import VmstatCollector
from edge.collectors.watchdog import WatchdogCollector
from edge.collectors.wifi import WifiCollector
from edge.collectors.zoneinfo import ZoneinfoCollector

_log = EventLog("collectors")

COLLECTORS: tuple[type[Collector], ...] = (
    ArpCollector,
    BondingCollector,
    BtrfsCollector,
    BuddyinfoCollector,
    CgroupsCollector,
    ConntrackCollector,
    CpuCollector,
    CpuVulnerabilitiesCollector,
    CpufreqCollector,
    DiskstatsCollector,
    EdacCollector,
    EntropyCollector,
    EthtoolCollector,
    FilefdCollector,
    FilesystemCollector,
    HwmonCollector,
    InterruptsCollector,
    KernelHungCollector,
    KsmdCollector,
    LoadavgCollector,
    MdadmCollector,
    MeminfoCollector,
    MountstatsCollector,
    NetclassCollector,
    NetdevCollector,
    NetstatCollector,
    NfsCollector,
    NfsdCollector,
    NvmeCollector,
    OsCollector,
    PcideviceCollector,
    PowersupplyclassCollector,
    PressureCollector,
    ProcessesCollector,
    QdiscCollector,
    RpiBoardCollector,
    RpiFirmwareCollector,
    RpiGpioCollector,
    RpiHumidityCollector,
    RpiIioCollector,
    RpiKernelLogCollector,
    RpiRtcCollector,
    RpiStorageCollector,
    RpiThrottleCollector,
    RpiW1Collector,
    RpiWirelessCollector,
    SchedstatCollector,
    SlabinfoCollector,
    SockstatCollector,
    SoftirqsCollector,
    SoftnetCollector,
    StatCollector,
    SysctlCollector,
    SystemdCollector,
    TextfileCollector,
    ThermalZoneCollector,
    TimeCollector,
    TimexCollector,
    UdpQueuesCollector,
    UnameCollector,
    VmstatCollector,
    WatchdogCollector,
    WifiCollector,
    ZoneinfoCollector,
)
"""Every built-in collector, in the order in which a scrape runs them."""

ELSEWHERE = (
    *("bcache", "bcachefs", "dmi", "drbd", "drm", "fibrechannel", "infiniband", "ipvs", "lnstat", "logind"),
    *("meminfo_numa", "network_route", "ntp", "perf", "rapl", "runit", "selinux", "supervisord", "swap", "tapestats"),
    *("tcpstat", "xfrm", "xfs", "zfs"),
)
"""node_exporter's collectors that are not here: their flags are taken, so that its command lines keep working."""

ELSEWHERE_SWITCHES = (
    *("bcache.priorityStats", "ntp.server-is-local", "perf.disable-hardware-profilers"),
    *("perf.disable-software-profilers", "perf.disable-cache-profilers", "rapl.enable-zone-label"),
)
ELSEWHERE_VALUES = (
    *("ipvs.backend-labels", "ntp.server", "ntp.server-port", "ntp.protocol-version", "ntp.ip-ttl"),
    *("ntp.max-distance", "ntp.local-offset-tolerance", "perf.cpus", "perf.tracepoint", "perf.hardware-profilers"),
    *("perf.software-profilers", "perf.cache-profilers", "runit.servicedir", "supervisord.url"),
    "tapestats.ignored-devices",
)

PATH_FLAGS = {
    "path.procfs": ("procfs", "procfs mountpoint."),
    "path.sysfs": ("sysfs", "sysfs mountpoint."),
    "path.rootfs": ("rootfs", "rootfs mountpoint."),
    "path.udev.data": ("udev", "udev data path."),
}
DISABLE_DEFAULTS = "collector.disable-defaults"
PLUGIN = "collector.plugin"


def add_flags(parser: argparse.ArgumentParser, collectors: Sequence[type[Collector]] | None = None) -> None:
    """Add `--path.*`, `--collector.NAME`, `--no-collector.NAME` and every collector's own flags.

    Only flags that were given appear in the namespace, under their full name (`vars(ns)["collector.cpu.info"]`).
    The parser should have been made with `allow_abbrev=False`.
    """
    defaults = Paths()
    paths = parser.add_argument_group("paths")
    for name, (field, text) in PATH_FLAGS.items():
        paths.add_argument(
            f"--{name}", dest=name, default=argparse.SUPPRESS, help=f"{text} (default: {getattr(defaults, field)})"
        )
    group = parser.add_argument_group("collectors")
    _add_bool(group, DISABLE_DEFAULTS, "Set all collectors to disabled by default.")
    group.add_argument(
        f"--{PLUGIN}",
        dest=PLUGIN,
        action="append",
        default=argparse.SUPPRESS,
        help="Name of an installed third-party collector (entry point group bramble.collectors). (repeatable)",
    )
    for collector in COLLECTORS if collectors is None else collectors:
        state = "enabled" if collector.default_enabled else "disabled"
        _add_bool(group, f"collector.{collector.name}", f"Enable the {collector.name} collector (default: {state}).")
        for declared, kind, default in option_fields(collector):
            if declared.hidden:
                continue
            text = declared.help.replace("%", "%%")
            if kind is bool:
                _add_bool(group, declared.name, text)
            elif typing.get_origin(kind) is tuple:
                group.add_argument(
                    f"--{declared.name}", dest=declared.name, action="append", default=argparse.SUPPRESS, help=text
                )
            else:
                shown = f' (default: "{default}")'.replace("%", "%%") if default not in ("", None) else ""
                group.add_argument(
                    f"--{declared.name}", dest=declared.name, type=kind, default=argparse.SUPPRESS, help=text + shown
                )
    hidden = argparse.SUPPRESS
    for name in (*ELSEWHERE, *ELSEWHERE_SWITCHES):
        _add_bool(group, f"collector.{name}", hidden)
    for name in ELSEWHERE_VALUES:
        group.add_argument(
            f"--collector.{name}", dest=f"collector.{name}", default=hidden, action="append", help=hidden
        )


def _add_bool(group: argparse._ArgumentGroup, name: str, text: str) -> None:
    group.add_argument(
        f"--{name}", dest=name, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text
    )


def option_fields(collector: type[Collector]) -> list[tuple[Flag, type, object]]:
    """(flag, value type, default) of each option of a collector."""
    hints = typing.get_type_hints(collector.options_type)
    return [
        (field.metadata["flag"], hints[field.name], field.default)
        for field in dataclasses.fields(collector.options_type)
        if "flag" in field.metadata
    ]


def paths_from(given: Mapping[str, object]) -> Paths:
    """Paths of the `path.*` values in `given` (flag name to value), defaults elsewhere."""
    return Paths(**{field: str(given[name]) for name, (field, _) in PATH_FLAGS.items() if name in given})


def build_collectors(
    given: Mapping[str, object], clock: Clock, collectors: Sequence[type[Collector]] | None = None
) -> list[Collector]:
    """Instances of the enabled collectors; `given` maps full flag names to values, as `vars(namespace)` does."""
    paths = paths_from(given)
    by_default = not given.get(DISABLE_DEFAULTS, False)
    chosen = COLLECTORS if collectors is None else collectors
    states: dict[str, object] = {}
    for collector in chosen:
        name = f"collector.{collector.name}"
        states[name] = given.get(name, collector.default_enabled and by_default)
        if not isinstance(states[name], bool):
            raise ConfigError(f"{name}: expected true or false, got {states[name]!r}")
    for name in ELSEWHERE:
        if given.get(f"collector.{name}") is True:
            _log.warn("this collector of node_exporter does not exist here, its flag is ignored", collector=name)
    given = {**given, **states}
    plugins = given.get(PLUGIN, ())
    if isinstance(plugins, str) or not isinstance(plugins, Sequence):
        raise ConfigError(f"{PLUGIN}: expected a list of names, got {plugins!r}")
    ours = {collector.name for collector in chosen}
    for name in plugins:
        if name in ours:
            raise ConfigError(f"{PLUGIN}: {name!r} is the name of a built-in collector")
    built = [
        collector(paths, options_from(collector, given), clock)
        for collector in chosen
        if states[f"collector.{collector.name}"]
    ]
    return [*built, *load_plugins(plugins, paths, clock)] if plugins else built


def options_from(collector: type[Collector], given: Mapping[str, object]) -> object:
    """The collector's options dataclass with what `given` says; ConfigError names a flag of the wrong type."""
    values: dict[str, object] = {}
    hints = typing.get_type_hints(collector.options_type)
    for field in dataclasses.fields(collector.options_type):
        declared = field.metadata.get("flag")
        if declared is None or declared.name not in given:
            continue
        value = given[declared.name]
        kind = hints[field.name]
        if typing.get_origin(kind) is tuple:
            value = (value,) if isinstance(value, str) else value
            if not isinstance(value, Sequence) or not all(isinstance(item, str) for item in value):
                raise ConfigError(f"{declared.name}: expected a list of strings, got {value!r}")
            value = tuple(value)
        elif kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        elif type(value) is not kind:
            raise ConfigError(f"{declared.name}: expected {kind.__name__}, got {value!r}")
        values[field.name] = value
    return collector.options_type(**values)


def build_runner(given: Mapping[str, object], clock: Clock, deadline: float = 3.0) -> Runner:
    """A Runner over the enabled collectors; the one call that `edge.cli` makes after parsing its flags."""
    return Runner(build_collectors(given, clock), clock, deadline)
