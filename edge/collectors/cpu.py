"""CPU time, throttling, isolation and, if asked for, /proc/cpuinfo (proc_stat(5), sysfs-devices-system-cpu)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from common.errors import FormatError
from edge.collectors.base import COUNTER, GAUGE, Collector, Desc, Reading, Skip, compile_go, flag
from edge.collectors.files import integer, list_dir, read_attr, read_int, read_text

USER_HZ = 100.0
"""Ticks a second in /proc/stat; fixed in the kernel's user interface (include/uapi/asm-generic/param.h)."""

JUMP_BACK_SECONDS = 3.0
"""An idle counter that falls by more than this was reset (CPU hotplug); by less, the kernel was imprecise."""

MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
MAX_CPUS = 8192

SECONDS = Desc("node_cpu_seconds_total", COUNTER, "Seconds the CPUs spent in each mode.", ("cpu", "mode"))
GUEST = Desc(
    "node_cpu_guest_seconds_total", COUNTER, "Seconds the CPUs spent in guests (VMs) for each mode.", ("cpu", "mode")
)
INFO_LABELS = (
    "package",
    "core",
    "cpu",
    "vendor",
    "family",
    "model",
    "model_name",
    "microcode",
    "stepping",
    "cachesize",
)
INFO = Desc("node_cpu_info", GAUGE, "CPU information from /proc/cpuinfo.", INFO_LABELS)
FREQUENCY = Desc(
    "node_cpu_frequency_hertz", GAUGE, "CPU frequency in hertz from /proc/cpuinfo.", ("package", "core", "cpu")
)
FLAG = Desc(
    "node_cpu_flag_info",
    GAUGE,
    "The `flags` field of CPU information from /proc/cpuinfo taken from the first core.",
    ("flag",),
)
BUG = Desc(
    "node_cpu_bug_info",
    GAUGE,
    "The `bugs` field of CPU information from /proc/cpuinfo taken from the first core.",
    ("bug",),
)
CORE_THROTTLES = Desc(
    "node_cpu_core_throttles_total",
    COUNTER,
    "Number of times this CPU core has been throttled.",
    ("package", "core"),
)
PACKAGE_THROTTLES = Desc(
    "node_cpu_package_throttles_total", COUNTER, "Number of times this CPU package has been throttled.", ("package",)
)
ISOLATED = Desc(
    "node_cpu_isolated",
    GAUGE,
    "Whether each core is isolated, information from /sys/devices/system/cpu/isolated.",
    ("cpu",),
)
ONLINE = Desc("node_cpu_online", GAUGE, "CPUs that are online and being scheduled.", ("cpu",))

_CPU_DIR = re.compile(r"cpu[0-9]+\Z")


@dataclass(frozen=True, slots=True)
class CpuOptions:
    """Flags of the cpu collector."""

    guest: bool = flag("collector.cpu.guest", True, "Enables metric node_cpu_guest_seconds_total")
    info: bool = flag("collector.cpu.info", False, "Enables metric cpu_info")
    flags_include: str = flag(
        "collector.cpu.info.flags-include",
        "",
        "Filter the `flags` field in cpuInfo with a value that must be a regular expression",
    )
    bugs_include: str = flag(
        "collector.cpu.info.bugs-include",
        "",
        "Filter the `bugs` field in cpuInfo with a value that must be a regular expression",
    )
    cpufreq: bool = flag("collector.cpufreq", True, "")


def parse_stat(text: str, skip: Skip) -> dict[str, tuple[float, ...]]:
    """CPU number -> seconds: MODES, then guest and guest_nice as far as the kernel gives them."""
    cpus: dict[str, tuple[float, ...]] = {}
    for line in text.split("\n"):
        if not line.startswith("cpu"):
            if cpus:
                break
            continue
        name, *fields = line.split()
        if name == "cpu":
            continue
        number = name[3:]
        try:
            if not number.isdecimal() or len(fields) < 4 or len(cpus) >= MAX_CPUS:
                raise ValueError(f"not a CPU line: {line[:60]!r}")
            cpus[number] = tuple([integer(field) / USER_HZ for field in fields[:10]])
        except ValueError as err:
            skip(f"/proc/stat {name}", err)
    return cpus


def parse_cpu_list(text: str) -> list[int]:
    """CPU numbers of a list like `1,3-5,9`; FormatError says what was read instead."""
    numbers: list[int] = []
    for part in text.strip().split(","):
        if not part:
            continue
        first, _, last = part.partition("-")
        try:
            low, high = integer(first), integer(last or first)
        except ValueError:
            raise FormatError(f"expected a CPU list like 1,3-5, got {text[:40]!r}") from None
        if not 0 <= low <= high < MAX_CPUS:
            raise FormatError(f"expected a CPU list like 1,3-5, got {text[:40]!r}")
        numbers.extend(range(low, high + 1))
    return numbers


def parse_cpuinfo(text: str) -> list[dict[str, str]]:
    """One dict of fields for each block of /proc/cpuinfo that has a `processor` number."""
    blocks: list[dict[str, str]] = []
    for chunk in text.split("\n\n"):
        fields: dict[str, str] = {}
        for line in chunk.split("\n"):
            key, colon, value = line.partition(":")
            if colon:
                fields[key.strip()] = value.strip()
        if fields.get("processor", "").isdecimal():
            blocks.append(fields)
    return blocks


