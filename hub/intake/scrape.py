"""Scrapes exporters as Prometheus does: `up` and its companions, stale markers, limits, labels and timestamps."""

import asyncio
import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import ParamSpec, TypeVar

import aiohttp
import numpy as np
from numpy.typing import NDArray
from yarl import URL

from common.clock import Clock
from common.errors import BrambleError, FormatError, LimitError, RemoteError
from common.exposition import protobuf
from common.exposition.created import StartReader
from common.exposition.lines import Exposed, LineParser, Shared
from common.exposition.native import NativeSeries
from common.exposition.nhcb import Converter
from common.exposition.parse import Format
from common.flags import program_version
from common.frames.model import SourceId
from common.labels import NAME, Labels
from common.logs import EventLog
from common.relabel import relabel
from common.sample import MetricMeta, MetricType, Millis
from common.tsdb.store import Store
from common.tsdb.writer import SourceWriter
from hub.discovery.static import JobTargets, Target
from hub.intake.commit import Committer
from hub.intake.direct import Direct
from hub.intake.http import FAILURES, BodyLimitError, describe, gunzip, read_bounded, session
from hub.intake.moments import Moments, offset
from hub.intake.zeros import Started, Zeros
from hub.metrics import IntakeMetrics

P = ParamSpec("P")
T = TypeVar("T")

ACCEPT = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
ACCEPT_NATIVE = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;escaping=allow-utf-8;q=0.6,"
    + ACCEPT
)
"""Where native histograms or start timestamps are wanted; no text format has the former, few exporters' the latter."""
MAX_BODY_BYTES = 64 << 20
"""Where no body_size_limit is set."""
MAX_TIMESTAMPS = 1_000
"""Distinct timestamps that one scrape may give; each is a write of its own."""
TOLERANCE_MS = 2
"""A scrape that starts this little after its time gets the time it was due, which compresses better (as Prometheus)."""
STAMPED_LANE = 1

UP = "up"
DURATION = "scrape_duration_seconds"
SCRAPED = "scrape_samples_scraped"
KEPT = "scrape_samples_post_metric_relabeling"
ADDED = "scrape_series_added"
REPORT_META = (
    MetricMeta(UP, MetricType.GAUGE, "Whether the last scrape or pull was successful (1) or not (0)."),
    MetricMeta(DURATION, MetricType.GAUGE, "Duration of the scrape.", "seconds"),
    MetricMeta(SCRAPED, MetricType.GAUGE, "Samples that the target exposed."),
    MetricMeta(KEPT, MetricType.GAUGE, "Samples left after metric relabelling."),
    MetricMeta(ADDED, MetricType.GAUGE, "Series that were new in this scrape, approximately."),
)
_REPORT = tuple(Labels.of({NAME: name}) for name in (UP, DURATION, SCRAPED, KEPT, ADDED))

_log = EventLog("scrape")


def target_id(target: Target) -> SourceId:
    """The source of a target's series: the same after each restart."""
    text = "\0".join(["scrape", target.job.job_name, target.url, str(target.labels)])
    return SourceId(hashlib.blake2b(text.encode(), digest_size=16).digest())


def rename(exposed: Labels, target: Labels, honor: bool) -> Labels:
    """The row of an exposed series: a name that is also a target label becomes `exported_NAME`, unless honoured."""
    if honor:
        return exposed
    own = dict(target.pairs)
    taken = [name for name, _ in exposed.pairs if name in own and name != NAME]
    if not taken:
        return exposed
    pairs = dict(exposed.pairs)
    for name in taken:
        value = pairs.pop(name)
        new = "exported_" + name
        while new in pairs or new in target or new in exposed:
            new = "exported_" + new
        pairs[new] = value
    return Labels(pairs.items())


