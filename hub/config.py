"""The hub's configuration: Prometheus's `prometheus.yml`, and what is ours under the key `bramble`."""

import dataclasses
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from glob import glob
from pathlib import Path
from typing import ClassVar

import yaml

from common.config import Duration, FieldError, Size, load, load_file, option
from common.errors import ConfigError
from common.labels import NAME, Labels, is_legacy_label_name, is_legacy_metric_name
from common.panel.config import DEFAULT_INDICATORS, IndicatorConfig, check_indicators
from common.relabel import RelabelConfig
from common.units import format_duration

DEFAULT_FILE = Path("prometheus.yml")
DEFAULT_AGENT_PORT = 9100
MAX_STATIC_AGENTS = 10_000

_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+(?:%[\w.-]+)?\]|[^\s/:\[\]@?#]+)(?::(?P<port>[0-9]{1,5}))?\Z")
_LATER = "this version of Bramble does not have it yet"


class Scheme(StrEnum):
    """Protocols of scrape targets."""

    HTTP = "http"
    HTTPS = "https"


def parse_address(text: str) -> tuple[str, int | None]:
    """Host (IPv6 without brackets) and port of `HOST[:PORT]`; ValueError says what is wrong."""
    match = _ADDRESS.match(text)
    if match is None:
        what = "without http:// and path" if "/" in text else "as HOST:PORT"
        raise ValueError(f'expected an address {what}, got "{text}"')
    port = int(match["port"]) if match["port"] else None
    if port is not None and not 0 < port < 65536:
        raise ValueError(f'expected a port from 1 to 65535, got "{text}"')
    return match["host"].strip("[]"), port


def join_address(host: str, port: int) -> str:
    """`HOST:PORT`, IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _target(text: str) -> str:
    parse_address(text)
    return text


def _agent(text: str) -> str:
    host, port = parse_address(text)
    return join_address(host, port or DEFAULT_AGENT_PORT)


def _check_labels(key: str, labels: Mapping[str, str], internal: bool = False) -> None:
    for name in labels:
        if not name:
            raise FieldError(key, "a label name is empty")
        if name == NAME and not internal:
            if not is_legacy_metric_name(labels[name]):
                raise FieldError(key, f'expected a metric name, got "{labels[name]}"')
        elif not is_legacy_label_name(name):
            raise FieldError(key, f'"{name}" is not a valid label name')


@dataclass(frozen=True, slots=True)
class GlobalConfig:
    """Defaults of all scrapes and rules; external labels."""

    UNSUPPORTED: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("scrape_protocols", "scrape_failure_log_file", "keep_dropped_targets",
         "metric_name_validation_scheme", "metric_name_escaping_scheme", "extra_scrape_metrics",
         "runtime"),
        _LATER,
    )  # fmt: skip

    scrape_interval: Duration = field(
        default=Duration(60_000), metadata=option("how often to scrape targets that don't say otherwise")
    )
    scrape_timeout: Duration | None = field(
        default=None, metadata=option("how long a scrape may take; 10s, or the interval if that is shorter")
    )
    evaluation_interval: Duration = field(default=Duration(60_000), metadata=option("how often to evaluate rules"))
    rule_query_offset: Duration = field(
        default=Duration(0), metadata=option("how far in the past to evaluate rules of groups without `query_offset`")
    )
    external_labels: dict[str, str] = field(
        default_factory=dict, metadata=option("labels of this hub, for templates and other systems")
    )
    query_log_file: Path | None = field(
        default=None,
        metadata=option("file that gets a JSON line for every query; relative to this file, opened anew by a reload"),
    )
    sample_limit: int = field(default=0, metadata=option("most samples a scrape, 0 for no limit"))
    label_limit: int = field(default=0, metadata=option("most labels a sample, 0 for no limit"))
    label_name_length_limit: int = field(default=0, metadata=option("longest label name in bytes, 0 for no limit"))
    label_value_length_limit: int = field(default=0, metadata=option("longest label value in bytes, 0 for no limit"))
    body_size_limit: Size = field(default=Size(0), metadata=option("largest scrape uncompressed, 0 for 64 MiB"))
    target_limit: int = field(default=0, metadata=option("most targets a job, 0 for no limit"))
    scrape_native_histograms: bool = field(
        default=False, metadata=option("ask targets for protobuf, and keep native histograms")
    )
    always_scrape_classic_histograms: bool = field(
        default=False, metadata=option("keep the classic part of a histogram that is native too, or made so")
    )
    convert_classic_histograms_to_nhcb: bool = field(
        default=False, metadata=option("keep classic histograms as native ones with custom buckets")
    )

    def __post_init__(self) -> None:
        """As Prometheus checks it."""
        for key in ("scrape_interval", "scrape_timeout", "evaluation_interval"):
            if getattr(self, key) is not None and getattr(self, key) <= 0:
                raise FieldError(key, "expected a duration above 0")
        if self.scrape_timeout is not None and self.scrape_timeout > self.scrape_interval:
            raise FieldError("scrape_timeout", "global scrape timeout greater than scrape interval")
        _check_labels("external_labels", self.external_labels)
        _check_limits(self)


def _check_limits(config: object) -> None:
    for key in ("sample_limit", "label_limit", "label_name_length_limit", "label_value_length_limit", "target_limit"):
        value = getattr(config, key)
        if value is not None and value < 0:
            raise FieldError(key, f"expected 0 or more, got {value}")


@dataclass(frozen=True, slots=True)
class StaticConfig:
    """Targets that are listed, with labels of their own."""

    targets: tuple[str, ...] = field(default=(), metadata=option("addresses HOST:PORT", parse=_target))
    labels: dict[str, str] = field(default_factory=dict, metadata=option("labels of these targets"))

    def __post_init__(self) -> None:
        """Label names must be valid."""
        _check_labels("labels", self.labels, internal=True)


@dataclass(frozen=True, slots=True)
class BasicAuth:
    """HTTP basic authentication."""

    username: str = field(default="", metadata=option("user"))
    password: str = field(default="", metadata=option("password (secret; better in password_file)"))
    password_file: Path | None = field(default=None, metadata=option("file with the password, read at each scrape"))

    def __post_init__(self) -> None:
        """One source of the password."""
        if self.password and self.password_file:
            raise FieldError("password_file", "at most one of password and password_file must be configured")


@dataclass(frozen=True, slots=True)
class Authorization:
    """The `Authorization` header of each scrape."""

    type: str = field(default="Bearer", metadata=option("authentication scheme"))
    credentials: str = field(default="", metadata=option("credentials (secret; better in credentials_file)"))
    credentials_file: Path | None = field(
        default=None, metadata=option("file with the credentials, read at each scrape")
    )

    def __post_init__(self) -> None:
        """One source of credentials; Basic has its own key."""
        if self.type.lower() == "basic":
            raise FieldError("type", 'authorization type cannot be set to "basic", use "basic_auth" instead')
        if self.credentials and self.credentials_file:
            raise FieldError("credentials_file", "at most one of credentials and credentials_file must be configured")


_OTHER_DISCOVERY = tuple(
    f"{name}_sd_configs"
    for name in (
        "azure", "consul", "digitalocean", "dns", "docker", "dockerswarm", "ec2", "eureka", "file", "gce", "hetzner",
        "http", "ionos", "kubernetes", "kuma", "lightsail", "linode", "marathon", "nerve", "nomad", "openstack",
        "ovhcloud", "puppetdb", "scaleway", "serverset", "stackit", "triton", "uyuni", "vultr",
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ScrapeConfig:
    """One job: how to scrape its targets. None means the global value."""

    UNSUPPORTED: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(_OTHER_DISCOVERY, f"{_LATER}; list the targets in static_configs"),
        **dict.fromkeys(
            ("oauth2", "tls_config", "proxy_url", "no_proxy",
             "proxy_from_environment", "proxy_connect_header", "http_headers", "enable_http2", "scrape_protocols",
             "fallback_scrape_protocol", "track_timestamps_staleness", "keep_dropped_targets",
             "scrape_failure_log_file", "native_histogram_bucket_limit", "native_histogram_min_bucket_factor",
             "scrape_classic_histograms", "metric_name_validation_scheme", "metric_name_escaping_scheme",
             "extra_scrape_metrics", "bearer_token", "bearer_token_file"),
            _LATER,
        ),
    }  # fmt: skip

    job_name: str = field(metadata=option("the job's name, the label `job` of its series"))
    scrape_interval: Duration | None = field(default=None, metadata=option("how often to scrape"))
    scrape_timeout: Duration | None = field(default=None, metadata=option("how long a scrape may take"))
    metrics_path: str = field(default="/metrics", metadata=option("path of the metrics"))
    scheme: Scheme = field(default=Scheme.HTTP, metadata=option("http or https"))
    params: dict[str, tuple[str, ...]] = field(default_factory=dict, metadata=option("URL parameters"))
    honor_labels: bool = field(
        default=False, metadata=option("where a target's own label collides with ours, keep the target's")
    )
    honor_timestamps: bool = field(default=True, metadata=option("use timestamps that the target gives"))
    follow_redirects: bool = field(default=True, metadata=option("follow HTTP redirects"))
    enable_compression: bool = field(default=True, metadata=option("ask for compressed answers"))
    basic_auth: BasicAuth | None = field(default=None, metadata=option("HTTP basic authentication"))
    authorization: Authorization | None = field(default=None, metadata=option("the Authorization header"))
    sample_limit: int | None = field(default=None, metadata=option("most samples a scrape, 0 for no limit"))
    label_limit: int | None = field(default=None, metadata=option("most labels a sample, 0 for no limit"))
    label_name_length_limit: int | None = field(default=None, metadata=option("longest label name in bytes"))
    label_value_length_limit: int | None = field(default=None, metadata=option("longest label value in bytes"))
    body_size_limit: Size | None = field(default=None, metadata=option("largest scrape uncompressed"))
    target_limit: int | None = field(default=None, metadata=option("most targets of this job"))
    scrape_native_histograms: bool | None = field(default=None, metadata=option("ask for and keep native histograms"))
    always_scrape_classic_histograms: bool | None = field(
        default=None, metadata=option("keep the classic part of a histogram that is native too, or made so")
    )
    convert_classic_histograms_to_nhcb: bool | None = field(
        default=None, metadata=option("keep classic histograms as native ones with custom buckets")
    )
    static_configs: tuple[StaticConfig, ...] = field(default=(), metadata=option("listed targets"))
    relabel_configs: tuple[RelabelConfig, ...] = field(
        default=(), metadata=option("relabelling of targets before they are scraped")
    )
    metric_relabel_configs: tuple[RelabelConfig, ...] = field(
        default=(), metadata=option("relabelling of samples before they are stored")
    )

    def __post_init__(self) -> None:
        """As Prometheus checks it."""
        if not self.job_name:
            raise FieldError("job_name", "job_name is empty")
        for key in ("scrape_interval", "scrape_timeout"):
            if getattr(self, key) == 0:
                raise FieldError(key, "expected a duration above 0")
        if not self.metrics_path.startswith("/"):
            raise FieldError("metrics_path", f'expected a path that begins with /, got "{self.metrics_path}"')
        if self.basic_auth and self.authorization:
            raise FieldError("authorization", "at most one of basic_auth and authorization must be configured")
        _check_limits(self)


@dataclass(frozen=True, slots=True)
class BrambleConfig:
    """The fleet of agents."""

    agents: tuple[str, ...] = field(
        default=(),
        metadata=option(
            f"agents that mDNS doesn't find, as HOST or HOST:PORT (default port {DEFAULT_AGENT_PORT})", parse=_agent
        ),
    )
    discovery: bool = field(default=True, metadata=option("look for agents by mDNS (_bramble._tcp)"))
    pull_interval: Duration = field(default=Duration(15_000), metadata=option("how often to pull from each agent"))
    pull_timeout: Duration | None = field(
        default=None, metadata=option("how long a pull may take; 10s, or the interval if that is shorter")
    )
    pull_concurrency: int = field(default=8, metadata=option("most pulls at a time"))
    pull_size_limit: Size = field(default=Size(8 << 20), metadata=option("most bytes of frames a pull"))
    backlog_rate: Size = field(
        default=Size(4 << 20), metadata=option("most bytes of old frames to fetch from one agent in a pull interval")
    )
    commit_interval: Duration = field(
        default=Duration(30_000),
        metadata=option(
            "how often samples are made durable: what a power cut costs where no agent has them "
            "(a crash of the hub costs 5 s)"
        ),
    )
    lost_after: Duration = field(
        default=Duration(24 * 3_600_000), metadata=option("unreachable for this long means lost")
    )
    slow_query: Duration = field(
        default=Duration(10_000), metadata=option("log queries that take longer as warnings, 0 for none")
    )
    indicators: tuple[IndicatorConfig, ...] = field(
        default=DEFAULT_INDICATORS, metadata=option("lamps and buzzers on this machine's pins")
    )

    def __post_init__(self) -> None:
        """Durations above 0, timeout within the interval."""
        for key in ("pull_interval", "pull_timeout", "lost_after", "commit_interval"):
            if getattr(self, key) is not None and getattr(self, key) <= 0:
                raise FieldError(key, "expected a duration above 0")
        if self.pull_timeout is not None and self.pull_timeout > self.pull_interval:
            raise FieldError("pull_timeout", "expected at most pull_interval")
        for key in ("pull_concurrency", "pull_size_limit", "backlog_rate"):
            if getattr(self, key) <= 0:
                raise FieldError(key, "expected a number above 0")
        if len(self.agents) > MAX_STATIC_AGENTS:
            raise FieldError("agents", f"more than {MAX_STATIC_AGENTS} agents")
        if len(set(self.agents)) < len(self.agents):
            twice = next(a for a in self.agents if self.agents.count(a) > 1)
            raise FieldError("agents", f'"{twice}" is listed twice')
        try:
            check_indicators(self.indicators)
        except ValueError as err:
            raise FieldError("indicators", str(err)) from None

    @property
    def timeout(self) -> Duration:
        """How long a pull may take."""
        return self.pull_timeout or Duration(min(10_000, self.pull_interval))


@dataclass(frozen=True, slots=True)
class HubConfig:
    """The whole file."""

    UNSUPPORTED: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("alerting", "scrape_config_files", "remote_write", "remote_read", "storage", "tracing", "otlp"), _LATER
    )

    global_: GlobalConfig = field(
        default_factory=GlobalConfig, metadata=option("defaults of scrapes and rules", key="global")
    )
    rule_files: tuple[str, ...] = field(
        default=(), metadata=option("rule files, with * and ? as wildcards; relative to this file")
    )
    scrape_configs: tuple[ScrapeConfig, ...] = field(default=(), metadata=option("jobs: exporters to scrape"))
    bramble: BrambleConfig = field(default_factory=BrambleConfig, metadata=option("the fleet of agents"))

    def __post_init__(self) -> None:
        """Job names are unique, timeouts within intervals, targets within limits."""
        names: set[str] = set()
        for job in self.scrape_configs:
            if job.job_name in names:
                raise FieldError("scrape_configs", f'found multiple scrape configs with job name "{job.job_name}"')
            names.add(job.job_name)
            if job.scrape_timeout and job.scrape_timeout > self.interval(job):
                raise FieldError(
                    "scrape_configs",
                    f'scrape timeout greater than scrape interval for scrape config with job name "{job.job_name}"',
                )
        for pattern in self.rule_files:
            if not pattern or "**" in pattern:
                raise FieldError("rule_files", f'invalid rule file path "{pattern}"')

    def interval(self, job: ScrapeConfig) -> Duration:
        """The job's scrape interval."""
        return job.scrape_interval or self.global_.scrape_interval

    def timeout(self, job: ScrapeConfig) -> Duration:
        """The job's scrape timeout, never longer than its interval."""
        return Duration(min(job.scrape_timeout or self.global_.scrape_timeout or 10_000, self.interval(job)))

    def wants(self, job: ScrapeConfig, name: str) -> bool:
        """The job's or the global value of a key that is true or false."""
        own: bool | None = getattr(job, name)
        return bool(getattr(self.global_, name)) if own is None else own

    def limit(self, job: ScrapeConfig, name: str) -> int:
        """The job's or the global value of a `…_limit` key, 0 for none."""
        own = getattr(job, name)
        return int(getattr(self.global_, name) if own is None else own)

    @property
    def external_labels(self) -> Labels:
        """`global.external_labels`."""
        return Labels.of(self.global_.external_labels)


def load_config(path: Path | None) -> HubConfig:
    """The file at `path`, or the built-in defaults; ConfigError lists all that is wrong."""
    return load(HubConfig, "", "built-in defaults") if path is None else load_file(HubConfig, path)


def rule_paths(config: HubConfig, base: Path) -> list[Path]:
    """Existing rule files; a name without wildcard that does not exist is a ConfigError."""
    found: list[Path] = []
    for pattern in config.rule_files:
        full = str(base / pattern)
        names = sorted(glob(full))  # noqa: PTH207 - Path.glob takes no absolute pattern
        if not names and not any(c in pattern for c in "*?["):
            raise ConfigError(f"{full}: rule file not found (rule_files in the configuration names it)")
        found.extend(Path(name) for name in names if Path(name) not in found)
    return found


def query_log_path(config: HubConfig, base: Path) -> Path | None:
    """Where queries are logged, if they are; `base` is the folder of the configuration file."""
    file = config.global_.query_log_file
    return None if file is None or not str(file) or file == Path() else base / file


_SECRETS = frozenset({"password", "credentials"})


def dump(config: HubConfig) -> str:
    """The configuration as YAML, with defaults filled in and secrets masked (`/api/v1/status/config`)."""
    return yaml.safe_dump(dict(_items(config)), sort_keys=False, allow_unicode=True, default_flow_style=False)


def _items(config: object) -> Iterator[tuple[str, object]]:
    hints = typing.get_type_hints(type(config))
    for each in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, each.name)
        if value is None or value in ((), {}, ""):
            continue
        key = each.metadata.get("key") or each.name
        is_duration = Duration in (hints[each.name], *typing.get_args(hints[each.name]))
        if key in _SECRETS:
            yield key, "<secret>"
        else:
            yield key, format_duration(value) if is_duration else _plain(value)


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value):
        return dict(_items(value))
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, Path) else value
