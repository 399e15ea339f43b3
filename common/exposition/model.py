"""What the encoders and the collectors share: the description of a metric and one reading of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from common.labels import NAME, Labels
from common.sample import MetricMeta, MetricType

BASE_UNITS = frozenset(
    {
        "seconds",
        "bytes",
        "celsius",
        "volts",
        "amperes",
        "watts",
        "joules",
        "hertz",
        "ratio",
        "pascals",
        "meters",
        "rpm",
        "lux",
        "ohms",
    }
)
"""Suffixes of metric names that OpenMetrics shows as `# UNIT`."""


def unit_of(name: str) -> str:
    """The base unit at the end of a metric name (before `_total`), or the empty string."""
    last = name.removesuffix("_total").rpartition("_")[2]
    return last if last in BASE_UNITS else ""


@dataclass(frozen=True, slots=True, eq=False)
class Desc:
    """One metric family: declared once, compared by identity, so that caches can be keyed by it cheaply.

    `labels` are label names; a reading gives their values in the same order, an empty value meaning no label.
    `family` differs from `name` only for the parts of histograms and summaries (`x_bucket` of `x`).
    """

    name: str
    type: MetricType
    help: str
    labels: tuple[str, ...] = ()
    unit: str = field(default="")
    family: str = ""

    def __post_init__(self) -> None:
        if not self.family:
            object.__setattr__(self, "family", self.name)
        if not self.unit:
            object.__setattr__(self, "unit", unit_of(self.family))

    @property
    def meta(self) -> MetricMeta:
        """Name, type, help and unit as the storage side keeps them."""
        return MetricMeta(self.family, self.type, self.help, self.unit)

    def series(self, values: Sequence[str] = ()) -> Labels:
        """The label set of the series with these label values, metric name included."""
        return Labels(((NAME, self.name), *zip(self.labels, values, strict=True)))


Reading = tuple[Desc, tuple[str, ...], float]
"""Description, label values in the description's order, value."""
