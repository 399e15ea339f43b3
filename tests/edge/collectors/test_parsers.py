"""Every parser of text: garbage never raises anything but a FormatError, and one bad line costs its own series only."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import BrambleError
from common.testing import FakeClock
from edge.collectors import (
    arp,
    cpu,
    cpu_vulnerabilities,
    diskstats,
    ethtool,
    filesystem,
    interrupts,
    kernel,
    loadavg,
    netdev,
    nfs,
    os_release,
    pcidevice,
    pressure,
    rpi_board,
    rpi_firmware,
    rpi_gpio,
    rpi_iio,
    rpi_mailbox,
    rpi_storage,
    rpi_w1,
    rpi_wireless,
    schedstat,
    slabinfo,
    softnet,
    stat,
    tables,
    textfile,
    udp_queues,
)
from edge.collectors.base import DeviceFilter, NoOptions, Paths, Skip
from edge.collectors.conntrack import parse_stats
from edge.collectors.mdadm import array_readings, parse_mdstat
from edge.collectors.meminfo import MeminfoCollector
from edge.collectors.mountstats import mount_readings, parse_addresses, parse_mountstats
from edge.collectors.netstat import NetstatCollector, NetstatOptions
from edge.collectors.nfsd import parse_nfsd
from edge.collectors.nl80211 import parse_bss, parse_interface, parse_ssid, parse_station
from edge.collectors.processes import parse_pid_stat
from edge.collectors.qdisc import parse_qdisc
from edge.collectors.rtnetlink import attributes, messages, parse_address, parse_link
from edge.collectors.sockstat import SockstatCollector
from edge.collectors.sysctl import parameter, parameter_readings
from edge.collectors.zoneinfo import ZoneinfoCollector

ALL = DeviceFilter("", "", "x")
MEMINFO = MeminfoCollector(Paths(), NoOptions(), FakeClock())
NETSTAT = NetstatCollector(Paths(), NetstatOptions(fields=".*"), FakeClock())
SOCKSTAT = SockstatCollector(Paths(), NoOptions(), FakeClock())
ZONEINFO = ZoneinfoCollector(Paths(), NoOptions(), FakeClock())

TextParser = Callable[[str, Skip], Any]

BY_LINE: dict[str, tuple[TextParser, list[str]]] = {
    "cpu stat": (cpu.parse_stat, ["cpu0 1 2 3 4 5 6 7 8 9 10", "cpu1 1 2 3 4", "cpu2 5 6 7 8 9"]),
    "stat": (lambda t, s: stat.parse_stat(t, True, s), ["intr 5 1 2", "ctxt 7", "softirq 9 1 2 3", "btime 17"]),
    "meminfo": (MEMINFO.parse, ["MemFree:  12 kB", "Active(anon): 5 kB", "HugePages_Free: 0"]),
    "diskstats": (
        lambda t, s: diskstats.parse_diskstats(t, ALL, s),
        ["8 0 sda 1 2 3 4 5 6 7 8 9 10 11", " 8 16 sdb 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17"],
    ),
    "mountinfo": (
        filesystem.parse_mountinfo,
        ["29 1 259:2 / / rw - ext4 /dev/x rw", "30 1 0:2 / /a\\040b rw shared:1 - nfs h:/ ro"],
    ),
    "mounts": (filesystem.parse_mounts, ["/dev/x / ext4 rw 0 0", "h:/ /b nfs ro 0 0"]),
    "softnet": (
        softnet.parse_softnet,
        [f"{i:08x} 00000001 00000002 0 0 0 0 0 1 2 3 4 {i:08x}" for i in range(3)],
    ),
    "schedstat": (schedstat.parse_schedstat, ["cpu0 1 2 3 4 5 6 7 8 9", "cpu1 1 2 3 4 5 6 7 8 9"]),
    "slabinfo": (slabinfo.parse_slabinfo, ["a 1 2 3 4 5 : tunables", "b 1 2 3 4 5"]),
    "buddyinfo": (tables.parse_buddyinfo, ["Node 0, zone DMA 1 2 3", "Node 1, zone Normal 4 5"]),
    "cgroups": (tables.parse_cgroups, ["cpu 3 172 1", "memory 7 234 1"]),
    "nfs": (nfs.parse_nfs, ["net 1 2 3 4", "rpc 1 2 3", "proc2 18 " + "1 " * 18, "proc3 22 " + "2 " * 22]),
    "sockstat": (SOCKSTAT.parse, ["sockets: used 9", "TCP: inuse 1 mem 2", "UDP: inuse 4"]),
    "snmp6": (NETSTAT.parse_snmp6, ["Ip6InOctets 5", "Udp6InErrors 7"]),
    "pmic": (
        rpi_firmware.parse_pmic,
        [" VDD_CORE_A current(7)=1.5A", " VDD_CORE_V volt(15)=0.9V", " EXT5V_V volt(24)=5.1V"],
    ),
    "err_stats": (rpi_storage.parse_err_stats, ["# Data CRC Errors Occurred:\t 17", "# ADMA Error Occurred:\t 1"]),
}


def _udp(text: str, skip: Skip) -> object:
    return udp_queues.parse_udp(text, skip)


OTHERS: dict[str, TextParser] = {
    "arp": lambda t, s: arp.parse_arp(t),
    "cpu list": lambda t, s: cpu.parse_cpu_list(t),
    "cpuinfo": lambda t, s: cpu.cpuinfo_readings(cpu.parse_cpuinfo(t), True, s),
    "vulnerability": lambda t, s: cpu_vulnerabilities.parse_vulnerability(t),
    "udev": lambda t, s: diskstats.parse_udev(t),
    "interrupts": interrupts.parse_interrupts,
    "file-nr": lambda t, s: kernel.parse_file_nr(t),
    "loadavg": lambda t, s: loadavg.parse_loadavg(t),
    "mdstat": lambda t, s: [array_readings(a) for a in parse_mdstat(t, s)],
    "net/dev": netdev.parse_net_dev,
    "netstat": NETSTAT.parse_pairs,
    "conntrack": parse_stats,
    "os-release": lambda t, s: os_release.os_readings(os_release.parse_os_release(t), s),
    "pci.ids": lambda t, s: pcidevice.parse_pci_ids(t),
    "pressure": lambda t, s: pressure.parse_pressure("io", t),
    "softirqs": tables.parse_softirqs,
    "udp": _udp,
    "zoneinfo": ZONEINFO.parse,
    "nfsd": parse_nfsd,
    "mountstats": lambda t, s: [mount_readings(m) for m in parse_mountstats(t, s)],
    "mountinfo addresses": lambda t, s: parse_addresses(t),
    "sysctl": lambda t, s: parameter_readings(parameter("a.b"), t),
    "board overlay": lambda t, s: rpi_board.root_is_overlay(t),
    "firmware value": lambda t, s: rpi_firmware.parse_value(t, "V"),
    "firmware version": lambda t, s: rpi_firmware.parse_version(t),
    "firmware count": lambda t, s: rpi_firmware.parse_count(t, "oom events"),
    "firmware hex": lambda t, s: rpi_mailbox.parse_hex(t),
    "iio channels": lambda t, s: rpi_iio.find_channels(t.split("\n")),
    "iio number": lambda t, s: rpi_iio.number(t, "x"),
    "life_time": lambda t, s: rpi_storage.parse_life(t),
    "w1": lambda t, s: rpi_w1.parse_temperature(t),
    "wireless": rpi_wireless.parse_wireless,
    "gpio input": lambda t, s: rpi_gpio.parse_input(t),
    "text file": lambda t, s: textfile.parse_file(t.encode("utf-8", "surrogatepass"), 0.0),
}

BINARY: dict[str, Callable[[bytes], Any]] = {
    "pid stat": parse_pid_stat,
    "link": parse_link,
    "address": lambda d: parse_address(d, {0: "lo"}),
    "netlink": lambda d: [attributes(payload) for _, payload in messages(d)],
    "qdisc": parse_qdisc,
    "ssid": parse_ssid,
    "bss": parse_bss,
    "interface": lambda d: parse_interface(attributes(d)),
    "station": lambda d: parse_station({6: b"123456", 21: d}),
    "ethtool statistics": lambda d: ethtool.parse_stats(d, d, 4),
    # The kernel's answer to an ioctl has the size that was asked for; what is in it may be anything.
    "ethtool link": lambda d: ethtool.link_readings("e", *ethtool.parse_link(d[:64].ljust(64, b"\0"), 2)),
}

WORDS = st.sampled_from(["0", "1", "-1", "9" * 400, "nan", "kB", "cpu0", ":", "=", "t=", "crc=00 YES", "/", "²"])
GARBAGE = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=200),
    st.lists(WORDS, max_size=30).map(" ".join),
    st.lists(st.lists(WORDS, max_size=14).map(" ".join), max_size=6).map("\n".join),
)


FEW = settings(max_examples=30)
"""There are many parsers: thirty tries each find what a hundred did and keep the suite short."""


def ignore(what: str, error: Exception) -> None:
    """A Skip."""


@pytest.mark.parametrize("name", [*BY_LINE, *OTHERS])
@FEW
@given(text=GARBAGE)
def test_garbage_text_is_refused_or_skipped(name: str, text: str) -> None:
    parser = BY_LINE[name][0] if name in BY_LINE else OTHERS[name]
    with contextlib.suppress(BrambleError, ValueError):
        parser(text, ignore)


@pytest.mark.parametrize("name", BINARY)
@FEW
@given(data=st.binary(max_size=120))
def test_garbage_bytes_are_refused(name: str, data: bytes) -> None:
    with contextlib.suppress(BrambleError, OSError):
        BINARY[name](data)


def items(parsed: Any) -> list[Any]:
    return list(parsed.items()) if isinstance(parsed, dict) else list(parsed)


@pytest.mark.parametrize("name", BY_LINE)
@FEW
@given(data=st.data())
def test_a_bad_line_costs_its_own_readings_only(name: str, data: st.DataObject) -> None:
    parser, lines = BY_LINE[name]
    bad = data.draw(st.integers(0, len(lines) - 1))
    junk = data.draw(st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=40))
    head = lines[bad].split(" ")[0] if data.draw(st.booleans()) and name != "pmic" else ""
    spoiled = [*lines[:bad], f"{head} {junk}", *lines[bad + 1 :]]
    if name == "cpu stat":
        spoiled[bad] = f"{lines[bad].split(' ')[0]} {junk}"  # the list of CPUs ends at the first other line
    left = items(parser("\n".join(spoiled), ignore))
    for item in items(parser("\n".join([*lines[:bad], *lines[bad + 1 :]]), ignore)):
        if name == "softnet" or (name == "pmic" and item[0].name == "rpi_pmic_power_watts"):
            continue
        assert item in left
