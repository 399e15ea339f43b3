"""The hub put together: what is opened in which order, what runs, and how it all ends."""

import asyncio
import dataclasses
import platform
import secrets
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
from prometheus_client import CollectorRegistry

from common.clock import Clock
from common.errors import BrambleError, ConfigError, StorageError
from common.exposition.lines import Shared
from common.flags import program_version
from common.labels import Labels, compile_regex
from common.lane import Lane
from common.listen import bind
from common.logs import EventLog
from common.panel.service import Panel, Pins
from common.promql.engine import Engine, EngineOptions
from common.rules.loader import LoadOptions, load_rule_file
from common.rules.model import Group
from common.sample import Millis
from common.serve import HEAD_SECONDS, Connections, ServeLimits
from common.supervisor import Job, Service, Supervisor, sd_notify
from common.tsdb.options import StoreOptions
from common.tsdb.store import Store
from common.units import format_duration
from hub.api.app import make_app, make_runner
from hub.api.range_cache import RangeCache
from hub.api.runner import RUNNER
from hub.api.state import BODY_MS, ApiState, BuildInfo, HeadInfo, QueryLimits, RuntimeInfo, WebOptions
from hub.config import BrambleConfig, HubConfig, dump, load_config, query_log_path, rule_paths
from hub.discovery.mdns import MdnsBrowser
from hub.discovery.static import Target, targets
from hub.fleet import Fleet
from hub.garbage import Garbage
from hub.intake.commit import Committer
from hub.intake.devices import FILE, FleetKeeper, load_devices
from hub.intake.moments import Moments
from hub.intake.pull import AgentClient, Puller
from hub.intake.remote_write import Receiver
from hub.intake.scrape import ScrapeManager, TargetScraper
from hub.intake.upkeep import Upkeep
from hub.intake.zeros import ZERO_SAMPLES, Zeros
from hub.loop import Pulse
from hub.memory import limit, query_samples, remembered, result_cache, sized
from hub.metrics import IntakeMetrics, add_connections, add_views, make_registry
from hub.notices import RELOAD_FAILED, Notices
from hub.options import Options
from hub.peer_metrics import add_peer_names
from hub.query_log import QueryLog
from hub.rules import Histograms, RowWriter, RuleManager, RuleOptions, evaluator, store_writers
from hub.views import FleetRows, Targets

QUERY_THREADS = 3
"""More make each query slower and none faster (the GIL); fewer let two slow queries keep all others waiting."""
SWITCH_SECONDS = 0.001
"""How soon a thread that computes hands over: with Python's 5 ms, three queries delayed the event loop by 250 ms."""

_log = EventLog("hub")


@dataclass(frozen=True, slots=True)
class Loaded:
    """Configuration and rules, checked."""

    config: HubConfig
    groups: tuple[Group, ...]


def load_all(options: Options) -> Loaded:
    """Read the configuration and all rule files; ConfigError lists everything that is wrong, and nothing is touched."""
    try:
        compile_regex(options.cors_origin)
    except BrambleError as err:
        raise ConfigError(f"--web.cors.origin: {err}") from None
    config = load_config(options.config_file)
    base = options.config_file.parent if options.config_file else Path()
    defaults = LoadOptions(config.global_.evaluation_interval, config.global_.rule_query_offset, options.features)
    groups: list[Group] = []
    errors: list[str] = []
    for path in rule_paths(config, base):
        try:
            groups.extend(load_rule_file(path, defaults))
        except ConfigError as err:
            errors.append(str(err))
    if errors:
        raise ConfigError("\n".join(errors))
    return Loaded(config, tuple(groups))


def needs_restart(old: HubConfig, new: HubConfig) -> list[str]:
    """Keys whose change a running hub doesn't follow."""
    keys = []
    if old.external_labels != new.external_labels:
        keys.append("global.external_labels")
    if old.global_.evaluation_interval != new.global_.evaluation_interval:
        keys.append("global.evaluation_interval (as default step of subqueries)")
    names = (each.name for each in dataclasses.fields(BrambleConfig) if each.name not in ("agents", "slow_query"))
    keys += [f"bramble.{name}" for name in names if getattr(old.bramble, name) != getattr(new.bramble, name)]
    return keys


