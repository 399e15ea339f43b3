"""Awkward Raspberry Pis: other values, missing files, garbage cost only the series that they touch."""

import errno
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.clock import SystemClock
from common.errors import ConfigError, FormatError
from common.testing import FakeClock
from edge.collectors.background import BackgroundCollector
from edge.collectors.base import Desc, NoDataError, NoOptions, Paths, Reading, Skip
from edge.collectors.rpi_board import RpiBoardCollector, decode_revision, root_is_overlay, shown_serial
from edge.collectors.rpi_firmware import RpiFirmwareCollector, RpiFirmwareOptions, parse_pmic, parse_version
from edge.collectors.rpi_humidity import RpiHumidityCollector
from edge.collectors.rpi_iio import RpiIioCollector, find_channels
from edge.collectors.rpi_kernel_log import RpiKernelLogCollector, RpiKernelLogOptions
from edge.collectors.rpi_mailbox import FirmwareError, Mailbox, Vcgencmd, checked, parse_hex
from edge.collectors.rpi_rtc import RpiRtcCollector
from edge.collectors.rpi_storage import RpiStorageCollector, parse_life
from edge.collectors.rpi_throttle import RpiThrottleCollector, RpiThrottleOptions, Watch
from edge.collectors.rpi_w1 import RpiW1Collector, parse_temperature, plausible
from edge.collectors.rpi_wireless import RpiWirelessCollector
from edge.collectors.runner import Outcome, Runner

TREE = "sys/firmware/devicetree/base/"
PI = {TREE + "model": b"Raspberry Pi 5 Model B Rev 1.0\0", TREE + "system/linux,revision": bytes.fromhex("00d04170")}


@pytest.mark.parametrize(
    ("code", "board", "maker", "processor", "memory"),
    [
        (0xD04170, "5", "Sony UK", "BCM2712", 8 << 30),
        (0x902120, "Zero 2 W", "Sony UK", "BCM2837", 512 << 20),
        (0xB03140, "CM4", "Sony UK", "BCM2711", 2 << 30),
        (0x2A020D3, "3B+", "Sony UK", "BCM2837", 1 << 30),
        (0x000E, "B", "Sony UK", "BCM2835", 512 << 20),
        (0xFFFFFFFF, "0xff", "0xf", "0xf", 0),
        (0x0001, "", "", "", 0),
    ],
)
def test_revision_codes_are_decoded_field_by_field(
    code: int, board: str, maker: str, processor: str, memory: int
) -> None:
    revision = decode_revision(code)
    assert (revision.type, revision.manufacturer, revision.processor, revision.memory) == (
        board,
        maker,
        processor,
        memory,
    )


def test_a_board_without_bootloader_or_supply_has_neither_series(read) -> None:
    found = read(RpiBoardCollector, {**PI, "proc/mounts": "/dev/x / ext4 rw 0 0\n"})
    assert {key[0] for key in found} == {"rpi_board_info", "rpi_board_memory_bytes", "rpi_root_overlay"}


def test_short_device_tree_cells_cost_their_series_only(read) -> None:
    found = read(RpiBoardCollector, {**PI, TREE + "chosen/power/max_current": b"\0\1", TREE + "serial-number": b""})
    assert ("rpi_board_memory_bytes",) in found
    assert not any(key[0] == "rpi_power_supply_max_current_amperes" for key in found)


def test_the_serial_number_can_be_hashed_or_left_out(read) -> None:
    files = {**PI, TREE + "serial-number": b"10000000c0ffee04\0"}
    serials = [
        next(k[3] for k in read(RpiBoardCollector, files, serial=how) if k[0] == "rpi_board_info")
        for how in ("raw", "hash", "none")
    ]
    assert serials == ["10000000c0ffee04", shown_serial("10000000c0ffee04", "hash"), ""]
    assert len(serials[1]) == 12
    with pytest.raises(ConfigError, match="raw, hash or none"):
        read(RpiBoardCollector, files, serial="maybe")


def test_another_computer_is_no_raspberry_pi(read) -> None:
    with pytest.raises(NoDataError):
        read(RpiBoardCollector, {TREE + "model": b"Pine64\0"})


@pytest.mark.parametrize(
    ("mounts", "overlay"),
    [
        ("rootfs / rootfs rw\noverlayroot / overlay rw", True),
        ("/dev/x / ext4 rw", False),
        ("tmpfs /run tmpfs rw", None),
    ],
)
def test_the_root_is_judged_by_its_last_mount(mounts: str, overlay: bool | None) -> None:
    assert root_is_overlay(mounts) is overlay


