"""The collectors that every machine has, on small trees; whole pages are compared by the conformance test."""

import os
import threading
from pathlib import Path

import pytest

from common.errors import ConfigError, FormatError
from common.testing import FakeClock
from edge.collectors.base import NoDataError, Paths
from edge.collectors.cpu import CpuCollector, CpuOptions, parse_cpu_list
from edge.collectors.diskstats import DiskstatsCollector
from edge.collectors.filesystem import FilesystemCollector, FilesystemOptions, parse_mountinfo
from edge.collectors.hwmon import HwmonCollector
from edge.collectors.loadavg import LoadavgCollector
from edge.collectors.meminfo import MeminfoCollector
from edge.collectors.netdev import NetdevCollector, NetdevOptions, legacy_names
from edge.collectors.rtnetlink import STATS64, attributes, messages
from edge.collectors.thermal_zone import ThermalZoneCollector
from edge.collectors.time import TimeCollector
from edge.collectors.uname import UnameCollector

STAT = "cpu  10 0 0 0\ncpu0 4490 19 45 7069 220 1 10 0 2 1\nctxt 5\n"


def test_cpu_seconds_are_ticks_over_a_hundred(read) -> None:
    found = read(CpuCollector, {"proc/stat": STAT})
    assert found["node_cpu_seconds_total", "0", "idle"] == 70.69
    assert found["node_cpu_guest_seconds_total", "0", "nice"] == 0.01


def test_a_cpu_line_of_garbage_costs_that_cpu_only(read, skipped) -> None:
    found = read(CpuCollector, {"proc/stat": STAT + "cpu1 x y z 1\ncpu2 1 2 3 4\n".replace("ctxt", "")})
    assert {key[1] for key in found} == {"0"}  # the list of CPUs ends at the first other line
    found = read(CpuCollector, {"proc/stat": "cpu0 1 2 3 4\ncpu1 x y z 1\ncpu2 1 2 3 4\n"})
    assert {key[1] for key in found if key[0] == "node_cpu_seconds_total"} == {"0", "2"}
    assert "/proc/stat cpu1" in skipped


def test_a_cpu_counter_never_runs_backwards_unless_the_cpu_was_reset(tree, skipped) -> None:
    paths = tree({"proc/stat": "cpu0 100 0 0 1000 500\n"})
    collector = CpuCollector(paths, CpuOptions(), FakeClock())
    collector.collect(skipped)
    tree({"proc/stat": "cpu0 101 0 0 1001 400\n"})
    assert {v[1]: x for _, v, x in collector.collect(skipped)}["iowait"] == 5.0
    tree({"proc/stat": "cpu0 1 0 0 10 4\n"})
    assert {v[1]: x for _, v, x in collector.collect(skipped)}["iowait"] == 0.04


@pytest.mark.parametrize("text", ["x", "5-1", "1-99999", "-1"])
def test_a_cpu_list_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        parse_cpu_list(text)


def test_meminfo_gives_bytes_for_kb_and_numbers_for_the_rest(read, skipped) -> None:
    found = read(
        MeminfoCollector, {"proc/meminfo": "MemFree: 2 kB\nActive(anon):  1 kB\nHugePages_Free: 7\nBad: x kB\n"}
    )
    assert found == {
        ("node_memory_MemFree_bytes",): 2048.0,
        ("node_memory_Active_anon_bytes",): 1024.0,
        ("node_memory_HugePages_Free",): 7.0,
    }
    assert skipped == ["/proc/meminfo Bad"]


@pytest.mark.parametrize("text", ["", "\0\0\0", "Mem"])
def test_meminfo_without_a_field_is_a_failure(read, text: str) -> None:
    with pytest.raises(FormatError):
        read(MeminfoCollector, {"proc/meminfo": text})


def test_loadavg(read) -> None:
    assert read(LoadavgCollector, {"proc/loadavg": "0.21 0.37 0.39 1/719 19737\n"}) == {
        ("node_load1",): 0.21,
        ("node_load5",): 0.37,
        ("node_load15",): 0.39,
    }


def test_a_thermal_zone_that_cannot_be_read_costs_its_own_series(read, skipped) -> None:
    found = read(
        ThermalZoneCollector,
        {
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone0/temp": "47774\n",
            "sys/class/thermal/thermal_zone1/type": "bad\n",
            "sys/class/thermal/thermal_zone1/temp": "\n",
            "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
            "sys/class/thermal/cooling_device0/cur_state": "2\n",
            "sys/class/thermal/cooling_device0/max_state": "4\n",
        },
    )
    assert found == {
        ("node_thermal_zone_temp", "0", "cpu-thermal"): 47.774,
        ("node_cooling_device_cur_state", "0", "pwm-fan"): 2.0,
        ("node_cooling_device_max_state", "0", "pwm-fan"): 4.0,
    }
    assert len(skipped) == 1


