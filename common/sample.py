"""Words of the model: samples, stale markers, metric families."""

import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

from common.labels import Labels

Millis = NewType("Millis", int)
"""Milliseconds since 1970-01-01T00:00:00Z, negative before it; fits int64."""

STALE_NAN_BITS = 0x7FF0000000000002
"""Bits of the NaN that Prometheus stores as staleness marker (model/value/value.go)."""

NORMAL_NAN_BITS = 0x7FF8000000000001
"""Bits of the NaN that Prometheus stores for any other NaN."""

STALE_NAN: float = struct.unpack("<d", struct.pack("<Q", STALE_NAN_BITS))[0]


def is_stale(value: float) -> bool:
    """Whether `value` is the staleness marker, by its bits."""
    return value != value and struct.unpack("<Q", struct.pack("<d", value))[0] == STALE_NAN_BITS


class MetricType(StrEnum):
    """Metric types of the Prometheus and OpenMetrics exposition formats."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    GAUGE_HISTOGRAM = "gaugehistogram"
    SUMMARY = "summary"
    INFO = "info"
    STATESET = "stateset"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class MetricMeta:
    """Metadata of one metric family; `name` is the family's name, `unit` may be empty."""

    name: str
    type: MetricType
    help: str = ""
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one series; `timestamp` is None where the reader stamps it."""

    labels: Labels
    value: float
    timestamp: Millis | None = None


FAMILY_SUFFIXES: dict[MetricType, tuple[str, ...]] = {
    MetricType.COUNTER: ("_total", "_created"),
    MetricType.INFO: ("_info",),
    MetricType.HISTOGRAM: ("_bucket", "_count", "_sum", "_created"),
    MetricType.GAUGE_HISTOGRAM: ("_bucket", "_gcount", "_gsum"),
    MetricType.SUMMARY: ("", "_count", "_sum", "_created"),
    MetricType.STATESET: ("",),
    MetricType.GAUGE: ("",),
    MetricType.UNKNOWN: ("",),
}
"""What OpenMetrics appends to a family's name to name its samples, by type (section 5)."""

_ENDINGS = ("_total", "_created", "_info", "_bucket", "_count", "_sum", "_gcount", "_gsum")


def families(metric: str) -> list[str]:
    """Names of families that a metric of this name may belong to: its own, and those without a suffix of a part."""
    return [metric, *(metric.removesuffix(each) for each in _ENDINGS if metric.endswith(each) and metric != each)]