def check_labels(labels: Labels, target: Target) -> None:
    """LimitError if a full label set has too many labels or one that is too long."""
    if target.label_limit and len(labels) > target.label_limit:
        raise LimitError(
            f'label_limit exceeded (metric: "{labels.name[:50]}", number of labels: {len(labels)}, '
            f"limit: {target.label_limit})"
        )
    for name, value in labels:
        for text, limit, what in (
            (name, target.label_name_limit, "label_name_length_limit"),
            (value, target.label_value_limit, "label_value_length_limit"),
        ):
            if limit and len(text.encode()) > limit:
                raise LimitError(
                    f'{what} exceeded (metric: "{labels.name[:50]}", label: "{name[:50]}", '
                    f"length: {len(text.encode())}, limit: {limit})"
                )


def row(exposed: Labels, target: Target) -> Labels | None:
    """The row under which an exposed series is stored, or None where metric relabelling drops it.

    Where the store adds no labels of the target, the row has them. FormatError for one that can't be stored.
    """
    renamed = rename(exposed, target.labels, target.job.honor_labels)
    if target.source_labels:
        kept = renamed
    else:
        relabelled = relabel(target.labels.merge(renamed), target.job.metric_relabel_configs)
        if relabelled is None or not relabelled.pairs:
            return None
        kept = relabelled
    if NAME not in kept:
        raise FormatError(f"missing metric name (__name__ label): {exposed}")
    if not kept.pairs[0][0]:
        raise FormatError(f"invalid metric name or label names: {kept}")
    return kept


@dataclass(slots=True)
class _Layout:
    """The rows of the target's label sets (None: dropped), kept while those stay the same.

    `keys` are those that are not dropped and the report's, `keep` the positions of the former (None: all).
    """

    exposed: Sequence[Labels] = ()
    rows: list[Labels | None] = field(default_factory=list)
    kept: int = 0
    known: frozenset[Labels] = frozenset()
    keys: list[Labels] = field(default_factory=list)
    keep: NDArray[np.intp] | None = None
    meta: tuple[MetricMeta, ...] = ()


@dataclass(slots=True)
class TargetState:
    """What is known of one target; `ok` is None before its first scrape. Times ms, duration seconds."""

    target: Target
    ok: bool | None = None
    error: str = ""
    last_scrape: Millis | None = None
    last_duration: float = 0.0
    meta: Sequence[MetricMeta] = ()


@dataclass(frozen=True, slots=True)
class _Fetched:
    """A body as it came, its format, and whether it still is gzip."""

    body: bytes
    form: Format
    packed: bool = False