@pytest.mark.parametrize("kind", [ThermalZoneCollector, HwmonCollector])
def test_absent_hardware_is_no_data(read, kind) -> None:
    with pytest.raises(NoDataError):
        read(kind, {})


def test_a_hwmon_sensor_that_fails_costs_its_own_series(read, skipped) -> None:
    base = "sys/class/hwmon/hwmon0/"
    files = {"name": "rpi_volt\n", "in0_lcrit_alarm": "1\n", "temp1_input": "garbage\n", "temp2_input": ""}
    found = read(HwmonCollector, {base + name: text for name, text in files.items()})
    assert found == {
        ("node_hwmon_chip_names", "rpi_volt", "rpi_volt"): 1.0,
        ("node_hwmon_in_lcrit_alarm_volts", "rpi_volt", "in0"): 0.001,
    }
    assert len(skipped) == 1


def test_a_hwmon_chip_is_named_after_its_device(tree, read) -> None:
    paths = tree({"sys/devices/platform/coretemp.0/temp1_input": "1000", "sys/class/hwmon/hwmon3/name": "coretemp"})
    Path(f"{paths.sysfs}/class/hwmon/hwmon3/device").symlink_to("../../../devices/platform/coretemp.0")
    assert ("node_hwmon_temp_celsius", "platform_coretemp_0", "temp1") in read(HwmonCollector, {})


def test_diskstats_leaves_partitions_of_scsi_disks_out_by_default(read) -> None:
    line = " 1 0 2 3 4 0 0 0 0 5 6\n"
    found = read(DiskstatsCollector, {"proc/diskstats": f"8 0 sda{line}8 1 sda1{line}179 1 mmcblk0p1{line}"})
    assert {key[1] for key in found} == {"sda", "mmcblk0p1"}
    assert found["node_disk_read_bytes_total", "sda"] == 1024.0
    assert found["node_disk_io_time_seconds_total", "sda"] == 0.005


def test_a_short_line_of_diskstats_costs_its_device_only(read, skipped) -> None:
    found = read(
        DiskstatsCollector, {"proc/diskstats": "8 0 sda 1 2\n8 16 sdb 1 0 2 3 4 0 0 0 0 5 6 7 8 9 10 11 12 99\n"}
    )
    assert {key[1] for key in found} == {"sdb"}
    assert len(skipped) == 1


NET = "Inter-|\n face |\n  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\nbad: 1 2\n"


def test_net_dev_columns_become_counters(read, skipped) -> None:
    found = read(NetdevCollector, {"proc/net/dev": NET})
    assert found["node_network_receive_multicast_total", "eth0"] == 8.0
    assert found["node_network_transmit_colls_total", "eth0"] == 14.0
    assert skipped == ["/proc/net/dev bad"]


def test_netlink_and_proc_count_alike_what_was_dropped() -> None:
    stats = tuple(range(len(STATS64)))
    columns = legacy_names(stats)
    assert columns["receive_drop"] == STATS64.index("rx_dropped") + STATS64.index("rx_missed_errors")
    assert columns["receive_nohandler"] == STATS64.index("rx_nohandler")


def test_an_older_kernels_shorter_statistics_give_fewer_columns() -> None:
    assert "receive_nohandler" not in legacy_names(tuple(range(23)))


def test_this_machines_loopback_is_found_by_netlink(skipped) -> None:
    readings = NetdevCollector(Paths(), NetdevOptions(address_info=True), FakeClock()).collect(skipped)
    assert ("node_network_receive_bytes_total", ("lo",)) in {(d.name, v) for d, v, _ in readings}
    assert any(v[:2] == ("lo", "127.0.0.1") for d, v, _ in readings if d.name == "node_network_address_info")
    assert not skipped


@pytest.mark.parametrize("data", [b"\0" * 16, b"\xff" * 40, b"\x20\0\0\0\x10\0" + b"\0" * 10])
def test_netlink_garbage_is_refused(data: bytes) -> None:
    with pytest.raises((FormatError, OSError)):
        list(messages(data))
    with pytest.raises(FormatError):
        attributes(b"\xff\xff\x01\x00")


