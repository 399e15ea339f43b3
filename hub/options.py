"""What the command line says, as a value."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from common.units import format_duration
from hub.config import join_address
from hub.memory import MOST_SAMPLES

FEATURES = frozenset(
    {
        "promql-experimental-functions",
        "promql-duration-expr",
        "promql-extended-range-selectors",
        "promql-binop-fill-modifiers",
        "promql-delayed-name-removal",
        "promql-per-step-stats",
        "created-timestamp-zero-ingestion",
        "type-and-unit-labels",
    }
)
"""Names of `--enable-feature`, as Prometheus has them."""

ALWAYS_ON = frozenset({"promql-at-modifier", "promql-negative-offset", "native-histograms"})
IGNORED_FEATURES = frozenset(
    {
        "agent",
        "auto-gomaxprocs",
        "auto-gomemlimit",
        "auto-reload-config",
        "concurrent-rule-eval",
        "delayed-compaction",
        "exemplar-storage",
        "expand-external-labels",
        "extra-scrape-metrics",
        "memory-snapshot-on-shutdown",
        "metadata-wal-records",
        "new-service-discovery-manager",
        "no-default-scrape-port",
        "old-ui",
        "otlp-deltatocumulative",
        "otlp-native-delta-ingestion",
        "remote-write-receiver",
        "use-uncached-io",
    }
)
"""Names that Prometheus 3 takes (`prometheus --help`, its page on feature flags) and that change nothing here."""


@dataclass(frozen=True, slots=True)
class Options:
    """The hub's flags; durations in ms."""

    FLAGS: ClassVar[Mapping[str, str]] = {
        "config.file": "config_file",
        "web.listen-address": "listen",
        "web.external-url": "external_url",
        "web.route-prefix": "route_prefix",
        "web.read-timeout": "read_timeout_ms",
        "web.max-connections": "max_connections",
        "web.max-notifications-subscribers": "notification_subscribers",
        "web.page-title": "page_title",
        "web.cors.origin": "cors_origin",
        "web.enable-remote-write-receiver": "remote_write_receiver",
        "web.enable-admin-api": "admin",
        "web.enable-lifecycle": "lifecycle",
        "storage.tsdb.path": "data",
        "storage.tsdb.retention.time": "retention_ms",
        "storage.tsdb.retention.size": "retention_bytes",
        "memory.limit": "memory_limit",
        "discovery.mdns": "mdns",
        "query.lookback-delta": "lookback_ms",
        "query.timeout": "query_timeout_ms",
        "query.max-samples": "max_samples",
        "query.max-concurrency": "max_concurrency",
        "query.result-cache-size": "result_cache_bytes",
        "enable-feature": "features",
        "log.level": "log_level",
    }

    config_file: Path | None = None
    listen: tuple[str, int] = ("0.0.0.0", 9090)
    external_url: str = ""
    route_prefix: str | None = None
    read_timeout_ms: int = 300_000
    max_connections: int = 512
    notification_subscribers: int = 16
    page_title: str = "Bramble"
    cors_origin: str = ".*"
    remote_write_receiver: bool = False
    admin: bool = False
    lifecycle: bool = False
    data: Path = Path("data")
    retention_ms: int = 15 * 86_400_000
    retention_bytes: int = 0
    memory_limit: int = 0
    """Bytes; 0 for half of what the machine or the container has."""
    mdns: bool = True
    lookback_ms: int = 300_000
    query_timeout_ms: int = 120_000
    max_samples: int | None = None
    max_concurrency: int = 20
    result_cache_bytes: int | None = None
    features: frozenset[str] = field(default_factory=frozenset)
    log_level: str = "info"

    def as_flags(self) -> dict[str, str]:
        """Flags as texts by name (`/api/v1/status/flags`)."""
        return {flag: self._text(name) for flag, name in self.FLAGS.items()}

    def _text(self, name: str) -> str:
        value = getattr(self, name)
        if name == "listen":
            return join_address(*value)
        if name == "route_prefix":
            return self.prefix
        if name.endswith("_ms"):
            return format_duration(value)
        if name in ("retention_bytes", "memory_limit"):
            return f"{value}B"
        if isinstance(value, frozenset):
            return ",".join(sorted(value))
        if isinstance(value, bool):
            return "true" if value else "false"
        if name == "max_samples":
            return str(value or MOST_SAMPLES)
        return "" if value is None else str(value)

    def url(self, port: int) -> str:
        """Under which users reach the hub, that listens on `port`; without a slash at its end."""
        return (self.external_url or f"http://{socket.gethostname()}:{port}").rstrip("/")

    @property
    def prefix(self) -> str:
        """The route prefix, from the external URL where none is given."""
        if self.route_prefix is not None:
            return self.route_prefix
        path = self.external_url.partition("://")[2].partition("/")[2]
        return "/" + path.strip("/")