def test_a_dip_between_two_looks_is_counted_by_its_since_boot_bit() -> None:
    watch = Watch().look(0).look(0x10000)
    assert watch.occurrences == (1, 0, 0, 0)


def test_a_condition_that_lasts_counts_once_and_again_when_it_returns() -> None:
    watch = Watch().look(0)
    for bits in (0x10001, 0x10001, 0x10000, 0x10001):
        watch = watch.look(bits)
    assert watch.occurrences == (2, 0, 0, 0)


def test_what_began_before_the_agent_is_not_counted() -> None:
    assert Watch().look(0x50005).occurrences == (0, 0, 0, 0)


VOLT = "sys/class/hwmon/hwmon3/"


def throttle(paths: Paths) -> RpiThrottleCollector:
    return RpiThrottleCollector(paths, RpiThrottleOptions(vcgencmd=""), FakeClock())


def test_alarms_are_counted_when_they_are_raised(tree, skipped) -> None:
    paths = tree({**PI, VOLT + "name": "rpi_volt\n", VOLT + "in0_lcrit_alarm": "0\n"})
    collector = throttle(paths)
    for alarm in ("0", "1", "1", "0", "1"):
        tree({VOLT + "in0_lcrit_alarm": alarm + "\n"})
        readings = collector.read(skipped)
    assert {desc.name: value for desc, _, value in readings} == {
        "rpi_under_voltage_alarm": 1.0,
        "rpi_under_voltage_occurrences_total": 2.0,
    }
    collector.close()


def test_garbage_in_get_throttled_leaves_the_alarm(tree, skipped) -> None:
    paths = tree(
        {
            **PI,
            VOLT + "name": "rpi_volt\n",
            VOLT + "in0_lcrit_alarm": "1\n",
            "sys/devices/platform/soc/soc:firmware/get_throttled": "zzz\n",
        }
    )
    collector = throttle(paths)
    assert {desc.name for desc, _, _ in collector.read(skipped)} == {
        "rpi_under_voltage_alarm",
        "rpi_under_voltage_occurrences_total",
    }
    assert any("get_throttled" in what for what in skipped)
    collector.close()


def test_throttled_bits_come_from_either_firmware_node(tree, skipped) -> None:
    paths = tree({**PI, "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled": "e0008\n"})
    collector = throttle(paths)
    found = {(d.name, *v): x for d, v, x in collector.read(skipped)}
    assert found["rpi_throttled", "soft_temperature_limit", "now"] == 1.0
    assert found["rpi_throttled", "under_voltage", "since_boot"] == 0.0
    assert found["rpi_throttled_raw",] == 0xE0008
    collector.close()


class FakeFirmware:
    """Answers from a dict; counts what it was asked."""

    cheap = True

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def command(self, text: str) -> str:
        self.asked.append(text)
        if text not in self.answers:
            raise FirmwareError('error=1 error_msg="Command not registered"')
        return checked(text, self.answers[text])

    def throttled(self) -> int:
        return 0


def firmware(paths: Paths, answers: dict[str, str]) -> tuple[RpiFirmwareCollector, FakeFirmware]:
    collector = RpiFirmwareCollector(paths, RpiFirmwareOptions(vcgencmd=""), FakeClock())
    fake = FakeFirmware(answers)
    collector.firmware = fake
    return collector, fake


def test_one_bad_answer_of_the_firmware_costs_its_own_series(tree, skipped) -> None:
    collector, _ = firmware(
        tree(PI),
        {"measure_temp": "temp=47.8'C", "measure_volts core": "rubbish", "measure_clock arm": "frequency(0)=5"},
    )
    found = {(d.name, *v): x for d, v, x in collector.read(skipped)}
    assert found["rpi_temperature_celsius", "soc"] == 47.8
    assert found["rpi_clock_hertz", "arm"] == 5.0
    assert skipped == ["measure_volts core"]


def test_a_command_that_the_model_does_not_know_is_asked_once(tree, skipped) -> None:
    collector, fake = firmware(tree(PI), {"measure_temp": "temp=1'C"})
    collector.read(skipped)
    collector.read(skipped)
    assert fake.asked.count("pmic_read_adc") == 1
    assert fake.asked.count("measure_temp") == 2
    assert not skipped


