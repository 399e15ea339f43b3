"""What only the Raspberry Pi's firmware knows: voltages, real clocks, PMIC rails, memory split, its version.

Asked in the background by the mailbox, or by vcgencmd where that is all there is (one process a question).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from common.errors import ConfigError, FormatError
from common.units import parse_duration, parse_size
from edge.collectors.background import BackgroundCollector
from edge.collectors.base import COUNTER, GAUGE, Desc, NoDataError, Reading, Skip, flag
from edge.collectors.devicetree import is_raspberry_pi, read_cell
from edge.collectors.files import integer
from edge.collectors.rpi_board import RESET_CAUSE, RESET_STATUS, reset_readings
from edge.collectors.rpi_mailbox import DEVICES, Firmware, FirmwareError, Mailbox, Vcgencmd, open_firmware, parse_hex

TEMPERATURE = Desc(
    "rpi_temperature_celsius", GAUGE, "Temperature by the firmware: of the SoC, and of the PMIC (Pi 4).", ("sensor",)
)
VOLTAGE = Desc(
    "rpi_voltage_volts", GAUGE, "Voltage by the firmware; on Pi 5 what was asked for, not what is there.", ("rail",)
)
CLOCK = Desc("rpi_clock_hertz", GAUGE, "Frequency of a clock as the firmware measures it.", ("clock",))
RAIL_VOLTAGE = Desc("rpi_pmic_voltage_volts", GAUGE, "Voltage of a rail by the PMIC's converter (Pi 5).", ("rail",))
RAIL_CURRENT = Desc("rpi_pmic_current_amperes", GAUGE, "Current of a rail by the PMIC's converter (Pi 5).", ("rail",))
POWER = Desc(
    "rpi_pmic_power_watts",
    GAUGE,
    "Sum of voltage times current of the PMIC's rails: without USB devices and conversion loss (Pi 5).",
)
SPLIT = Desc(
    "rpi_memory_split_bytes",
    GAUGE,
    "Memory given to the GPU and to the ARM cores (of the first GB), and in total.",
    ("part",),
)
OOM = Desc("rpi_gpu_oom_events_total", COUNTER, "How often the GPU ran out of memory (up to Pi 4).")
ALLOC_FAILURES = Desc(
    "rpi_gpu_alloc_failures_total", COUNTER, "Allocations of relocatable GPU memory that failed (up to Pi 4)."
)
INFO = Desc("rpi_firmware_info", GAUGE, "Version of the VideoCore firmware.", ("version", "date", "variant"))
READ = Desc(
    "rpi_firmware_read_timestamp_seconds", GAUGE, "When the firmware was last asked for what rpi_firmware shows."
)

CLOCKS = ("arm", "core", "v3d", "h264", "hevc", "isp", "emmc", "emmc2", "uart", "pwm", "pixel", "hdmi", "vec", "dpi")
RAILS = ("core", "sdram_c", "sdram_i", "sdram_p")
MAX_LINES = 64

_RAIL_LINE = re.compile(r"\s*(\S+)_([AV]) (?:current|volt)\(\d+\)=(\S+)[AV]\s*\Z")
_DATES = ("%b %d %Y %H:%M:%S", "%Y/%m/%d %H:%M:%S")


@dataclass(frozen=True, slots=True)
class RpiFirmwareOptions:
    """Flags of the rpi_firmware collector."""

    vcgencmd: str = flag(
        "collector.rpi_firmware.vcgencmd",
        "vcgencmd",
        "Program to ask the firmware with where /dev/vcio cannot be opened; empty: never start one.",
    )
    interval: str = flag("collector.rpi_firmware.interval", "15s", "How often the firmware is asked.")


def parse_value(answer: str, unit: str) -> float:
    """The number after the last `=`, without its unit (`volt=0.8600V`, `temp=47.8'C`)."""
    text = answer.strip().rpartition("=")[2].removesuffix(unit)
    try:
        return float(text)
    except ValueError:
        raise FormatError(f"expected a number with the unit {unit!r}, got {answer[:40]!r}") from None


def parse_pmic(answer: str, skip: Skip) -> list[Reading]:
    """Readings of all rails and their power; a line that makes no sense costs its rail."""
    volts: dict[str, float] = {}
    amperes: dict[str, float] = {}
    for line in answer.split("\n")[:MAX_LINES]:
        if not line.strip():
            continue
        match = _RAIL_LINE.match(line)
        try:
            if match is None:
                raise ValueError(f"not a rail: {line[:60]!r}")
            value = float(match[3])
            if value - value != 0:
                raise ValueError(f"not finite: {line[:60]!r}")
        except ValueError as err:
            skip("pmic_read_adc", err)
            continue
        (volts if match[2] == "V" else amperes)[match[1]] = value
    readings: list[Reading] = [(RAIL_VOLTAGE, (rail,), value) for rail, value in volts.items()]
    readings += [(RAIL_CURRENT, (rail,), value) for rail, value in amperes.items()]
    powered = [volts[rail] * amperes[rail] for rail in volts.keys() & amperes.keys()]
    if powered:
        readings.append((POWER, (), sum(sorted(powered))))
    return readings


def parse_version(answer: str) -> tuple[str, str, str]:
    """(version, ISO date, variant) of the three lines of `version`; FormatError if there is no version."""
    lines = [line.strip() for line in answer.strip().split("\n")]
    words = next((line.split() for line in lines if line.startswith("version ")), [])
    if len(words) < 2:
        raise FormatError(f"expected a line `version ...`, got {answer[:60]!r}")
    date = lines[0]
    for pattern in _DATES:
        try:
            date = datetime.strptime(lines[0], pattern).replace(tzinfo=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        except ValueError:
            continue
        break
    return words[1], date, " ".join(word.strip("()") for word in words[2:])


def parse_count(answer: str, label: str) -> float:
    """The number of a line `label: 3`."""
    for line in answer.split("\n"):
        name, colon, value = line.partition(":")
        if colon and name.strip() == label:
            return float(integer(value))
    raise FormatError(f"expected a line `{label}: N`, got {answer[:60]!r}")


Parse = Callable[[str], list[Reading]]


def _one(desc: Desc, labels: tuple[str, ...], number: Callable[[str], float]) -> Parse:
    return lambda answer: [(desc, labels, number(answer))]


def _with_unit(unit: str) -> Callable[[str], float]:
    return lambda answer: parse_value(answer, unit)


def _memory(answer: str) -> float:
    return float(parse_size(answer.strip().rpartition("=")[2] + "B"))


QUESTIONS: tuple[tuple[str, Parse], ...] = (
    ("measure_temp", _one(TEMPERATURE, ("soc",), _with_unit("'C"))),
    ("measure_temp pmic", _one(TEMPERATURE, ("pmic",), _with_unit("'C"))),
    *((f"measure_volts {rail}", _one(VOLTAGE, (rail,), _with_unit("V"))) for rail in RAILS),
    *((f"measure_clock {clock}", _one(CLOCK, (clock,), _with_unit(""))) for clock in CLOCKS),
    ("get_mem gpu", _one(SPLIT, ("gpu",), _memory)),
    ("get_mem arm", _one(SPLIT, ("arm",), _memory)),
    ("get_config total_mem", _one(SPLIT, ("total",), lambda answer: parse_value(answer, "") * (1 << 20))),
    ("mem_oom", _one(OOM, (), lambda answer: parse_count(answer, "oom events"))),
    ("mem_reloc_stats", _one(ALLOC_FAILURES, (), lambda answer: parse_count(answer, "alloc failures"))),
    ("version", lambda answer: [(INFO, parse_version(answer), 1.0)]),
)
"""Commands of vcgencmd and what their answers become."""


class RpiFirmwareCollector(BackgroundCollector):
    """rpi_temperature_celsius, rpi_voltage_volts, rpi_clock_hertz, rpi_pmic_*, rpi_firmware_info"""

    name = "rpi_firmware"
    silent_without_data = True
    options_type = RpiFirmwareOptions
    descs = (
        *(TEMPERATURE, VOLTAGE, CLOCK, RAIL_VOLTAGE, RAIL_CURRENT, POWER, SPLIT, OOM, ALLOC_FAILURES, INFO, READ),
        *(RESET_STATUS, RESET_CAUSE),
    )
    options: RpiFirmwareOptions

    def _prepare(self) -> None:
        try:
            self.interval = max(1.0, parse_duration(self.options.interval) / 1000.0)
        except ValueError as err:
            raise ConfigError(f"--collector.rpi_firmware.interval: {err}") from None
        self.firmware: Firmware | None = None
        self._opened: Mailbox | Vcgencmd | None = None
        self._unknown: set[str] = set()
        if is_raspberry_pi(self.paths):
            self.firmware = self._opened = open_firmware(self.paths.live, DEVICES, self.options.vcgencmd)

    def start(self) -> None:
        if self.firmware is not None:
            super().start()

    def close(self) -> None:
        super().close()
        if self._opened is not None:
            self._opened.close()

    def collect(self, skip: Skip) -> list[Reading]:
        if self.firmware is None:
            raise NoDataError("no Raspberry Pi, or neither /dev/vcio nor vcgencmd can be used")
        return super().collect(skip)

    def read(self, skip: Skip) -> list[Reading]:
        readings: list[Reading] = []
        for command, parse in QUESTIONS:
            self._ask(command, skip, readings, parse)
        self._ask("pmic_read_adc", skip, readings, lambda answer: parse_pmic(answer, skip))
        if read_cell(self.paths, "chosen/bootloader/rsts") is None:
            self._ask("get_rsts", skip, readings, lambda answer: reset_readings(parse_hex(answer)))
        if not readings:
            raise NoDataError("the firmware answers no question")
        readings.append((READ, (), self.clock.now() / 1000.0))
        return readings

    def _ask(self, command: str, skip: Skip, into: list[Reading], parse: Parse) -> None:
        """Add what `parse` makes of the answer; a command that this model does not know is asked once only."""
        if self.firmware is None or command in self._unknown:
            return
        try:
            into += parse(self.firmware.command(command))
        except FirmwareError as err:
            if "not registered" in str(err) or "invalid arguments" in str(err):
                self._unknown.add(command)
            else:
                skip(command, err)
        except (OSError, ValueError) as err:
            skip(command, err)