class _TouchingWriter:
    """A rule's writer that tells the committer."""

    def __init__(self, writer: RowWriter, touch: Callable[[], object]) -> None:
        self._writer = writer
        self._touch = touch

    def write(self, timestamp: Millis, rows: Sequence[tuple[Labels, float]], *, histograms: Histograms = ()) -> object:
        """See RowWriter."""
        self._touch()
        return self._writer.write(timestamp, rows, histograms=histograms)

    def stale_all(self, timestamp: Millis) -> object:
        """See RowWriter."""
        self._touch()
        return self._writer.stale_all(timestamp)


class _Admin:
    """The store as the admin API sees it."""

    def __init__(self, store: Store, cache: RangeCache | None, clock: Clock) -> None:
        self._store = store
        self._cache = cache
        self._clock = clock
        self.delete = store.delete
        self.clean_deletions = store.clean_deletions

    def empty_cache(self) -> None:
        """See hub.api.state.Admin."""
        self._store.empty_cache()
        if self._cache is not None:
            self._cache.clear()

    def snapshot(self) -> str:
        """See hub.api.state.Admin; the name sorts by time and is never used twice."""
        moment = datetime.fromtimestamp(self._clock.now() / 1000, UTC)
        return self._store.snapshot(f"{moment:%Y%m%dT%H%M%SZ}-{secrets.token_hex(8)}").name