def test_the_reset_register_is_asked_for_only_where_the_device_tree_lacks_it(tree, skipped) -> None:
    collector, _ = firmware(tree(PI), {"get_rsts": "get_rsts=1020"})
    found = {(d.name, *v): x for d, v, x in collector.read(skipped)}
    assert (found["rpi_reset_status",], found["rpi_reset_cause", "watchdog"]) == (0x1020, 1.0)
    tree({TREE + "chosen/bootloader/rsts": bytes.fromhex("00001000")})
    with pytest.raises(NoDataError):
        collector.read(skipped)


def test_board_power_is_the_sum_over_rails_that_have_both(skipped) -> None:
    found = {
        (d.name, *v): x
        for d, v, x in parse_pmic(" A_A current(0)=2.0A\n A_V volt(1)=3.0V\n B_V volt(2)=5V\nx\n", skipped)
    }
    assert found["rpi_pmic_power_watts",] == 6.0
    assert len(skipped) == 1


@pytest.mark.parametrize("date", ["Aug 30 2024 19:17:39", "2024/08/30 19:17:39"])
def test_both_ways_to_write_the_firmwares_date_are_one(date: str) -> None:
    assert parse_version(f"{date} \nCopyright\nversion abc (clean) (release)\n") == (
        "abc",
        "2024-08-30T19:17:39Z",
        "clean release",
    )


@pytest.mark.parametrize(
    ("text", "bits"), [("throttled=0x50005", 0x50005), ("50005\n", 0x50005), ("get_rsts=1020", 0x1020)]
)
def test_hexadecimal_with_and_without_prefix(text: str, bits: int) -> None:
    assert parse_hex(text) == bits


def test_vcgencmd_that_refuses_is_a_firmware_error(tmp_path: Path) -> None:
    program = tmp_path / "vcgencmd"
    program.write_text("#!/bin/sh\necho 'VCHI initialization failed'\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(FirmwareError, match="VCHI"):
        Vcgencmd(str(program)).command("measure_temp")


def test_vcgencmd_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*args: object, **kwargs: object) -> None:
        raise subprocess.TimeoutExpired("vcgencmd", 5)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(TimeoutError):
        Vcgencmd("vcgencmd").command("measure_temp")


def test_the_mailbox_sends_a_property_message_and_reads_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []

    def ioctl(fd: int, request: int, buffer: bytearray, mutate: bool) -> int:
        sent.append(bytes(buffer))
        buffer[4:8] = (0x80000000).to_bytes(4, "little")
        buffer[20:24] = (0x50005).to_bytes(4, "little")
        return 0

    monkeypatch.setattr("edge.collectors.rpi_mailbox.fcntl.ioctl", ioctl)
    device = tmp_path / "vcio"
    device.touch()
    mailbox = Mailbox(str(device))
    assert mailbox.throttled() == 0x50005
    mailbox.close()
    mailbox.close()
    words = [int.from_bytes(sent[0][at : at + 4], "little") for at in range(0, len(sent[0]), 4)]
    assert words == [28, 0, 0x00030046, 4, 0, 0xFFFF, 0]


@pytest.mark.parametrize(
    ("text", "celsius"),
    [
        ("21437\n", 21.437),
        ("-1250", -1.25),
        ("57 01 4b 46 7f ff 0c 10 xx : crc=0b YES\n57 01 4b 46 7f ff 0c 10 xx t=21437\n", 21.437),
        ("125000", 125.0),
    ],
)
def test_thermometers_give_milli_degrees(text: str, celsius: float) -> None:
    assert parse_temperature(text) == celsius


@pytest.mark.parametrize("text", ["", "\n", "127937", "-55001", "57 : crc=0b NO\n57 t=21437", "crc=0b YES\n", "abc"])
def test_what_is_no_temperature_is_no_reading(text: str) -> None:
    with pytest.raises(FormatError):
        parse_temperature(text.strip())


def test_85_degrees_are_believed_only_beside_a_reading_like_them() -> None:
    assert not plausible(85.0, None)
    assert not plausible(85.0, 21.0)
    assert plausible(85.0, 83.5)


W1 = "sys/bus/w1/devices/"


def test_a_dead_thermometer_costs_its_own_series(read_once, skipped) -> None:
    found = read_once(
        RpiW1Collector,
        {W1 + "28-00000a1b2c3d/temperature": "-1250\n", W1 + "28-00000a1b2c3e/temperature": "", W1 + "00-xx/id": ""},
    )
    assert found["rpi_w1_temperature_celsius", "28-00000a1b2c3d"] == -1.25
    assert found["rpi_w1_read_timestamp_seconds", "28-00000a1b2c3d"] == 1_700_000_000.0
    assert len(skipped) == 1