class TargetScraper:
    """Scrapes one target into one source."""

    def __init__(
        self,
        target: Target,
        store: Store,
        session: aiohttp.ClientSession,
        executor: Executor | None,
        committer: Committer,
        clock: Clock,
        metrics: IntakeMetrics,
        zeros: bool = False,
        moments: Moments | None = None,
        shared: Shared | None = None,
    ) -> None:
        """What blocks (parsing, appending) runs in `executor`; without one on the loop, which then is only for scrapes.

        A scrape is so short that handing it to another thread and back costs as much as the scrape. With `zeros`, there
        are zero samples at start timestamps: see `zeros.py`. `moments` and `shared` are what all targets of a loop have
        in common.
        """
        self.state = TargetState(target)
        self._target = target
        self._session = session
        self._executor = executor
        self._committer = committer
        self._clock = clock
        self._metrics = metrics
        self._moments = moments or Moments(clock)
        self._direct = plain_connection(target.url)
        self._head = b""
        self._parser = LineParser(shared or Shared(), keep_empty=target.job.honor_labels)
        self._converter = Converter(target.classic) if target.convert else None
        self._zeros = Zeros(store) if zeros else None
        self._starts = StartReader()
        self._started_last: tuple[Sequence[Labels], NDArray[np.int64]] = (), np.zeros(0, np.int64)
        self._layout = _Layout()
        source = target_id(target)
        self._writer = SourceWriter(store, source, target.source_labels)
        self._reports = list(_REPORT) if target.source_labels else [target.labels.merge(each) for each in _REPORT]
        # Series with timestamps of their own get no stale markers, as in Prometheus: theirs is another writer.
        self._store, self._source = store, source
        self._stamped: SourceWriter | None = None

    async def run(self) -> None:
        """Scrape on every tick until cancelled."""
        try:
            await self._run()
        finally:
            self.close()

    async def _run(self) -> None:
        interval = self._target.interval
        phase = offset(int.from_bytes(target_id(self._target)[:8], "big"), interval)
        while True:
            now = self._clock.now()
            due = now + (phase - now) % interval
            if due - now < TOLERANCE_MS:
                due += interval
            started = await self._moments.wait(due)
            await self.scrape(Millis(due) if 0 <= started - due <= TOLERANCE_MS else started)

    async def scrape(self, at: Millis) -> None:
        """One scrape, whatever comes of it; its samples are those of the time `at`."""
        state = self.state
        began = self._clock.monotonic()
        error, fetched = "", None
        try:
            fetched = await self._fetch()
        except BrambleError as err:
            error = str(err)
        duration = self._clock.monotonic() - began
        try:
            error = error or await self._blocking(self._store_scrape, at, duration, fetched)
            if fetched is None:
                await self._blocking(self._store_failure, at, duration)
        except BrambleError as err:
            error = str(err)
        except Exception as err:  # noqa: BLE001 - the boundary of a target: a fault met in one stays in it
            _log.error("scrape failed by a fault of the hub", exc=err, url=self._target.url)
            error = f"fault of the hub: {type(err).__name__}: {err}"
        self._committer.touch()
        if error != state.error:
            if error:
                _log.warn("scrape failed", job=self._target.job.job_name, url=self._target.url, reason=error)
            else:
                _log.info("scrapes work again", job=self._target.job.job_name, url=self._target.url)
        state.ok, state.error = not error, error
        state.last_scrape, state.last_duration = at, duration
        self._metrics.scrapes.labels("failure" if error else "success").inc()

    async def stop(self, at: Millis) -> None:
        """The target went away: all its series become stale."""
        self.close()
        await self._blocking(self._writer.stale_all, at)
        self._committer.touch()

    async def _blocking(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._executor is None:
            return function(*args, **kwargs)
        call = partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    def close(self) -> None:
        """Close the kept connection; the next scrape makes a new one."""
        if self._direct is not None:
            self._direct.close()

    async def _fetch(self) -> _Fetched:
        target = self._target
        if target.refusal:
            raise LimitError(target.refusal)
        seconds = target.timeout / 1000
        try:
            async with asyncio.timeout(seconds):
                fetched = None if self._direct is None else await self._ask(self._direct)
                return fetched or await self._ask_session()
        except BodyLimitError:
            self._metrics.exceeded_body.inc()
            raise
        except FAILURES as err:
            if isinstance(err, BrambleError):
                raise
            raise RemoteError(describe(err, target.timeout)) from None

    def _headers(self) -> dict[str, str]:
        target = self._target
        return {
            "Accept": ACCEPT_NATIVE if target.native or self._zeros is not None else ACCEPT,
            "Accept-Encoding": "gzip" if target.job.enable_compression else "identity",
            "User-Agent": f"Bramble/{program_version()}",
            "X-Prometheus-Scrape-Timeout-Seconds": f"{target.timeout / 1000:g}",
            **_credentials(target),
        }

    async def _ask(self, direct: Direct) -> _Fetched | None:
        """What the target answers over its kept connection; None for what only the session can take."""
        limit = self._target.body_limit or MAX_BODY_BYTES
        head = self._head or request_head(self._target.url, self._headers())
        if not _reads_files(self._target):
            self._head = head
        answer = await direct.get(head, limit)
        coding = answer.headers.get("content-encoding", "").lower()
        if 300 <= answer.status < 400 or coding not in ("", "identity", "gzip", "x-gzip"):
            direct.close()
            self._direct = None
            return None
        _check_status(answer.status, answer.reason)
        form = media_type(answer.headers.get("content-type", ""))
        return _Fetched(answer.body, form, coding.endswith("gzip"))

    async def _ask_session(self) -> _Fetched:
        target = self._target
        follow = target.job.follow_redirects
        async with self._session.get(target.url, headers=self._headers(), allow_redirects=follow) as response:
            _check_status(response.status, response.reason or "")
            form = media_type(response.headers.get("Content-Type", ""))
            return _Fetched(await read_bounded(response, target.body_limit or MAX_BODY_BYTES), form)

    def _store_scrape(self, at: Millis, duration: float, fetched: _Fetched | None) -> str:
        """Parse and append; the reason if the scrape can't be taken, whose failure is then what is appended."""
        if fetched is None:
            return ""
        scraped = kept = 0
        try:
            body = fetched.body
            if fetched.packed:
                body = gunzip(body, self._target.body_limit or MAX_BODY_BYTES)
            if fetched.form is Format.PROTOBUF:
                target = self._target
                found = protobuf.expose(body, target.native, target.classic, target.job.honor_labels)
            else:
                found = self._parser.parse(body, fetched.form)
            if self._zeros is not None and fetched.form is Format.OPENMETRICS:
                found = self._starts.read(found)
            if self._converter is not None:
                found = self._converter.convert(found)
            scraped = len(found.values) + len(found.histograms) + found.duplicates
            self._metrics.scrape_duplicates.inc(found.duplicates)
            added = self._arrange(found)
            native = self._native_rows(found)
            if 0 < self._target.sample_limit < self._layout.kept + len(native):
                kept = self._layout.kept + len(native)
                self._metrics.exceeded_samples.inc()
                raise LimitError(f"sample limit exceeded ({kept} samples, limit {self._target.sample_limit})")
            if self._zeros is not None:
                self._zeros.take(list(self._started(at, found, native)))
                if found.starts is not None and (found.starts < at).all():
                    self._started_last = found.labels, found.starts
            self._append(at, duration, found, native, scraped, added)
        except (FormatError, LimitError, RemoteError) as err:
            if isinstance(err, BodyLimitError):
                self._metrics.exceeded_body.inc()
            self._store_failure(at, duration, scraped, kept)
            return str(err)
        return ""

    def _arrange(self, found: Exposed) -> int:
        """Rows for the label sets found, kept while they stay the same; how many are new."""
        layout = self._layout
        if found.labels is layout.exposed:
            return 0
        target = self._target
        rows = [row(labels, target) for labels in found.labels]
        known = frozenset(labels for labels in rows if labels is not None)
        if target.label_limit or target.label_name_limit or target.label_value_limit:
            for labels in known:
                check_labels(target.source_labels.merge(labels), target)
        added = len(known - layout.known)
        kept = [labels for labels in rows if labels is not None]
        keep = None if len(kept) == len(rows) else np.flatnonzero([labels is not None for labels in rows])
        meta = (*found.meta, *REPORT_META)
        self._layout = _Layout(found.labels, rows, len(kept), known, [*kept, *self._reports], keep, meta)
        return added

    def _native_rows(self, found: Exposed) -> list[tuple[Labels, NativeSeries]]:
        """The native histograms that relabelling keeps, with their rows."""
        target = self._target
        out = [(kept, each) for each in found.histograms if (kept := row(each.labels, target)) is not None]
        if target.label_limit or target.label_name_limit or target.label_value_limit:
            for labels, _ in out:
                check_labels(target.source_labels.merge(labels), target)
        return out

    def _started(self, at: Millis, found: Exposed, native: Sequence[tuple[Labels, NativeSeries]]) -> Iterator[Started]:
        """The samples whose start is known."""
        own, target = self._target.job.honor_timestamps, self._target.source_labels
        labels_before, starts_before = self._started_last
        starts = found.starts
        if starts is not None and not (found.labels is labels_before and np.array_equal(starts, starts_before)):
            for index in np.flatnonzero(starts).tolist():
                labels = self._layout.rows[index]
                stamp = found.timestamps[index] if own and found.timestamps is not None else None
                if labels is not None:
                    yield Started(target.merge(labels), int(starts[index]), at if stamp is None else stamp)
        for labels, each in native:
            if each.start:
                time = each.timestamp if own and each.timestamp is not None else at
                yield Started(target.merge(labels), each.start, time, each.histogram)

    def _append(
        self,
        at: Millis,
        duration: float,
        found: Exposed,
        native: Sequence[tuple[Labels, NativeSeries]],
        scraped: int,
        added: int,
    ) -> None:
        layout = self._layout
        kept = layout.kept + len(native)
        values = found.values if layout.keep is None else found.values[layout.keep]
        plain: list[tuple[Labels, float]] | None
        report = self._report(1, duration, scraped, kept, added)
        if found.timestamps is None or not self._target.job.honor_timestamps:
            plain = None
        else:
            plain = []
            stamped: dict[int, list[tuple[Labels, float]]] = {}
            for labels, value, timestamp in zip(layout.rows, found.values.tolist(), found.timestamps, strict=True):
                if labels is None:
                    continue
                (plain if timestamp is None else stamped.setdefault(timestamp, [])).append((labels, value))
            if len(stamped) > MAX_TIMESTAMPS:
                raise LimitError(
                    f"the scrape has {len(stamped)} distinct timestamps, at most {MAX_TIMESTAMPS} are taken"
                )
            self._append_stamped(stamped)
        own = self._target.job.honor_timestamps
        lone = [(labels, each) for labels, each in native if own and each.timestamp is not None]
        if lone:
            # Samples with timestamps of their own get no stale markers.
            labels_of = self._target.source_labels
            self._store.append_histograms(
                [(labels_of.merge(labels), each.timestamp or 0, each.histogram, each.start) for labels, each in lone]
            )
        together = [
            (labels, each.histogram, each.start) for labels, each in native if not own or each.timestamp is None
        ]
        if plain is None and not together:
            self._writer.write_columns(at, layout.keys, np.concatenate((values, report)), layout.meta)
        else:
            if plain is None:
                plain = list(zip(layout.keys[: layout.kept], values.tolist(), strict=True))
            self._writer.write(at, [*plain, *zip(self._reports, report, strict=True)], layout.meta, together)
        self.state.meta = found.meta
        self._metrics.scrape_samples.inc(kept)

    def _append_stamped(self, stamped: Mapping[int, list[tuple[Labels, float]]]) -> None:
        if self._stamped is None:
            self._stamped = SourceWriter(self._store, self._source, self._target.source_labels, lane=STAMPED_LANE)
        for timestamp in sorted(stamped):
            self._stamped.write(Millis(timestamp), stamped[timestamp])
            self._stamped.forget()

    def _store_failure(self, at: Millis, duration: float, scraped: int = 0, kept: int = 0) -> None:
        # One failure costs no other schema: mostly the target is back with the next scrape.
        meta = self._layout.meta if self._layout.known else REPORT_META
        self._layout.known = frozenset()
        self._layout.exposed = ()
        self._writer.write_columns(at, self._reports, np.array(self._report(0, duration, scraped, kept, 0)), meta)

    @staticmethod
    def _report(up: int, duration: float, scraped: int, kept: int, added: int) -> list[float]:
        return [float(up), duration, float(scraped), float(kept), float(added)]


def plain_connection(url: str) -> Direct | None:
    """A connection for the target, if nothing but plain HTTP is asked for."""
    try:
        parsed = URL(url)
    except ValueError:
        return None
    if parsed.scheme != "http" or not parsed.raw_host or parsed.user or parsed.password or parsed.port is None:
        return None
    return Direct(parsed.raw_host, parsed.port)


def request_head(url: str, headers: Mapping[str, str]) -> bytes:
    """A whole GET request; RemoteError for a header field that would break out of its line."""
    for name, value in headers.items():
        if "\r" in value or "\n" in value or "\0" in value:
            raise RemoteError(f"header {name} holds a line break; is it in the credentials file?")
    parsed = URL(url)
    lines = [f"GET {parsed.raw_path_qs} HTTP/1.1", f"Host: {parsed.host_port_subcomponent}"]
    lines += (f"{name}: {value}" for name, value in headers.items())
    return "\r\n".join([*lines, "", ""]).encode()


def _check_status(status: int, reason: str) -> None:
    if status != 200:
        raise RemoteError(f"server returned HTTP status {status} {reason}".rstrip())


def media_type(header: str) -> Format:
    """The format that a Content-Type names; RemoteError for any other, as Prometheus 3 has it."""
    kind = header.partition(";")[0].strip().lower()
    if kind in list(Format):
        return Format(kind)
    if not kind:
        raise RemoteError("non-compliant scrape target sending blank Content-Type; expected text/plain or OpenMetrics")
    raise RemoteError(f'received unsupported Content-Type "{kind[:80]}"; expected text/plain or OpenMetrics')


def _reads_files(target: Target) -> bool:
    """Whether credentials come from files, which may change."""
    basic, own = target.job.basic_auth, target.job.authorization
    return bool((basic and basic.password_file) or (own and own.credentials_file))


def _credentials(target: Target) -> dict[str, str]:
    job = target.job
    try:
        if (basic := job.basic_auth) is not None:
            password = basic.password_file.read_text("utf-8").strip() if basic.password_file else basic.password
            pair = base64.b64encode(f"{basic.username}:{password}".encode()).decode("ascii")
            return {"Authorization": f"Basic {pair}"}
        if (own := job.authorization) is not None:
            secret = own.credentials_file.read_text("utf-8").strip() if own.credentials_file else own.credentials
            return {"Authorization": f"{own.type} {secret}"}
    except (OSError, UnicodeDecodeError) as err:
        raise RemoteError(f"cannot read the credentials: {err}") from None
    return {}


class ScrapeManager:
    """A service that scrapes all targets; `apply` may be called again with others.

    It may run on another loop than the one of its callers: its methods, `run` aside, may be called from any thread.
    """

    name = "scrape"

    def __init__(self, make: Callable[[Target, aiohttp.ClientSession], TargetScraper], clock: Clock) -> None:
        self._make = make
        self._loop: asyncio.AbstractEventLoop | None = None
        self._clock = clock
        self._wanted: dict[str, JobTargets] = {}
        self._running: dict[tuple[str, str, Labels], tuple[TargetScraper, asyncio.Task[None]]] = {}
        self._changed = asyncio.Event()

    def apply(self, targets: Mapping[str, JobTargets]) -> None:
        """Scrape these targets (by job) and no others."""
        self._wanted = dict(targets)
        for job, found in targets.items():
            for problem in found.problems:
                _log.error("a target is left out", job=job, reason=problem)
        if (loop := self._loop) is None:
            self._changed.set()
        else:
            loop.call_soon_threadsafe(self._changed.set)

    def jobs(self) -> list[str]:
        """Names of all jobs, also of those without targets."""
        return list(self._wanted)

    def dropped(self) -> list[tuple[str, Labels]]:
        """Job and discovered labels of targets that relabelling dropped."""
        return [(job, labels) for job, found in self._wanted.items() for labels in found.dropped]

    def states(self) -> list[TargetState]:
        """All targets, by job in the configuration's order."""
        # A list of its own first: /metrics asks from another thread.
        return [scraper.state for scraper, _ in list(self._running.values())]

    async def run(self) -> None:
        """Scrape until cancelled. A target that is no longer wanted gets stale markers."""
        self._loop = asyncio.get_running_loop()
        try:
            async with session() as http:
                await self._keep(http)
        finally:
            self._loop = None

    async def _keep(self, http: aiohttp.ClientSession) -> None:
        self._running.clear()
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                wanted = {t.key: t for found in self._wanted.values() for t in found.active}
                for key in [key for key, (s, _) in self._running.items() if wanted.get(key) != s.state.target]:
                    scraper, task = self._running.pop(key)
                    task.cancel()
                    await asyncio.wait([task])
                    if key not in wanted:
                        await scraper.stop(self._clock.now())
                for key, target in wanted.items():
                    if key not in self._running:
                        scraper = self._make(target, http)
                        self._running[key] = scraper, group.create_task(scraper.run(), name=f"scrape {target.url}")
                self._running = {key: self._running[key] for key in wanted}
                await self._changed.wait()