def cpuinfo_readings(blocks: list[dict[str, str]], with_frequency: bool, skip: Skip) -> list[Reading]:
    """node_cpu_info and, if wanted, node_cpu_frequency_hertz; ARM's field names stand in where x86's are absent."""
    readings: list[Reading] = []
    for fields in blocks:
        cpu, core, package = fields["processor"], fields.get("core id", ""), fields.get("physical id", "")
        values = (
            package,
            core,
            cpu,
            fields.get("vendor_id") or fields.get("CPU implementer", ""),
            fields.get("cpu family") or fields.get("CPU architecture", ""),
            fields.get("model") or fields.get("CPU part", ""),
            fields.get("model name", ""),
            fields.get("microcode", ""),
            fields.get("stepping") or fields.get("CPU revision", ""),
            fields.get("cache size", ""),
        )
        readings.append((INFO, values, 1.0))
        if with_frequency and "cpu MHz" in fields:
            try:
                readings.append((FREQUENCY, (package, core, cpu), float(fields["cpu MHz"]) * 1e6))
            except ValueError as err:
                skip(f"/proc/cpuinfo cpu {cpu} MHz", err)
    return readings


class CpuCollector(Collector):
    """node_cpu_*"""

    name = "cpu"
    options_type = CpuOptions
    descs = (
        SECONDS,
        GUEST,
        INFO,
        FREQUENCY,
        FLAG,
        BUG,
        CORE_THROTTLES,
        PACKAGE_THROTTLES,
        ISOLATED,
        ONLINE,
    )
    options: CpuOptions

    def _prepare(self) -> None:
        self._flags = compile_go(self.options.flags_include, "collector.cpu.info.flags-include")
        self._bugs = compile_go(self.options.bugs_include, "collector.cpu.info.bugs-include")
        self._info = self.options.info or bool(self.options.flags_include or self.options.bugs_include)
        self._last: dict[str, tuple[float, ...]] = {}
        self._labels: dict[str, tuple[tuple[str, str], ...]] = {}

    def collect(self, skip: Skip) -> list[Reading]:
        readings = self._times(parse_stat(read_text(self.paths.proc("stat")), skip))
        if self._info:
            readings += self._cpuinfo(skip)
        readings += self._topology(skip)
        return readings

    def _times(self, now: dict[str, tuple[float, ...]]) -> list[Reading]:
        seconds: list[Reading] = []
        guest: list[Reading] = []
        kept: dict[str, tuple[float, ...]] = {}
        for cpu, values in now.items():
            values = kept[cpu] = _never_backwards(self._last.get(cpu), values)
            labels = self._labels.get(cpu)
            if labels is None:
                labels = self._labels[cpu] = tuple((cpu, mode) for mode in (*MODES, "user", "nice"))
            seconds += [(SECONDS, label, value) for label, value in zip(labels, values[:8], strict=False)]
            if self.options.guest:
                guest += [(GUEST, label, value) for label, value in zip(labels[8:], values[8:], strict=False)]
        self._last = kept
        return seconds + guest

    def _cpuinfo(self, skip: Skip) -> list[Reading]:
        blocks = parse_cpuinfo(read_text(self.paths.proc("cpuinfo")))
        readings = cpuinfo_readings(blocks, not self.options.cpufreq, skip)
        if blocks:
            flags = blocks[0].get("flags") or blocks[0].get("Features", "")
            if self.options.flags_include:
                readings += _words(FLAG, flags, self._flags)
            if self.options.bugs_include:
                readings += _words(BUG, blocks[0].get("bugs", ""), self._bugs)
        return readings

    def _topology(self, skip: Skip) -> list[Reading]:
        base = self.paths.sys("devices/system/cpu")
        readings: list[Reading] = []
        cores: dict[tuple[str, str], float] = {}
        packages: dict[str, float] = {}
        try:
            names = [name for name in list_dir(base) if _CPU_DIR.match(name)]
        except OSError as err:
            skip(base, err)
            return []
        for name in names:
            try:
                readings.append((ONLINE, (name[3:],), float(read_int(f"{base}/{name}/online"))))
            except FileNotFoundError:
                pass
            except (OSError, FormatError) as err:
                skip(f"{base}/{name}/online", err)
            try:
                throttle = read_int(f"{base}/{name}/thermal_throttle/core_throttle_count")
            except FileNotFoundError:
                continue
            except (OSError, FormatError) as err:
                skip(f"{base}/{name}/thermal_throttle", err)
                continue
            try:
                package = read_attr(f"{base}/{name}/topology/physical_package_id")
                core = read_attr(f"{base}/{name}/topology/core_id")
                cores.setdefault((package, core), float(throttle))
                if package not in packages:
                    packages[package] = float(read_int(f"{base}/{name}/thermal_throttle/package_throttle_count"))
            except (OSError, FormatError) as err:
                skip(f"{base}/{name}/topology", err)
        readings += [(CORE_THROTTLES, key, value) for key, value in cores.items()]
        readings += [(PACKAGE_THROTTLES, (package,), value) for package, value in packages.items()]
        try:
            readings += [(ISOLATED, (str(cpu),), 1.0) for cpu in parse_cpu_list(read_attr(f"{base}/isolated"))]
        except FileNotFoundError:
            pass
        except (OSError, FormatError) as err:
            skip(f"{base}/isolated", err)
        return readings


def _words(desc: Desc, text: str, wanted: re.Pattern[str]) -> Iterable[Reading]:
    return [(desc, (word,), 1.0) for word in dict.fromkeys(text.split()) if wanted.search(word)]


def _never_backwards(last: tuple[float, ...] | None, now: tuple[float, ...]) -> tuple[float, ...]:
    """`now`, but no counter below its last value unless the idle time says that the CPU was reset."""
    if last is None or len(last) != len(now) or now[3] < last[3] - JUMP_BACK_SECONDS:
        return now
    return tuple([max(new, old) for new, old in zip(now, last, strict=True)])
