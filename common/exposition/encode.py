"""Encoders of the Prometheus text format 0.0.4 and of OpenMetrics 1.0 text.

https://prometheus.io/docs/instrumenting/exposition_formats/ and
https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md
"""

from collections.abc import Iterable
from typing import Literal

from common.exposition.model import Desc, Reading
from common.labels import is_legacy_label_name, is_legacy_metric_name, quote
from common.sample import MetricType, Millis

TEXT_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
MAX_CACHED_SERIES = 20_000
"""Rendered label sets an encoder remembers; one more and it forgets all and starts again."""

Format = Literal["text", "openmetrics"]

_HELP_TEXT = str.maketrans({"\\": "\\\\", "\n": "\\n"})
_HELP_OPENMETRICS = str.maketrans({"\\": "\\\\", "\n": "\\n", '"': '\\"'})
_TEXT_TYPES = {
    MetricType.UNKNOWN: "untyped",
    MetricType.INFO: "gauge",
    MetricType.STATESET: "gauge",
    MetricType.GAUGE_HISTOGRAM: "untyped",
}
_INF = float("inf")


def format_value(value: float) -> str:
    """The value as both formats want it: shortest text that reads back equal, `NaN`, `+Inf`, `-Inf`."""
    if value != value:
        return "NaN"
    if value == _INF:
        return "+Inf"
    if value == -_INF:
        return "-Inf"
    return str(value)


def series_text(name: str, pairs: Iterable[tuple[str, str]]) -> str:
    """`name{a="b"}`, with the name and labels that need it quoted inside the braces (UTF-8 names)."""
    inner = ",".join(f"{key if is_legacy_label_name(key) else quote(key)}={quote(value)}" for key, value in pairs)
    if not is_legacy_metric_name(name):
        return f"{{{quote(name)},{inner}}}" if inner else f"{{{quote(name)}}}"
    return f"{name}{{{inner}}}" if inner else name


def openmetrics_family(name: str, kind: MetricType) -> tuple[str, MetricType]:
    """Family name and type in OpenMetrics of a metric whose samples are called `name`.

    A sample keeps its name in every format, so a counter without `_total` can only be `unknown` there.
    """
    if kind is MetricType.COUNTER:
        if name.endswith("_total"):
            return name.removesuffix("_total"), kind
        return name, MetricType.UNKNOWN
    if kind is MetricType.INFO:
        if name.endswith("_info"):
            return name.removesuffix("_info"), kind
        return name, MetricType.GAUGE
    return name, kind


def head_text(name: str, kind: MetricType, help_text: str) -> str:
    """`# HELP` and `# TYPE` lines of the text format; no help, no line."""
    shown = name if is_legacy_metric_name(name) else quote(name)
    text = f"# TYPE {shown} {_TEXT_TYPES.get(kind, kind)}\n"
    return f"# HELP {shown} {help_text.translate(_HELP_TEXT)}\n{text}" if help_text else text


def head_openmetrics(family: str, kind: MetricType, help_text: str, unit: str) -> str:
    """`# TYPE`, `# UNIT` and `# HELP` lines of OpenMetrics; a unit that does not end the name is left out."""
    shown = family if is_legacy_metric_name(family) else quote(family)
    text = f"# TYPE {shown} {kind}\n"
    if unit and family.endswith("_" + unit):
        text += f"# UNIT {shown} {unit}\n"
    if help_text:
        text += f"# HELP {shown} {help_text.translate(_HELP_OPENMETRICS)}\n"
    return text


class _Series:
    """What an encoder remembers of one Desc, and where its lines go on the page being made."""

    __slots__ = ("desc", "lines", "rendered")

    def __init__(self, desc: Desc) -> None:
        self.desc = desc
        self.rendered: dict[tuple[str, ...], str] = {}
        self.lines: list[str] = []


class Encoder:
    """Makes pages of readings; remembers rendered label sets between pages. Not for two threads at once."""

    def __init__(self, kind: Format = "text") -> None:
        self.kind = kind
        self._known: dict[Desc, _Series] = {}
        self._heads: dict[tuple[Desc, bool], str] = {}
        self._cached = 0

    @property
    def content_type(self) -> str:
        """The Content-Type of the pages."""
        return TEXT_CONTENT_TYPE if self.kind == "text" else OPENMETRICS_CONTENT_TYPE

    def encode(self, readings: Iterable[Reading], tail: str = "") -> bytes:
        """One page: families in order of first appearance, their samples together, then `tail`, then `# EOF`.

        Descs of the same family stand under the first one's head. `tail` is ready text of other families.
        """
        if self._cached > MAX_CACHED_SERIES:
            self._known.clear()
            self._heads.clear()
            self._cached = 0
        page: dict[str, _Series] = {}
        opened: dict[Desc, _Series] = {}
        last: Desc | None = None
        rendered: dict[tuple[str, ...], str] = {}
        lines: list[str] = []
        for desc, values, value in readings:
            if desc is not last:
                last = desc
                series = opened.get(desc)
                if series is None:
                    series = opened[desc] = self._open(desc, page)
                rendered = series.rendered
                lines = series.lines
            prefix = rendered.get(values)
            if prefix is None:
                prefix = series_text(desc.name, zip(desc.labels, values, strict=True)) + " "
                rendered[values] = prefix
                self._cached += 1
            if value - value == 0:
                lines.append(f"{prefix}{value}\n")
            else:
                lines.append(f"{prefix}{format_value(value)}\n")
        parts: list[str] = []
        for series in page.values():
            parts.append(self._head(series.desc, page))
            parts += series.lines
        parts.append(tail)
        if self.kind == "openmetrics":
            parts.append("# EOF\n")
        return "".join(parts).encode("utf-8", "replace")

    def _open(self, desc: Desc, page: dict[str, _Series]) -> _Series:
        series = self._known.get(desc)
        if series is None:
            series = self._known[desc] = _Series(desc)
        first = page.setdefault(desc.family, series)
        series.lines = [] if first is series else first.lines
        return series

    def _head(self, desc: Desc, page: dict[str, _Series]) -> str:
        family, kind = desc.family, desc.type
        clash = False
        if self.kind == "openmetrics":
            family, kind = openmetrics_family(family, kind)
            # The family of the counter x_total is x: where a metric x exists too, only `unknown` keeps both names.
            clash = family != desc.family and family in page
        head = self._heads.get((desc, clash))
        if head is None:
            if self.kind == "text":
                head = head_text(family, kind, desc.help)
            elif clash:
                head = head_openmetrics(desc.family, MetricType.UNKNOWN, desc.help, desc.unit)
            else:
                head = head_openmetrics(family, kind, desc.help, desc.unit)
            self._heads[desc, clash] = head
        return head


def sample_line(series: str, value: float, timestamp: Millis | None, kind: Format) -> str:
    """One line of a page; the timestamp is milliseconds in the text format, seconds in OpenMetrics."""
    if timestamp is None:
        return f"{series} {format_value(value)}\n"
    if kind == "text":
        return f"{series} {format_value(value)} {timestamp}\n"
    return f"{series} {format_value(value)} {timestamp / 1000}\n"