def test_include_and_exclude_together_are_refused(tree) -> None:
    options = NetdevOptions(device_include="a", device_exclude="b")
    with pytest.raises(ConfigError, match=r"netdev.device-exclude and --collector.netdev.device-include"):
        NetdevCollector(tree({}), options, FakeClock())


MOUNTINFO = (
    "29 1 259:2 / / rw,relatime shared:1 - ext4 /dev/mmcblk0p2 ro,errors=remount-ro\n"
    "30 29 0:22 / /sys rw - sysfs sysfs rw\n"
    "31 29 8:1 / /mnt\\040a rw,relatime - nfs4 nas:/a rw\n"
    "broken line\n"
)


def test_mountinfo_is_read_with_escapes_and_read_only_super_blocks(skipped) -> None:
    mounts = parse_mountinfo(MOUNTINFO, skipped)
    assert [(m.mountpoint, m.readonly) for m in mounts] == [("/", True), ("/sys", False), ("/mnt a", False)]
    assert len(skipped) == 1


def test_a_file_system_that_fails_says_why(read) -> None:
    found = read(FilesystemCollector, {"proc/1/mountinfo": MOUNTINFO})
    reason = "no such file or directory"
    assert found["node_filesystem_device_error", "nas:/a", "/mnt a", "nfs4", reason] == 1.0
    assert found["node_filesystem_device_error", "/dev/mmcblk0p2", "/", "ext4", ""] == 0.0
    assert found["node_filesystem_readonly", "/dev/mmcblk0p2", "/", "ext4", ""] == 1.0
    assert not any(key[2] == "/sys" for key in found)


def test_a_network_mount_that_hangs_is_reported_and_the_others_are_measured(tree, skipped) -> None:
    release = threading.Event()
    collector = FilesystemCollector(
        tree({"proc/1/mountinfo": MOUNTINFO}), FilesystemOptions(mount_timeout="1ms"), FakeClock()
    )

    def statvfs(path: str) -> os.statvfs_result:
        if "mnt" in path:
            release.wait()
        return os.statvfs("/")

    collector.statvfs = statvfs
    for _ in range(2):
        found = {(d.name, *v): x for d, v, x in collector.collect(skipped)}
        assert found["node_filesystem_device_error", "nas:/a", "/mnt a", "nfs4", "mountpoint timeout"] == 1.0
        assert found["node_filesystem_size_bytes", "/dev/mmcblk0p2", "/", "ext4", ""] > 0
    assert len([t for t in threading.enumerate() if t.name.startswith("statfs")]) == 1
    release.set()


def test_uname_of_a_captured_tree_is_the_trees(read) -> None:
    (key,) = read(UnameCollector, {"proc/sys/kernel/osrelease": "6.6.51+rpt\n", "proc/sys/kernel/hostname": "pi\n"})
    assert (key[2], key[5]) == ("6.6.51+rpt", "pi")


def test_time_is_the_clocks(read) -> None:
    assert read(TimeCollector, {})["node_time_seconds",] == 1_700_000_000.0


def wait_for(collect, wanted: str) -> dict[tuple[str, ...], float]:
    """Collect until a metric of that name is there; the first round in the background may take a moment."""
    for _ in range(12_000):
        found = {(d.name, *v): x for d, v, x in collect()}
        if any(key[0] == wanted for key in found):
            return found
        threading.Event().wait(0.005)
    raise AssertionError(f"{wanted} did not come")


def test_a_slow_hwmon_chip_is_read_in_the_background_and_says_when(tree, skipped) -> None:
    base = "sys/class/hwmon/"
    paths = tree(
        {
            base + "hwmon0/name": "w1_slave_temp\n",
            base + "hwmon0/temp1_input": "21437\n",
            base + "hwmon1/name": "fast\n",
            base + "hwmon1/temp1_input": "5000\n",
        }
    )
    collector = HwmonCollector(paths, HwmonCollector.options_type(), FakeClock())
    first = {(d.name, *v): x for d, v, x in collector.collect(skipped)}
    assert first["node_hwmon_temp_celsius", "fast", "temp1"] == 5.0
    assert ("node_hwmon_temp_celsius", "w1_slave_temp", "temp1") not in first
    found = wait_for(lambda: collector.collect(skipped), "rpi_hwmon_read_timestamp_seconds")
    assert found["node_hwmon_temp_celsius", "w1_slave_temp", "temp1"] == 21.437
    assert found["rpi_hwmon_read_timestamp_seconds", "w1_slave_temp"] == 1_700_000_000.0
    collector.close()
    assert not skipped
