"""What the HTTP API and the page read: plain views, filled by the composition root (`hub/app.py`)."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from prometheus_client import CollectorRegistry

from common.clock import Clock
from common.labels import EMPTY, Labels, Matcher
from common.panel.service import Lamp
from common.promql.engine import Engine
from common.rules.model import GroupStatus
from common.sample import MetricMeta, Millis
from common.tsdb.querier import Querier
from hub.api.range_cache import RangeCache
from hub.intake.remote_write import Receiver
from hub.notices import Notices
from hub.query_log import QueryLog


class Health(StrEnum):
    """Outcome of the last scrape, pull or rule evaluation; target health is spelled up/down, a rule's ok/err."""

    UNKNOWN = "unknown"
    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class ActiveTarget:
    """One scraped target or federated agent, as `/api/v1/targets` shows it; times ms, duration seconds."""

    discovered_labels: Mapping[str, str]
    labels: Labels
    scrape_pool: str
    scrape_url: str
    health: Health
    interval_ms: int
    timeout_ms: int
    last_error: str = ""
    last_scrape: Millis | None = None
    last_duration: float = 0.0


@dataclass(frozen=True, slots=True)
class DroppedTarget:
    """A discovered target that relabelling dropped."""

    discovered_labels: Mapping[str, str]
    scrape_pool: str


class TargetsView(Protocol):
    """Targets of all scrape pools; federated agents form the pool `bramble`."""

    def active(self) -> Sequence[ActiveTarget]:
        """Targets that are scraped or pulled now."""
        ...

    def dropped(self) -> Sequence[DroppedTarget]:
        """Targets that relabelling dropped, bounded."""
        ...

    def pools(self) -> Sequence[str]:
        """Names of the scrape pools, also of those without targets."""
        ...

    def metadata(self, labels: Labels) -> Sequence[MetricMeta]:
        """Metadata that the target with these labels exposed last."""
        ...


@dataclass(frozen=True, slots=True)
class FleetRow:
    """One agent of the fleet. `state` is online, late, unreachable or lost; `reason` says why in a sentence.

    `last_sample` is the newest sample's wall time in ms, `lag_ms` how far behind it is, `pending` how many frames are
    known to be on the agent and not here, `gone` how many can never come.
    """

    source: str
    instance: str
    url: str
    state: str
    reason: str = ""
    labels: Labels = field(default_factory=Labels)
    discovered_by: str = ""
    last_sample: Millis | None = None
    last_contact: Millis | None = None
    lag_ms: int | None = None
    series: int = 0
    samples_per_second: float = 0.0
    pending: int = 0
    gone: int = 0


class FleetView(Protocol):
    """The device registry."""

    def rows(self) -> Sequence[FleetRow]:
        """All known agents, also lost ones, sorted by instance."""
        ...


class RulesView(Protocol):
    """Rule groups and their alerts (`hub.rules.RuleManager`)."""

    def groups(self) -> Sequence[GroupStatus]:
        """All groups by file and name, with the state of their last evaluation."""
        ...


class PanelView(Protocol):
    """The hub's own indicators."""

    def lamps(self) -> Sequence[Lamp]:
        """All configured indicators, in the configuration's order."""
        ...


class Admin(Protocol):
    """What the admin API does to the stored data; all methods block, may take long, and raise StorageError."""

    def delete(self, matchers: Sequence[Matcher], start: int, end: int) -> None:
        """Delete samples with start <= timestamp <= end (ms) of series that satisfy every matcher."""
        ...

    def clean_deletions(self) -> None:
        """Take what was deleted out of the files."""
        ...

    def snapshot(self) -> str:
        """Copy the stored data; the copy's name."""
        ...

    def empty_cache(self) -> None:
        """Forget decoded data; answers at once."""
        ...


class Lifecycle(Protocol):
    """The program itself."""

    async def reload(self) -> str:
        """Load the configuration again; why the old one stays, or an empty text."""
        ...

    def quit(self) -> None:
        """Stop in order, soon."""
        ...


@dataclass(frozen=True, slots=True)
class BuildInfo:
    """`/api/v1/status/buildinfo`; `version` is semver, since Grafana parses it."""

    version: str
    revision: str = ""
    branch: str = ""
    build_user: str = ""
    build_date: str = ""


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """`/api/v1/status/runtimeinfo` as far as it has a meaning here; `retention` as text, e.g. `15d`."""

    start_time: Millis
    cwd: str
    hostname: str
    config_reloaded: bool
    last_config_time: Millis
    retention: str
    corruptions: int = 0


@dataclass(frozen=True, slots=True)
class HeadInfo:
    """What storage holds in memory: chunks, first and last timestamp (ms, None if there is none)."""

    chunks: int = 0
    first: int | None = None
    last: int | None = None


BODY_MS = 30_000
"""How long a client may take to send a body, unless --web.read-timeout is shorter."""


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """Limits of queries: ms where it says so; `max_points` is Prometheus's 11,000 per series."""

    timeout_ms: int = 120_000
    lookback_ms: int = 300_000
    max_samples: int = 50_000_000
    max_concurrency: int = 20
    max_points: int = 11_000
    max_body: int = 4 * 1024 * 1024
    body_ms: int = BODY_MS


@dataclass(frozen=True, slots=True)
class WebOptions:
    """`--web.external-url`, `--web.route-prefix`, `--web.cors.origin`, `--web.page-title`, and the port in use."""

    external_url: str = ""
    port: int = 0
    route_prefix: str = "/"
    cors_origin: str = ".*"
    page_title: str = "Bramble"


@dataclass(frozen=True, slots=True)
class ApiState:
    """Everything `make_app` needs. All views answer at once from memory and are called on the event loop.

    `executor` runs queries; it should have `limits.max_concurrency` threads or fewer. `ready` answers an empty text, or
    why the hub can't serve yet. `config_text` is the running configuration as YAML with secrets masked. Without
    a `receiver` remote write is off.
    """

    clock: Clock
    querier: Querier
    executor: Executor
    engine: Engine
    rules: RulesView
    targets: TargetsView
    fleet: FleetView
    panel: PanelView
    build: BuildInfo
    runtime: Callable[[], RuntimeInfo]
    config_text: Callable[[], str]
    flags: Callable[[], Mapping[str, str]]
    ready: Callable[[], str]
    registry: CollectorRegistry
    limits: QueryLimits = field(default_factory=QueryLimits)
    web: WebOptions = field(default_factory=WebOptions)
    external_labels: Labels = EMPTY
    head: Callable[[], HeadInfo] = HeadInfo
    busy: Callable[[], bool] = lambda: False
    """Whether who reads the store now would have to wait."""
    receiver: Receiver | None = None
    admin: Admin | None = None
    """None without `--web.enable-admin-api`."""
    lifecycle: Lifecycle | None = None
    """None without `--web.enable-lifecycle`."""
    query_log: QueryLog | None = None
    slow_query_ms: Callable[[], int] = lambda: 10_000
    """Queries that take longer are logged; 0 for none."""
    notices: Notices = field(default_factory=Notices)
    cache: RangeCache | None = None
    """None with `--query.result-cache-size=0`."""