IIO = "sys/bus/iio/devices/iio:device0/"


def test_iio_units_become_base_units(read_once) -> None:
    found = read_once(
        RpiIioCollector,
        {
            IIO + "name": "adc\n",
            IIO + "in_voltage0_raw": "100\n",
            IIO + "in_voltage_scale": "2.0\n",
            IIO + "in_voltage_offset": "-10\n",
            IIO + "in_current1-current2_raw": "500\n",
            IIO + "in_accel_x_raw": "10\n",
            IIO + "in_accel_scale": "0.5\n",
            IIO + "in_unheardof_input": "7\n",
            IIO + "in_temp_input": "garbage\n",
        },
    )
    assert found["rpi_iio_voltage_volts", "iio:device0", "adc", "0"] == 0.18
    assert found["rpi_iio_current_amperes", "iio:device0", "adc", "1-current2"] == 0.5
    assert found["rpi_iio_acceleration_meters_per_square_second", "iio:device0", "adc", "x"] == 5.0
    assert found["rpi_iio_unheardof", "iio:device0", "adc", ""] == 7.0
    assert not any(key[0] == "rpi_iio_temperature_celsius" for key in found)


@pytest.mark.parametrize(("humidity", "pressure"), [("46123", "100.834"), ("46.123", "1008.34")])
def test_drivers_that_differ_in_units_give_the_same(read_once, humidity: str, pressure: str) -> None:
    found = read_once(
        RpiIioCollector, {IIO + "in_humidityrelative_input": humidity, IIO + "in_pressure_input": pressure}
    )
    assert found["rpi_iio_humidity_ratio", "iio:device0", "", ""] == pytest.approx(0.46123)
    assert found["rpi_iio_pressure_pascals", "iio:device0", "", ""] == pytest.approx(100834)


def test_a_processed_channel_wins_over_its_raw_twin() -> None:
    (channel,) = find_channels(["in_temp_raw", "in_temp_input", "in_temp_scale"])
    assert channel.file == "in_temp_input"


def test_a_dht11_that_is_busy_is_asked_again(tree, skipped, monkeypatch: pytest.MonkeyPatch) -> None:
    collector = RpiIioCollector(tree({IIO + "in_temp_input": "22000"}), RpiIioCollector.options_type(), FakeClock())
    answers: Iterator[str | OSError] = iter([OSError(errno.ETIMEDOUT, "timed out"), "22000"])

    def read_attr(path: str) -> str:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr("edge.collectors.rpi_iio.read_attr", read_attr)
    monkeypatch.setattr("edge.collectors.rpi_iio.RETRY_SECONDS", 0)
    assert collector.read(skipped)[0][2] == 22.0


def test_an_emmc_tells_its_wear_and_a_card_does_not(read, skipped) -> None:
    base = "sys/block/mmcblk0/device/"
    found = read(
        RpiStorageCollector, {base + "name": "X\n", base + "life_time": "0x0b 00\n", base + "pre_eol_info": "02\n"}
    )
    assert found["rpi_mmc_life_used_ratio", "mmcblk0", "a"] == 1.1
    assert ("rpi_mmc_life_used_ratio", "mmcblk0", "b") not in found
    assert found["rpi_mmc_pre_eol", "mmcblk0"] == 2.0
    found = read(RpiStorageCollector, {base + "life_time": "0xff\n"})
    assert {key[0] for key in found} == {"rpi_mmc_info", "rpi_mmc_pre_eol"}


@pytest.mark.parametrize("text", ["", "1", "0x0c 0x01", "a b c", "0x01 0x01 0x01", "-1 1"])
def test_wear_that_makes_no_sense_is_none(text: str) -> None:
    with pytest.raises(FormatError):
        parse_life(text)


HEAD = "Inter-|\n face |\n"


@pytest.mark.parametrize(
    ("line", "dbm"),
    [("wlan0: 0000 59. -51. -256 0", -51.0), ("wlan0: 0000 59 205 161 0", -51.0), ("wlan0: 0000 30 -80 0", -80.0)],
)
def test_signals_are_negative_dbm_whatever_the_driver_writes(read, line: str, dbm: float) -> None:
    assert read(RpiWirelessCollector, {"proc/net/wireless": HEAD + line + "\n"})["rpi_wifi_signal_dbm", "wlan0"] == dbm


