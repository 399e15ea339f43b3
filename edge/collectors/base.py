"""What a collector is: one class with its name, default, options and descriptions; text to readings is pure."""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from common.clock import Clock
from common.errors import BrambleError, ConfigError
from common.exposition.model import Desc, Reading
from common.sample import MetricType

__all__ = [
    "COUNTER",
    "GAUGE",
    "UNTYPED",
    "Collector",
    "Desc",
    "DescTable",
    "DeviceFilter",
    "Flag",
    "NoDataError",
    "NoOptions",
    "Paths",
    "Reading",
    "Skip",
    "flag",
]

COUNTER = MetricType.COUNTER
GAUGE = MetricType.GAUGE
UNTYPED = MetricType.UNKNOWN

MAX_DESCS = 4096
"""Metric names that one DescTable makes from what the kernel prints; further names are refused."""

Skip = Callable[[str, Exception], None]
"""Told about one reading that could not be had: what it was (a path or field) and why."""


class NoDataError(BrambleError):
    """The machine has nothing for this collector (no such hardware, module or file); not a failure."""


class CollectError(BrambleError):
    """A collector's source could not be read or understood as a whole."""


@dataclass(frozen=True, slots=True)
class Paths:
    """Where a collector's world is mounted; absolute or relative to the working directory."""

    procfs: str = "/proc"
    sysfs: str = "/sys"
    rootfs: str = "/"
    udev: str = "/run/udev/data"

    def proc(self, *parts: str) -> str:
        """A path below procfs."""
        return os.path.join(self.procfs, *parts)  # noqa: PTH118 - some thousand joins a minute

    def sys(self, *parts: str) -> str:
        """A path below sysfs."""
        return os.path.join(self.sysfs, *parts)  # noqa: PTH118

    def root(self, *parts: str) -> str:
        """A path below rootfs; leading slashes of `parts` are ignored."""
        return os.path.join(self.rootfs, *(part.lstrip("/") for part in parts))  # noqa: PTH118

    @property
    def live(self) -> bool:
        """Whether procfs is the kernel's of this machine, not a captured tree: only then may sockets speak."""
        try:
            return os.stat(self.procfs).st_dev == os.stat("/proc").st_dev  # noqa: PTH116
        except OSError:
            return False

    def strip_root(self, path: str) -> str:
        """`path` as seen from rootfs (`/host/var` under `--path.rootfs=/host` is `/var`)."""
        root = self.rootfs.rstrip("/")
        if not root or not path.startswith(root):
            return path
        return path[len(root) :] or "/"


@dataclass(frozen=True, slots=True)
class Flag:
    """How an option field appears on the command line; stored in the field's metadata."""

    name: str
    help: str
    hidden: bool = False


def flag(name: str, default: Any, text: str) -> Any:  # the declared field type is the real one
    """A field of an options dataclass that the flag `--name` sets; tuples are repeatable flags.

    Without `text` the flag is another collector's and this one only wants to know it.
    """
    return field(default=default, metadata={"flag": Flag(name, text, hidden=not text)})


@dataclass(frozen=True, slots=True)
class NoOptions:
    """Options of a collector that has none."""


class Collector(ABC):
    """Reads one subsystem. Never run by two threads at once; may block, the runner has a deadline."""

    name: ClassVar[str]
    default_enabled: ClassVar[bool] = True
    silent_without_data: ClassVar[bool] = False
    """Whether a run without data says nothing at all; node_exporter's collectors then say success 0."""
    options_type: ClassVar[type] = NoOptions
    descs: ClassVar[tuple[Desc, ...]] = ()
    """Every metric family whose name is known beforehand."""

    def __init__(self, paths: Paths, options: Any, clock: Clock) -> None:
        """`options` is an instance of `options_type`; impossible options are a ConfigError."""
        self.paths = paths
        self.options = options
        self.clock = clock
        self._prepare()

    def _prepare(self) -> None:  # noqa: B027 - most have nothing to prepare
        """Called once after construction: compile filters, check options, make caches."""

    @abstractmethod
    def collect(self, skip: Skip) -> list[Reading]:
        """All readings of now. Raises NoDataError, OSError or FormatError only if there is no reading at all."""

    def start(self) -> None:  # noqa: B027 - most have nothing to start
        """Called by the runner that takes the collector over, before the first `collect`."""

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Give back descriptors, threads and devices; idempotent."""


class DescTable:
    """Descriptions made on first sight for families whose names the kernel gives (meminfo, netstat, vmstat)."""

    def __init__(self, make: Callable[[str], Desc]) -> None:
        self._make = make
        self._known: dict[str, Desc] = {}

    def __getitem__(self, key: str) -> Desc:
        """The description for `key`; CollectError when the table is full."""
        desc = self._known.get(key)
        if desc is None:
            if len(self._known) >= MAX_DESCS:
                raise CollectError(f"more than {MAX_DESCS} metric names: {key!r} refused")
            desc = self._known[key] = self._make(key)
        return desc


def compile_go(pattern: str, flag_name: str) -> re.Pattern[str]:
    """A regular expression as node_exporter's flags take them: unanchored, Go syntax as far as `re` shares it."""
    try:
        return re.compile(pattern.replace(r"\z", r"\Z"))
    except re.error as err:
        raise ConfigError(f"--{flag_name}: not a regular expression: {err}: {pattern!r}") from None


class DeviceFilter:
    """node_exporter's include and exclude flags: at most one of them is given; remembers its answers."""

    MAX_REMEMBERED = 4096

    def __init__(self, exclude: str, include: str, name: str) -> None:
        """`name` is the flags' common part, as `collector.netdev.device`."""
        if exclude and include:
            raise ConfigError(f"--{name}-exclude and --{name}-include are mutually exclusive: give one of them")
        self._exclude = compile_go(exclude, f"{name}-exclude") if exclude else None
        self._include = compile_go(include, f"{name}-include") if include else None
        self._answers: dict[str, bool] = {}

    def ignored(self, device: str) -> bool:
        """Whether the flags leave this device out."""
        answer = self._answers.get(device)
        if answer is None:
            if len(self._answers) >= self.MAX_REMEMBERED:
                self._answers.clear()
            answer = bool(
                (self._exclude is not None and self._exclude.search(device))
                or (self._include is not None and not self._include.search(device))
            )
            self._answers[device] = answer
        return answer