class Hub:
    """The program. Making it binds the port and opens the store, so that what prevents a start is known at once."""

    def __init__(self, options: Options, loaded: Loaded, clock: Clock) -> None:
        """StartError or StorageError say what to do; stored data is then as it was."""
        self._options = options
        self._loaded = loaded
        self._clock = clock
        self._started = self._loaded_at = clock.now()
        self._reloaded = True
        """Whether the last attempt to load the configuration succeeded."""
        self._reloading = asyncio.Lock()
        self._notices = Notices(options.notification_subscribers)
        self._follow: Callable[[Loaded], None] = lambda _: None
        self._socket = bind(*options.listen, "Prometheus or another bramble-hub")
        try:
            self._memory = limit(options.memory_limit)
            kept = StoreOptions(retention_ms=options.retention_ms, retention_bytes=options.retention_bytes)
            self._store_options = sized(kept, self._memory)
            self._store = Store.open(options.data, self._store_options, clock)
        except BaseException:
            self._socket.close()
            raise
        self.port: int = self._socket.getsockname()[1]

    async def run(self) -> None:
        """Run until cancelled, then stop in order: intake, rules, lamps, store."""
        sys.setswitchinterval(SWITCH_SECONDS)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._close_store)
            stack.callback(self._socket.close)
            registry = make_registry()
            self._query_log = QueryLog(self._clock, registry)
            stack.callback(self._query_log.close)
            self._query_log.follow(self._query_log_path(self._loaded))
            services = await self._compose(stack, registry)
            await self._supervisor.run(services)

    async def _close_store(self) -> None:
        try:
            await asyncio.to_thread(self._store.close)
        except StorageError as err:
            _log.error("the last samples could not be written", error=err)
            raise
        _log.info("stopped")

    def _lane(self, stack: AsyncExitStack, name: str, threads: int) -> ThreadPoolExecutor:
        """Threads for one kind of work, so that none waits behind another kind."""
        lane = ThreadPoolExecutor(threads, thread_name_prefix=name)
        stack.callback(lane.shutdown, wait=True, cancel_futures=True)
        return lane

    async def _compose(self, stack: AsyncExitStack, registry: CollectorRegistry) -> list[Service]:
        options, config, clock, store = self._options, self._loaded.config, self._clock, self._store
        bramble = config.bramble
        self._supervisor = supervisor = Supervisor(clock)
        beat = supervisor.heartbeats.beat
        intake = self._lane(stack, "intake", 1)
        committing = self._lane(stack, "commit", 1)
        ruling = self._lane(stack, "rules", 2)
        querying = self._lane(stack, "query", min(options.max_concurrency, QUERY_THREADS))

        metrics = IntakeMetrics(registry)
        committer = Committer(store, committing, clock, beat, bramble.commit_interval / 1000)
        fleet = Fleet(bramble.pull_interval, bramble.lost_after)
        fleet.restore(load_devices(options.data / FILE))
        fleet.set_static(bramble.agents)
        keeper = FleetKeeper(fleet, store, committer, intake, clock, options.data / FILE, beat)
        stack.push_async_callback(self._save_fleet, keeper)
        client = AgentClient(bramble.timeout, bramble.pull_size_limit)
        stack.callback(client.close)
        puller = Puller(
            fleet, store, client, committer, intake, bramble, clock, metrics, remember=keeper.remember, beat=beat
        )
        browser = MdnsBrowser(puller.seen, clock) if bramble.discovery and options.mdns else None

        zeros = ZERO_SAMPLES in options.features

        def make_scraper(target: Target, own: aiohttp.ClientSession) -> TargetScraper:
            return TargetScraper(target, store, own, None, committer, clock, metrics, zeros, moments, shared)

        moments, shared = Moments(clock), Shared()
        scrapes = ScrapeManager(make_scraper, clock)
        scrapes.apply(targets(config))

        engine = Engine(
            EngineOptions(
                lookback_ms=options.lookback_ms,
                max_samples=query_samples(options.max_samples, self._memory),
                timeout=options.query_timeout_ms / 1000,
                default_step_ms=config.global_.evaluation_interval,
                features=options.features,
            ),
            clock,
        )
        rules = self._rules(engine, committer, ruling, registry)
        panel = self._panel(stack, rules)
        fleet_rows = FleetRows(fleet, clock)
        add_views(
            registry,
            store=store.stats,
            fleet=fleet_rows.by_state,
            restarts=lambda: dict(supervisor.restarts),
            config=lambda: (self._reloaded, self._loaded_at / 1000),
        )
        self._follow = lambda loaded: self._apply(loaded, puller, scrapes, rules)
        views = Targets(fleet, scrapes, browser, store, clock, bramble.timeout)
        add_peer_names(
            registry,
            store=store.stats,
            pools=lambda: (views.pools(), [target.scrape_pool for target in views.active()]),
            subscribers=lambda: self._notices.listeners,
            retention_ms=options.retention_ms,
        )
        size = result_cache(self._memory) if options.result_cache_bytes is None else options.result_cache_bytes
        cache = RangeCache(store.changes, size, registry) if size else None
        state = ApiState(
            clock=clock,
            querier=store,
            executor=querying,
            engine=engine,
            rules=rules,
            targets=views,
            fleet=fleet_rows,
            panel=panel,
            build=BuildInfo(version=program_version()),
            runtime=self._runtime,
            config_text=lambda: dump(self._loaded.config),
            flags=options.as_flags,
            ready=lambda: "",
            registry=registry,
            limits=QueryLimits(
                timeout_ms=options.query_timeout_ms,
                lookback_ms=options.lookback_ms,
                max_samples=query_samples(options.max_samples, self._memory),
                max_concurrency=options.max_concurrency,
                body_ms=min(BODY_MS, options.read_timeout_ms),
            ),
            web=WebOptions(
                external_url=self._options.url(self.port),
                port=self.port,
                route_prefix=options.prefix,
                cors_origin=options.cors_origin,
                page_title=options.page_title,
            ),
            external_labels=config.external_labels,
            head=self._head,
            busy=store.busy,
            receiver=self._receiver(stack, committing, registry),
            admin=_Admin(store, cache, clock) if options.admin else None,
            lifecycle=self if options.lifecycle else None,
            query_log=self._query_log,
            slow_query_ms=lambda: self._loaded.config.bramble.slow_query,
            notices=self._notices,
            cache=cache,
        )
        server, busy = await self._serve(stack, state)
        services: list[Service] = [
            server,
            committer,
            Upkeep(store, self._lane(stack, "upkeep", 1), clock),
            keeper,
            puller,
            Lane(scrapes.name, scrapes.run),
            rules,
            panel,
            Job("watchdog", supervisor.watchdog),
            Pulse(clock, registry, beat),
            Garbage(clock, busy),
            Job("reload", self._reload_on_hangup),
        ]
        return services if browser is None else [*services, browser]

    def _rules(
        self, engine: Engine, committer: Committer, executor: Executor, registry: CollectorRegistry
    ) -> RuleManager:
        writer_of = store_writers(self._store)
        manager = RuleManager(
            evaluator(engine, self._store, self._query_log, self._clock),
            self._store,
            lambda key: _TouchingWriter(writer_of(key), committer.touch),
            self._clock,
            executor,
            registry,
            RuleOptions(external_labels=self._loaded.config.external_labels, external_url=self._options.url(self.port)),
        )
        manager.apply(self._loaded.groups)
        return manager

    def _panel(self, stack: AsyncExitStack, rules: RuleManager) -> Panel:
        indicators = self._loaded.config.bramble.indicators
        outputs = []
        if indicators:
            try:
                pins = Pins.open(self._options.data)
                stack.callback(pins.close)
                outputs = pins.outputs(indicators)
            except BrambleError as err:
                _log.error("no indicators", error=err)
        panel = Panel(outputs, rules.firing, self._clock)
        stack.callback(panel.close)
        return panel

    async def _serve(self, stack: AsyncExitStack, state: ApiState) -> tuple[Service, Callable[[], bool]]:
        """The service that takes connections, which until it runs wait in the kernel, and whether queries run."""
        idle = self._options.read_timeout_ms / 1000
        limits = ServeLimits(min(HEAD_SECONDS, idle), idle, self._options.max_connections)
        connections = Connections(limits, self._clock)
        add_connections(state.registry, connections)
        app = make_app(state, connections)
        runner = make_runner(app)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        http = runner.server
        assert http is not None
        sd_notify("READY=1")
        _log.info(
            "server is ready to receive web requests",
            address=self._options.as_flags()["web.listen-address"],
            port=self.port,
            version=program_version(),
            config=self._options.config_file or "built-in defaults",
            data=self._options.data,
        )
        return Job("http", lambda: connections.run(self._socket, http)), lambda: app[RUNNER].active > 0

    async def _save_fleet(self, keeper: FleetKeeper) -> None:
        try:
            await asyncio.to_thread(keeper.save)
        except OSError as err:
            _log.error("the list of known agents could not be saved", error=err)

    async def _reload_on_hangup(self) -> None:
        """Load the configuration again on each SIGHUP."""
        asked = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, asked.set)
        try:
            while True:
                await asked.wait()
                asked.clear()
                await self.reload()
        finally:
            loop.remove_signal_handler(signal.SIGHUP)

    async def reload(self) -> str:
        """Load the configuration again; one with errors changes nothing, and they are the result."""
        async with self._reloading:
            try:
                loaded = await asyncio.to_thread(load_all, self._options)
                await asyncio.to_thread(self._query_log.follow, self._query_log_path(loaded))
            except (ConfigError, StorageError) as err:
                self._reloaded = False
                self._notices.add(RELOAD_FAILED, self._clock.now())
                for line in str(err).splitlines():
                    _log.error("configuration not reloaded, the old one stays", error=line)
                return str(err)
            for key in needs_restart(self._loaded.config, loaded.config):
                _log.warn("this change takes effect at the next start", key=key)
            self._loaded = loaded
            self._reloaded, self._loaded_at = True, self._clock.now()
            self._notices.remove(RELOAD_FAILED)
            self._follow(loaded)
            _log.info("configuration reloaded", config=self._options.config_file or "built-in defaults")
            return ""

    def _query_log_path(self, loaded: Loaded) -> Path | None:
        file = self._options.config_file
        return query_log_path(loaded.config, file.parent if file else Path())

    def _apply(self, loaded: Loaded, puller: Puller, scrapes: ScrapeManager, rules: RuleManager) -> None:
        puller.set_static(loaded.config.bramble.agents)
        scrapes.apply(targets(loaded.config))
        rules.apply(loaded.groups)

    def quit(self) -> None:
        """Stop as by SIGTERM."""
        signal.raise_signal(signal.SIGTERM)

    def _receiver(self, stack: AsyncExitStack, committing: Executor, registry: CollectorRegistry) -> Receiver | None:
        if not self._options.remote_write_receiver:
            return None
        lane = self._lane(stack, "remote-write", 1)
        many = remembered(self._memory)
        zeros = Zeros(self._store) if ZERO_SAMPLES in self._options.features else None
        return Receiver(self._store, self._store_options, lane, self._clock, registry, committing, many, zeros)

    def _head(self) -> HeadInfo:
        stats = self._store.stats()
        return HeadInfo(stats.chunks, stats.first, stats.last)

    def _runtime(self) -> RuntimeInfo:
        return RuntimeInfo(
            start_time=self._started,
            cwd=str(Path.cwd()),
            hostname=platform.node(),
            config_reloaded=self._reloaded,
            last_config_time=self._loaded_at,
            retention=format_duration(self._options.retention_ms) if self._options.retention_ms else "",
            corruptions=self._store.stats().loss.damaged_records,
        )