@pytest.mark.parametrize(
    "line", ["wlan0: 0000 0. -256. -256", "wlan0: 0000 10. -256. -256", "wlan0: x y z", "wlan0:", ""]
)
def test_an_interface_that_is_not_associated_has_no_signal(read, line: str) -> None:
    with pytest.raises(NoDataError):
        read(RpiWirelessCollector, {"proc/net/wireless": HEAD + line + "\n"})


def test_the_hardware_clocks_offset_is_to_the_systems(read) -> None:
    base = "sys/class/rtc/rtc0/"
    found = read(RpiRtcCollector, {base + "since_epoch": "1699999990\n", base + "charging_voltage": "0\n"})
    assert found == {("rpi_rtc_charging_volts", "rtc0"): 0.0, ("rpi_rtc_time_offset_seconds", "rtc0"): -10.0}


def test_humidity_is_a_ratio(read) -> None:
    base = "sys/class/hwmon/hwmon4/"
    found = read(RpiHumidityCollector, {base + "name": "sht3x\n", base + "humidity1_input": "41230\n"})
    assert found == {("rpi_humidity_ratio", "sht3x", "hwmon4", "humidity1"): 0.4123}


def test_the_kernel_log_is_followed_line_by_line(tmp_path: Path, skipped) -> None:
    log = tmp_path / "kmsg"
    log.write_bytes(b"<2>[1] hwmon hwmon1: Undervoltage detected!\n<2>[2] Under-voltage det")
    collector = RpiKernelLogCollector(Paths(), RpiKernelLogOptions(str(log)), FakeClock())
    assert [value for _, _, value in collector.collect(skipped)] == [1.0, 0.0]
    with log.open("ab") as file:
        file.write(b"ected! (0x00050005)\n<3>[3] mmc0: error -110 whilst initialising SD card\n\xff\xfe\n")
    assert [value for _, _, value in collector.collect(skipped)] == [2.0, 1.0]
    assert [value for _, _, value in collector.collect(skipped)] == [2.0, 1.0]
    collector.close()


SLOW = Desc("slow", RpiW1Collector.descs[0].type, "")


class Slow(BackgroundCollector):
    name = "slow"
    interval = 3600.0

    def __init__(self, gate: threading.Event) -> None:
        self.gate = gate
        super().__init__(Paths(), NoOptions(), SystemClock())

    def read(self, skip: Skip) -> list[Reading]:
        self.gate.wait()
        skip("x", OSError("bad"))
        return [(SLOW, (), 7.0)]


def test_a_slow_source_never_delays_a_scrape_and_comes_as_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.collectors.background.FIRST_WAIT_SECONDS", 0.01)
    gate = threading.Event()
    slow = Slow(gate)
    runner = Runner([slow], SystemClock(), deadline=60.0)
    assert runner.collect()[0].outcome is Outcome.NO_DATA
    gate.set()
    assert slow._first.wait(60)
    result = runner.collect()[0]
    assert [value for _, _, value in result.samples] == [7.0]
    (background,) = runner.background()
    latest = background.latest()
    assert latest is not None
    assert (latest.number, [value for _, _, value in latest.readings]) == (1, [7.0])
    runner.close()


def test_an_old_round_is_shown_no_more(skipped) -> None:
    clock = FakeClock()
    gate = threading.Event()
    gate.set()
    slow = Slow(gate)
    slow.clock = clock
    slow.interval = 10.0
    slow.round()
    slow._asked, slow._thread = True, threading.current_thread()
    assert slow.collect(skipped)
    clock._move(clock.monotonic() + 31)
    with pytest.raises(NoDataError, match="too old"):
        slow.collect(skipped)
    slow._thread = None


def test_reading_as_a_user_without_rights_costs_the_file_only(read, skipped, monkeypatch: pytest.MonkeyPatch) -> None:
    base = "sys/block/mmcblk0/device/"
    original = os.open

    def deny(path: str, flags: int, *rest: int) -> int:
        if path.endswith("serial"):
            raise PermissionError(errno.EACCES, "denied", path)
        return original(path, flags, *rest)

    monkeypatch.setattr(os, "open", deny)
    found = read(RpiStorageCollector, {base + "name": "X\n", base + "serial": "1\n"})
    assert found == {("rpi_mmc_info", "mmcblk0", "X", "", "", "", "", ""): 1.0}
    assert len(skipped) == 1
