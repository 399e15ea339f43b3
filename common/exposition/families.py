"""Puts stored metrics into families as OpenMetrics and the text format want them. Pure.

https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md, sections "MetricFamily" and "Metric
types": samples of a family stand together, those of one metric of it (a histogram, say) too, ordered by time.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from common.exposition.encode import Format, head_openmetrics, head_text
from common.exposition.parse import FAMILY_LABEL, normal_float
from common.labels import NAME, Labels
from common.sample import FAMILY_SUFFIXES, MetricMeta, MetricType, families

BOUNDS: Mapping[MetricType, str] = {**FAMILY_LABEL, MetricType.GAUGE_HISTOGRAM: "le"}
"""Labels that tell apart the samples of one metric."""

_TEXT_SUFFIXES = {
    MetricType.HISTOGRAM: ("_bucket", "_sum", "_count"),
    MetricType.SUMMARY: ("", "_sum", "_count"),
}


@dataclass(frozen=True, slots=True)
class Family:
    """One family: its name in the format, and the names of its samples that are there, in the order of a point."""

    name: str
    type: MetricType
    metrics: tuple[str, ...]
    help: str = ""
    unit: str = ""

    @property
    def bound(self) -> str:
        """The label that tells apart the samples of one metric, if there is one."""
        return BOUNDS.get(self.type, "")

    @property
    def grouped(self) -> bool:
        """Whether a metric of it is several series, whose samples of one time stand together."""
        return bool(self.bound) or len(self.metrics) > 1

    def head(self, form: Format) -> str:
        """The lines above the samples."""
        if form == "openmetrics":
            return head_openmetrics(self.name, self.type, self.help, self.unit)
        return head_text(self.name, self.type, self.help)

    def metric(self, labels: Labels) -> Labels:
        """The label set that all series of one metric share."""
        return labels.drop((NAME, self.bound)) if self.bound else labels.drop((NAME,))

    def place(self, labels: Labels) -> tuple[int, float]:
        """Where a series stands in a point of its metric."""
        return self.metrics.index(labels.name), float(labels.get(self.bound) or 0) if self.bound else 0.0


Listing = Callable[[Sequence[str]], Iterable[Labels]]


def arrange(
    names: Collection[str], metadata: Mapping[str, Sequence[MetricMeta]], series: Listing, form: Format
) -> list[Family]:
    """Families for all metric `names`, sorted by name. Of several metadata the last counts; `series` lists label sets.

    Where stored series can't be what the metadata say (a histogram without its +Inf bucket, a name in two families)
    each becomes a family of its own, of unknown type.
    """
    known = {name: metas[-1] for name, metas in metadata.items() if metas}
    left = set(names)
    reserved: set[str] = set()
    found: list[Family] = []

    def add(family: Family, names_taken: Iterable[str]) -> None:
        found.append(family)
        reserved.update(names_taken)
        left.difference_update(family.metrics)

    suffixes = FAMILY_SUFFIXES if form == "openmetrics" else _TEXT_SUFFIXES
    for name, meta in sorted(known.items()):
        base = name.removesuffix("_total") if meta.type is MetricType.COUNTER else name
        if meta.type is MetricType.INFO:
            base = name.removesuffix("_info")
        parts = suffixes.get(meta.type, ())
        metrics = tuple(base + part for part in parts if base + part in left)
        claimed = {base, *(base + part for part in parts)}
        if not metrics or metrics == (base,) or claimed & reserved:
            continue
        if (base in left and "" not in parts) or not _fits(meta.type, base, metrics, series):
            continue
        add(Family(base, meta.type, metrics, meta.help, meta.unit), claimed)
    for name in sorted(left):
        add(_alone(name, known, form, series), (name,))
    return sorted(found, key=lambda family: family.name)


def _alone(name: str, known: Mapping[str, MetricMeta], form: Format, series: Listing) -> Family:
    """The family of a metric that is one by itself."""
    meta = next((known[each] for each in families(name) if each in known), None)
    if meta is None:
        return Family(name, MetricType.UNKNOWN, (name,))
    kind = meta.type
    plain = {MetricType.GAUGE} if form == "openmetrics" else {MetricType.GAUGE, MetricType.COUNTER, MetricType.INFO}
    own = name == meta.name or (kind, name) in (
        (MetricType.COUNTER, f"{meta.name}_total"),
        (MetricType.INFO, f"{meta.name}_info"),
    )
    if kind is MetricType.STATESET and own and all(labels.get(name) for labels in series([name])):
        return Family(name, kind, (name,), meta.help, meta.unit)
    if kind not in plain or not own:
        kind = MetricType.UNKNOWN
    return Family(name, kind, (name,), meta.help if own else "", meta.unit if own else "")


def _fits(kind: MetricType, base: str, metrics: Sequence[str], series: Listing) -> bool:
    """Whether the series there are make whole metrics of this type."""
    bound = BOUNDS.get(kind)
    if bound is None:
        return kind is not MetricType.COUNTER or base + "_total" in metrics
    bounded = base if kind is MetricType.SUMMARY else base + "_bucket"
    counts = [part for part in ("_count", "_sum", "_gcount", "_gsum") if base + part in metrics]
    if len(counts) == 1 or (not counts and bounded not in metrics):
        return False
    wholes: set[Labels] = set()
    tops: set[Labels] = set()
    for labels in series(metrics):
        text = labels.get(bound)
        if (labels.name == bounded) != bool(text) or (text and not _canonical(text)):
            return False
        metric = labels.drop((NAME, bound))
        wholes.add(metric)
        if labels.name == bounded and text == "+Inf":
            tops.add(metric)
    return kind is MetricType.SUMMARY or wholes == tops


def _canonical(text: str) -> bool:
    """Whether a reader keeps a bound as it is."""
    try:
        value = float(text)
    except ValueError:
        return False
    return not math.isnan(value) and normal_float(text) == text
