"""Collectors of third parties, written for prometheus_client: any object with `collect()` that yields metrics."""

from collections.abc import Iterable
from typing import Any, Protocol

from common.clock import Clock
from common.errors import ConfigError, LimitError
from common.sample import MetricType
from edge.collectors.base import Collector, Desc, NoOptions, Paths, Reading, Skip

GROUP = "bramble.collectors"
"""Entry point group: the name is the collector's, the value a class, a function or a ready object."""

MAX_SAMPLES = 20_000
"""Most samples of one plugin; with more it fails as a whole."""

_TYPES = {
    "counter": MetricType.COUNTER,
    "gauge": MetricType.GAUGE,
    "histogram": MetricType.HISTOGRAM,
    "gaugehistogram": MetricType.GAUGE_HISTOGRAM,
    "summary": MetricType.SUMMARY,
    "info": MetricType.INFO,
    "stateset": MetricType.STATESET,
}


class PrometheusCollector(Protocol):
    """prometheus_client.registry.Collector."""

    def collect(self) -> Iterable[Any]: ...


class PluginCollector(Collector):
    """What an object with `collect()` yields, as readings."""

    def __init__(self, name: str, source: PrometheusCollector, paths: Paths, clock: Clock) -> None:
        super().__init__(paths, NoOptions(), clock)
        self.name = name  # type: ignore[misc]  # one class serves all plugins
        self._source = source
        self._descs: dict[tuple[str, ...], Desc] = {}

    def collect(self, skip: Skip) -> list[Reading]:
        readings: list[Reading] = []
        for metric in self._source.collect():
            kind = _TYPES.get(metric.type, MetricType.UNKNOWN)
            for sample in metric.samples:
                if sample.name == f"{metric.name}_created":
                    continue  # when it was made is no reading of the device
                names = tuple(sample.labels)
                key = (sample.name, kind, metric.documentation, *names)
                desc = self._descs.get(key)
                if desc is None:
                    family = metric.name if kind in (MetricType.HISTOGRAM, MetricType.SUMMARY) else sample.name
                    desc = self._descs[key] = Desc(sample.name, kind, metric.documentation, names, metric.unit, family)
                readings.append((desc, tuple(map(str, sample.labels.values())), float(sample.value)))
                if len(readings) > MAX_SAMPLES:
                    raise LimitError(f"plugin {self.name}: more than {MAX_SAMPLES} samples")
        return readings


def installed() -> dict[str, Any]:
    """Entry points of GROUP by name; imported here, as importlib.metadata costs the agent 2 MB."""
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=GROUP)}


def load_plugins(names: Iterable[str], paths: Paths, clock: Clock) -> list[Collector]:
    """The plugins of these names; ConfigError if one is not installed, does not load or has no `collect`."""
    known = installed()
    loaded: list[Collector] = []
    for name in dict.fromkeys(names):
        if name not in known:
            there = ", ".join(sorted(known)) or "none"
            raise ConfigError(f"--collector.plugin {name}: no entry point {GROUP!r} of that name; installed: {there}")
        try:
            source = known[name].load()
            if isinstance(source, type) or not hasattr(source, "collect"):
                source = source()
        except Exception as err:
            raise ConfigError(f"--collector.plugin {name}: could not be loaded: {type(err).__name__}: {err}") from err
        if not callable(getattr(source, "collect", None)):
            raise ConfigError(f"--collector.plugin {name}: the object has no method collect()")
        loaded.append(PluginCollector(name, source, paths, clock))
    return loaded
