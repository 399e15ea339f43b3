"""Chosen kernel parameters (sysctl(8), files below /proc/sys)."""

from dataclasses import dataclass

from common.errors import ConfigError
from edge.collectors.base import GAUGE, UNTYPED, Collector, Desc, Reading, Skip, flag
from edge.collectors.files import integer, read_attr

INFO = Desc("node_sysctl_info", GAUGE, "sysctl info", ("name", "value", "index"))


@dataclass(frozen=True, slots=True)
class SysctlOptions:
    """Flags of the sysctl collector."""

    include: tuple[str, ...] = flag("collector.sysctl.include", (), "Select sysctl metrics to include")
    include_info: tuple[str, ...] = flag(
        "collector.sysctl.include-info", (), "Select sysctl metrics to include as info metrics"
    )


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter with its descriptions: one for each named field, or one for a value, or one for indexed values."""

    name: str
    path: str
    fields: tuple[tuple[int, Desc], ...]
    single: Desc
    indexed: Desc


def parameter(text: str) -> Parameter:
    """Parameter of a flag value `a.b` or `a.b:first,second`; ConfigError if a part of it is empty."""
    name, colon, keys = text.partition(":")
    parts = name.replace("/", ".").split(".")
    if not all(parts) or ".." in name:
        raise ConfigError(f"--collector.sysctl.include: expected a parameter like kernel.threads-max, got {text!r}")
    metric = "node_sysctl_" + "_".join(parts).replace("-", "_")
    fields: list[tuple[int, Desc]] = []
    if colon:
        for index, key in enumerate(keys.split(",")):
            if key:
                fields.append((index, Desc(f"{metric}_{key}", UNTYPED, f"sysctl {name}, field {index}")))
    return Parameter(
        name,
        "/".join(parts),
        tuple(fields),
        Desc(metric, UNTYPED, f"sysctl {name}"),
        Desc(metric, UNTYPED, f"sysctl {name}", ("index",)),
    )


def parameter_readings(wanted: Parameter, text: str) -> list[Reading]:
    """Readings of the numbers in the parameter's file; ValueError if one is no number."""
    values = [float(integer(value)) for value in text.split()]
    if wanted.fields:
        return [(desc, (), values[index]) for index, desc in wanted.fields if index < len(values)]
    if len(values) == 1:
        return [(wanted.single, (), values[0])]
    return [(wanted.indexed, (str(index),), value) for index, value in enumerate(values)]


class SysctlCollector(Collector):
    """node_sysctl_*"""

    name = "sysctl"
    default_enabled = False
    options_type = SysctlOptions
    descs = (INFO,)
    options: SysctlOptions

    def _prepare(self) -> None:
        self._numbers = [parameter(text) for text in self.options.include]
        self._infos = [parameter(text) for text in self.options.include_info]

    def collect(self, skip: Skip) -> list[Reading]:
        readings: list[Reading] = []
        for wanted in self._numbers:
            try:
                readings += parameter_readings(wanted, read_attr(self.paths.proc("sys", wanted.path)))
            except (OSError, ValueError) as err:
                skip(f"sysctl {wanted.name}", err)
        for wanted in self._infos:
            try:
                values = read_attr(self.paths.proc("sys", wanted.path)).split()
            except OSError as err:
                skip(f"sysctl {wanted.name}", err)
                continue
            readings += [(INFO, (wanted.name, value, str(index)), 1.0) for index, value in enumerate(values)]
        return readings
