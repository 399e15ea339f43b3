"""The agent's settings: `edge.yml` as frozen dataclasses; flags win over the file (`edge.cli`)."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from common.config import Duration, FieldError, Size, option

DEFAULT_PORT = 9100
FALLBACK_STORAGE = "edge-data"
MIN_SAMPLE_INTERVAL_MS = 100

RESERVED_PATHS = ("/federate", "/federate/schema", "/-/healthy", "/-/ready")

_URL_PATH = re.compile(r"/[A-Za-z0-9._~/-]+\Z")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252})\Z")


class LogLevel(StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARN = "warn"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: `host` is empty for all addresses; port 0 lets the system choose."""

    host: str = ""
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """`:9100`, `host:9100` or `[::1]:9100`, as Prometheus's programs take it; ValueError says what was expected."""
    expected = (
        f'expected an address like :{DEFAULT_PORT}, localhost:{DEFAULT_PORT} or [::1]:{DEFAULT_PORT}, got "{text}"'
    )
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(expected)
    if host.startswith("[") and host.endswith("]"):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            raise ValueError(expected) from None
        host = host[1:-1]
    elif host and not _HOST.match(host):
        raise ValueError(expected)
    return Address(host, int(port))


@dataclass(frozen=True, slots=True)
class WebConfig:
    """The HTTP server."""

    listen_address: Address = field(
        default=Address(),
        metadata=option("Address to listen on, as `:9100`, `host:port` or `[::1]:9100`.", parse=parse_address),
    )
    max_requests: int = field(
        default=40, metadata=option("Requests answered at the same time; further ones get status 503. 0: no limit.")
    )

    telemetry_path: str = field(default="/metrics", metadata=option("Path of the metrics page."))
    exporter_metrics: bool = field(
        default=True, metadata=option("Show the agent's own metrics on that page; they are stored in any case.")
    )

    def __post_init__(self) -> None:
        if self.max_requests < 0:
            raise FieldError("max_requests", f"expected 0 or more, got {self.max_requests}")
        if not _URL_PATH.match(self.telemetry_path) or self.telemetry_path in RESERVED_PATHS:
            raise FieldError("telemetry_path", f'expected a path like /metrics, got "{self.telemetry_path}"')


@dataclass(frozen=True, slots=True)
class StorageConfig:
    """The agent's log of samples."""

    path: Path | None = field(
        default=None,
        metadata=option(
            f"Directory of the log. Default: $STATE_DIRECTORY (set by systemd), else ./{FALLBACK_STORAGE}."
        ),
    )
    retention_time: Duration = field(
        default=Duration(30 * 86_400_000), metadata=option("Samples older than this are deleted.")
    )
    retention_size: Size = field(
        default=Size(512 * 2**20), metadata=option("The log's size on disk; the oldest segment goes first.")
    )
    max_writes_per_day: int = field(
        default=0,
        metadata=option(
            "Writes of the log a day, to spare flash: commits are stretched to keep it, early ones "
            "(shutdown, under-voltage) count but always happen. 0: no limit."
        ),
    )

    def __post_init__(self) -> None:
        if self.retention_time <= 0:
            raise FieldError("retention_time", "expected more than 0")
        if self.retention_size < 2**20:
            raise FieldError("retention_size", f"expected at least 1MB, got {self.retention_size} bytes")
        if self.max_writes_per_day < 0:
            raise FieldError("max_writes_per_day", f"expected 0 or more, got {self.max_writes_per_day}")


@dataclass(frozen=True, slots=True)
class PathsConfig:
    """Where the collectors find the system, as in containers and tests."""

    procfs: str = field(default="/proc", metadata=option("Mount point of procfs."))
    sysfs: str = field(default="/sys", metadata=option("Mount point of sysfs."))
    rootfs: str = field(default="/", metadata=option("Mount point of the root file system."))
    udev_data: str = field(default="/run/udev/data", metadata=option("udev's data."))

    def flags(self) -> dict[str, str]:
        """The values under the names of their flags."""
        return {
            "path.procfs": self.procfs,
            "path.sysfs": self.sysfs,
            "path.rootfs": self.rootfs,
            "path.udev.data": self.udev_data,
        }


@dataclass(frozen=True, slots=True)
class DiscoveryConfig:
    """How hubs find this agent."""

    mdns: bool = field(default=True, metadata=option("Announce the agent as _bramble._tcp by mDNS."))
    interfaces: tuple[str, ...] = field(
        default=(),
        metadata=option(
            "Network interfaces to announce on. Default: all that are up; loopback serves programs on this machine."
        ),
    )


@dataclass(frozen=True, slots=True)
class EdgeConfig:
    """All of `edge.yml`."""

    sample_interval: Duration = field(
        default=Duration(15_000), metadata=option("How often all collectors are read and stored.")
    )
    commit_interval: Duration = field(
        default=Duration(60_000),
        metadata=option("How often samples are written to disk: the most that a power cut can cost."),
    )
    web: WebConfig = field(default=WebConfig(), metadata=option("The HTTP server."))
    storage: StorageConfig = field(default=StorageConfig(), metadata=option("The agent's log of samples."))
    paths: PathsConfig = field(default=PathsConfig(), metadata=option("Where the collectors find the system."))
    discovery: DiscoveryConfig = field(default=DiscoveryConfig(), metadata=option("How hubs find this agent."))
    log_level: LogLevel = field(default=LogLevel.INFO, metadata=option("One of debug, info, warn, error."))

    def __post_init__(self) -> None:
        if self.sample_interval < MIN_SAMPLE_INTERVAL_MS:
            raise FieldError("sample_interval", f"expected {MIN_SAMPLE_INTERVAL_MS}ms or more")
        if self.commit_interval < 1000:
            raise FieldError("commit_interval", "expected 1s or more")


def storage_path(config: StorageConfig, environ: Mapping[str, str]) -> Path:
    """The configured directory, else the first of systemd's $STATE_DIRECTORY (systemd.exec(5)), else ./edge-data."""
    if config.path is not None:
        return config.path
    state = environ.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(state) if state else Path(FALLBACK_STORAGE)
