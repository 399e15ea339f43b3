"""Scraping as Prometheus does it: what ends up stored for what a target answers."""

import asyncio
import gzip
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from prometheus_client import CollectorRegistry

from common.config import load
from common.exposition.lines import Shared
from common.exposition.protobuf_encode import exposition
from common.histogram import FloatHistogram, ResetHint, side
from common.labels import Labels, Matcher, MatchType
from common.sample import Millis
from common.testing import FakeClock, settle
from common.tsdb.options import StoreOptions
from common.tsdb.store import Store
from common.wire import write_bytes, write_double, write_int, write_text, write_varint
from hub.api.escaping import Escaping, negotiate
from hub.config import HubConfig
from hub.discovery.static import JobTargets, Target, targets
from hub.intake.commit import Committer
from hub.intake.http import session
from hub.intake.moments import Moments, offset
from hub.intake.scrape import ScrapeManager, TargetScraper, rename, target_id
from hub.metrics import IntakeMetrics

TEXT = "text/plain; version=0.0.4; charset=utf-8"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
REPORT = {"up", "scrape_duration_seconds", "scrape_samples_scraped", "scrape_samples_post_metric_relabeling"}
REPORT |= {"scrape_series_added"}


@dataclass
class Exporter:
    """A target whose next answer the test sets."""

    body: str = "a 1\n"
    kind: str = TEXT
    status: int = 200
    handler: Handler | None = None
    requests: list[web.Request] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        if self.handler is not None:
            return await self.handler(request)
        return web.Response(body=self.body.encode(), status=self.status, headers={"Content-Type": self.kind})


@dataclass
class Rig:
    """One exporter, a real store, and a scraper of it made from configuration text."""

    store: Store
    clock: FakeClock
    stack: AsyncExitStack
    exporter: Exporter
    address: str
    make: Callable[..., TargetScraper]
    lane: ThreadPoolExecutor
    now: int = 1_000_000

    def target(self, options: str = "") -> Target:
        text = f"scrape_configs: [{{job_name: j, static_configs: [{{targets: ['{self.address}']}}], {options}}}]"
        (found,) = targets(load(HubConfig, text, "x")).values()
        return found.active[0]

    def scraper(self, options: str = "", zeros: bool = False) -> TargetScraper:
        return self.make(self.target(options), zeros)

    async def scrape(self, scraper: TargetScraper, body: str | None = None) -> str:
        """Scrape once, 15 s after the last time; the error."""
        if body is not None:
            self.exporter.body = body
        self.now += 15_000
        await scraper.scrape(Millis(self.now))
        return scraper.state.error

    def stored(self, name: str) -> list[tuple[int, float | None, dict[str, str]]]:
        """(scrapes ago, value or None for stale, labels but job and instance) of a metric."""
        found: list[tuple[int, float | None, dict[str, str]]] = []
        for batch in self.store.select([Matcher(MatchType.EQ, "__name__", name)], Millis(0), Millis(2**60)):
            for row, labels in enumerate(batch.labels):
                line = batch.timelines[batch.timeline_of[row]]
                rest = {k: v for k, v in labels if k not in ("__name__", "job", "instance")}
                for slot, at in enumerate(line.timestamps.tolist()):
                    stale = line.stale is not None and bool(line.stale[slot])
                    found.append(((self.now - at) // 15_000, None if stale else float(batch.values[row, slot]), rest))
        return sorted(found, key=lambda item: (-item[0], str(item[2])))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the loop and the store's lane work until `condition` holds."""
        for _ in range(2_000):
            if condition():
                return
            await asyncio.wrap_future(self.lane.submit(lambda: None))
            await settle()
        raise AssertionError("it never came true")

    def latest(self, name: str) -> float | None:
        """The newest value."""
        return self.stored(name)[-1][1]


@pytest_asyncio.fixture
async def rig(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Rig]:
    async with AsyncExitStack() as stack:
        store = Store.open(tmp_path, StoreOptions(), clock)
        stack.callback(store.close)
        lane = stack.enter_context(ThreadPoolExecutor(1))
        http = await stack.enter_async_context(session())
        committer = Committer(store, lane, clock)
        metrics = IntakeMetrics(CollectorRegistry())
        exporter = Exporter()
        app = web.Application()
        app.router.add_get("/metrics", exporter.answer)
        server = await stack.enter_async_context(TestServer(app, host="127.0.0.1"))

        moments, shared = Moments(clock), Shared()

        def make(target: Target, zeros: bool = False) -> TargetScraper:
            return TargetScraper(target, store, http, lane, committer, clock, metrics, zeros, moments, shared)

        yield Rig(store, clock, stack, exporter, f"127.0.0.1:{server.port}", make, lane)


async def test_a_scrape_stores_samples_and_its_report(rig: Rig) -> None:
    assert await rig.scrape(rig.scraper(), 'a{x="1"} 1\na{x="2"} 2\nb 3\n') == ""
    assert rig.stored("a") == [(0, 1.0, {"x": "1"}), (0, 2.0, {"x": "2"})]
    assert {name: rig.latest(name) for name in REPORT - {"scrape_duration_seconds"}} == {
        "up": 1.0,
        "scrape_samples_scraped": 3.0,
        "scrape_samples_post_metric_relabeling": 3.0,
        "scrape_series_added": 3.0,
    }


async def test_series_carry_job_and_instance(rig: Rig) -> None:
    await rig.scrape(rig.scraper())
    (labels,) = rig.store.series([[Matcher(MatchType.EQ, "__name__", "a")]], Millis(0), Millis(2**60))
    assert labels == Labels.of(__name__="a", job="j", instance=rig.address)


async def test_a_vanished_series_becomes_stale(rig: Rig) -> None:
    scraper = rig.scraper()
    await rig.scrape(scraper, "a 1\nb 1\n")
    await rig.scrape(scraper, "a 2\n")
    assert rig.stored("b") == [(1, 1.0, {}), (0, None, {})]
    assert rig.latest("scrape_series_added") == 0.0


async def test_a_failed_scrape_makes_all_stale_but_its_report(rig: Rig) -> None:
    scraper = rig.scraper()
    await rig.scrape(scraper, "a 1\n")
    rig.exporter.status = 500
    assert await rig.scrape(scraper) == "server returned HTTP status 500 Internal Server Error"
    assert rig.stored("a") == [(1, 1.0, {}), (0, None, {})]
    assert [value for _, value, _ in rig.stored("up")] == [1.0, 0.0]
    rig.exporter.status = 200
    assert await rig.scrape(scraper) == ""
    assert rig.latest("a") == 1.0


async def test_a_removed_target_becomes_stale_altogether(rig: Rig) -> None:
    scraper = rig.scraper()
    await rig.scrape(scraper, "a 1\n")
    await scraper.stop(Millis(rig.now + 15_000))
    rig.now += 15_000
    assert rig.latest("a") is None
    assert rig.latest("up") is None


async def test_broken_text_fails_the_whole_scrape(rig: Rig) -> None:
    scraper = rig.scraper()
    error = await rig.scrape(scraper, "a 1\nb =\n")
    assert error.startswith("strconv.ParseFloat")
    assert rig.stored("a") == []
    assert rig.latest("up") == 0.0


async def test_labels_that_collide_move_aside(rig: Rig) -> None:
    await rig.scrape(rig.scraper(), 'a{job="theirs",exported_job="x"} 1\n')
    assert rig.stored("a") == [(0, 1.0, {"exported_exported_job": "theirs", "exported_job": "x"})]


async def test_honored_labels_stay(rig: Rig) -> None:
    await rig.scrape(rig.scraper("honor_labels: true"), 'a{job="theirs"} 1\n')
    (labels,) = rig.store.series([[Matcher(MatchType.EQ, "__name__", "a")]], Millis(0), Millis(2**60))
    assert labels.get("job") == "theirs"
    assert labels.get("instance") == rig.address


@pytest.mark.parametrize("more", ["", ", scrape_native_histograms: true", ", convert_classic_histograms_to_nhcb: true"])
async def test_an_honored_label_without_a_value_keeps_the_target_from_having_it(rig: Rig, more: str) -> None:
    # So /federate says of a series that it has no instance.
    scraper = rig.scraper(f"honor_labels: true{more}")
    body = 'a{instance=""} 1\n# TYPE h histogram\nh_bucket{le="+Inf",instance=""} 1\nh_count{instance=""} 1\nb 1\n'
    for _ in range(2):
        await rig.scrape(scraper, body)
    shown = exposition([("c", [("instance", "")], rig.now, 1.0), ("b", [], rig.now, 1.0)])

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=b"".join(shown), headers={"Content-Type": PROTOBUF})

    rig.exporter.handler = answer
    await rig.scrape(scraper)
    found = rig.store.series([[Matcher(MatchType.RE, "__name__", "[abch].*")]], Millis(0), Millis(2**60))
    assert {each.name: each.get("instance") for each in found} == {
        **dict.fromkeys(["h"] if "nhcb" in more else ["h_bucket", "h_count"], ""),
        "a": "",
        "b": rig.address,
        "c": "",
    }
    assert {each.get("job") for each in found} == {"j"}


async def test_without_honoring_a_label_without_a_value_is_the_targets(rig: Rig) -> None:
    await rig.scrape(rig.scraper(), 'a{instance=""} 1\n')
    (labels,) = rig.store.series([[Matcher(MatchType.EQ, "__name__", "a")]], Millis(0), Millis(2**60))
    assert labels.get("instance") == rig.address


def test_renaming_leaves_what_does_not_collide() -> None:
    exposed = Labels.of(__name__="a", x="1")
    assert rename(exposed, Labels.of(job="j"), False) is exposed


async def test_timestamps_of_the_target_are_honoured_and_get_no_stale_marker(rig: Rig) -> None:
    scraper = rig.scraper()
    await rig.scrape(scraper, f"a 1 {rig.now}\nb 2\n")
    await rig.scrape(scraper, "b 3\n")
    assert rig.stored("a") == [(2, 1.0, {})]
    assert rig.stored("b") == [(1, 2.0, {}), (0, 3.0, {})]


async def test_timestamps_can_be_ignored(rig: Rig) -> None:
    await rig.scrape(rig.scraper("honor_timestamps: false"), "a 1 5\n")
    assert rig.stored("a") == [(0, 1.0, {})]


async def test_openmetrics_is_parsed_by_its_content_type(rig: Rig) -> None:
    rig.exporter.kind = "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert await rig.scrape(rig.scraper(), '# TYPE a counter\na_total 1 # {t="x"} 1\n# EOF\n') == ""
    assert rig.latest("a_total") == 1.0
    assert await rig.scrape(rig.scraper(), "a 1\n") == "data does not end with # EOF"


async def test_protobuf_is_told_by_its_content_type_without_parameters(rig: Rig) -> None:
    async def answer(request: web.Request) -> web.Response:
        body = b"".join(exposition([("a", [], rig.now, 1.0)]))
        return web.Response(body=body, headers={"Content-Type": "application/vnd.google.protobuf"})

    rig.exporter.handler = answer
    assert await rig.scrape(rig.scraper()) == ""
    assert rig.latest("a") == 1.0


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("text/html", 'received unsupported Content-Type "text/html"; expected text/plain or OpenMetrics'),
        ("", "non-compliant scrape target sending blank Content-Type"),
    ],
)
async def test_what_is_no_exposition_is_refused(rig: Rig, kind: str, reason: str) -> None:
    rig.exporter.kind = kind
    assert (await rig.scrape(rig.scraper())).startswith(reason)


@pytest.mark.parametrize(
    ("options", "body", "reason"),
    [
        ("sample_limit: 1", "a 1\nb 1\n", "sample limit exceeded (2 samples, limit 1)"),
        ("label_limit: 2", "a 1\n", 'label_limit exceeded (metric: "a", number of labels: 3, limit: 2)'),
        ("label_name_length_limit: 8", 'a{too_long_name="1"} 1\n', "label_name_length_limit exceeded"),
        ("label_value_length_limit: 30", 'a{x="' + "v" * 31 + '"} 1\n', "label_value_length_limit exceeded"),
        ("body_size_limit: 10B", "a 1\n" * 3, "body size limit exceeded: 12 B announced, at most 10 B"),
    ],
)
async def test_a_limit_fails_the_scrape_and_is_named(rig: Rig, options: str, body: str, reason: str) -> None:
    assert (await rig.scrape(rig.scraper(options), body)).startswith(reason)
    assert rig.stored("a") == []
    assert rig.latest("up") == 0.0


@pytest.mark.parametrize(
    ("body", "options", "reason"),
    [
        ('{""} 1\n', "", "missing metric name (__name__ label): {}"),
        ('a{""="x"} 1\n', "", 'invalid metric name or label names: a{""="x"}'),
        (
            "a 1\n",
            "metric_relabel_configs: [{regex: __name__, action: labeldrop}]",
            "missing metric name (__name__ label): a",
        ),
    ],
)
async def test_a_series_without_name_or_with_a_nameless_label_fails_the_scrape(
    rig: Rig, body: str, options: str, reason: str
) -> None:
    assert await rig.scrape(rig.scraper(options), body) == reason
    assert rig.latest("up") == 0.0


async def test_redirects_without_end_are_named(rig: Rig) -> None:
    async def again(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("/metrics")

    rig.exporter.handler = again
    assert await rig.scrape(rig.scraper()) == "stopped after 10 redirects"


async def test_how_many_samples_were_too_many_is_told(rig: Rig) -> None:
    body = "a 1\nb 1\nc 1\n"
    drop = "metric_relabel_configs: [{source_labels: [__name__], regex: c, action: drop}]"
    await rig.scrape(rig.scraper(f"sample_limit: 1, {drop}"), body)
    assert (rig.latest("scrape_samples_scraped"), rig.latest("scrape_samples_post_metric_relabeling")) == (3.0, 2.0)


async def test_a_target_that_is_refused_is_not_asked_and_is_down(rig: Rig) -> None:
    scraper = rig.make(replace(rig.target(), refusal="target_limit exceeded"))
    assert await rig.scrape(scraper) == "target_limit exceeded"
    assert rig.latest("up") == 0.0
    assert rig.exporter.requests == []


async def test_a_compressed_body_is_bounded_by_its_full_size(rig: Rig) -> None:
    async def bomb(request: web.Request) -> web.StreamResponse:
        return web.Response(
            body=gzip.compress(b"a 1\n" * 100_000), headers={"Content-Encoding": "gzip", "Content-Type": TEXT}
        )

    rig.exporter.handler = bomb
    assert "more than 10.0 KiB" in await rig.scrape(rig.scraper("body_size_limit: 10KB"))


async def test_a_slow_target_times_out(rig: Rig) -> None:
    async def never(request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    rig.exporter.handler = never
    error = await rig.scrape(rig.scraper("scrape_timeout: 100ms"))
    assert error == "context deadline exceeded: no complete answer within 100ms"


async def test_requests_carry_what_prometheus_sends(rig: Rig) -> None:
    options = "scrape_timeout: 5s, params: {m: [x]}, basic_auth: {username: u, password: p}"
    await rig.scrape(rig.scraper(options))
    request = rig.exporter.requests[0]
    assert request.headers["X-Prometheus-Scrape-Timeout-Seconds"] == "5"
    assert request.headers["Authorization"] == "Basic dTpw"
    assert request.query["m"] == "x"
    assert "application/openmetrics-text" in request.headers["Accept"]


async def test_credentials_come_from_their_file_and_a_missing_file_says_so(rig: Rig, tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("s3cret\n")
    scraper = rig.scraper(f"authorization: {{credentials_file: {secret}}}")
    await rig.scrape(scraper)
    assert rig.exporter.requests[0].headers["Authorization"] == "Bearer s3cret"
    secret.unlink()
    assert (await rig.scrape(scraper)).startswith("cannot read the credentials")


async def test_equal_samples_are_dropped_and_counted(rig: Rig) -> None:
    scraper = rig.scraper()
    assert await rig.scrape(scraper, "a 1\na 2\n") == ""
    assert rig.stored("a") == [(0, 1.0, {})]
    assert rig.latest("scrape_samples_scraped") == 2.0


async def test_metric_relabelling_drops_and_changes_samples_but_not_the_report(rig: Rig) -> None:
    scraper = rig.scraper(
        "metric_relabel_configs: [{source_labels: [__name__], regex: go_.*, action: drop},"
        "{regex: instance, action: labeldrop}, {source_labels: [x], target_label: y}]"
    )
    assert await rig.scrape(scraper, 'go_gc 1\na{x="1"} 2\n') == ""
    matchers = [[Matcher(MatchType.RE, "__name__", "a|up|go_gc")]]
    assert rig.store.series(matchers, Millis(0), Millis(2**60)) == [
        Labels.of(__name__="a", job="j", x="1", y="1"),
        Labels.of(__name__="up", job="j", instance=rig.address),
    ]
    assert (rig.latest("scrape_samples_scraped"), rig.latest("scrape_samples_post_metric_relabeling")) == (2.0, 1.0)


async def test_nan_and_infinities_are_values(rig: Rig) -> None:
    await rig.scrape(rig.scraper(), "a NaN\nb +Inf\n")
    value = rig.latest("a")
    assert value is not None
    assert math.isnan(value)
    assert rig.latest("b") == math.inf


async def test_the_manager_scrapes_each_target_on_its_ticks_and_drops_those_removed(rig: Rig) -> None:
    target = rig.target("scrape_interval: 10s")
    manager = ScrapeManager(lambda target, _: rig.make(target), rig.clock)
    manager.apply({"j": JobTargets((target,)), "k": JobTargets(problems=("target p: no URL",))})
    task = asyncio.create_task(manager.run())
    try:
        await settle()
        for count in (1, 2):
            await rig.clock.advance(10)
            await rig.until(lambda: rig.store.stats().samples == 6 * count)  # noqa: B023 - awaited here
        assert (manager.jobs(), manager.states()[0].ok) == (["j", "k"], True)
        # A marker at the very time of a scrape would be its duplicate.
        await rig.clock.advance(0.5)
        manager.apply({"j": JobTargets()})
        await rig.until(lambda: rig.latest("up") is None)
        assert manager.states() == []
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_scrape_that_fails_once_needs_no_schema_of_its_own_but_an_outage_a_small_one(rig: Rig) -> None:
    scraper = rig.scraper()
    body = "# TYPE a gauge\n" + "".join(f'a{{n="{n}"}} {n}\n' for n in range(20))
    await rig.scrape(scraper, body)
    rig.exporter.status = 500
    await rig.scrape(scraper)
    rig.exporter.status = 200
    assert await rig.scrape(scraper, body) == ""
    assert rig.store.stats().schemas == 1
    assert rig.stored("up") == [(2, 1.0, {}), (1, 0.0, {}), (0, 1.0, {})]
    assert [sample for sample in rig.stored("a") if sample[2] == {"n": "7"}] == [
        (2, 7.0, {"n": "7"}),
        (1, None, {"n": "7"}),
        (0, 7.0, {"n": "7"}),
    ]
    rig.exporter.status = 500
    for _ in range(3):
        await rig.scrape(scraper)
    assert rig.store.stats().schemas == 2
    assert rig.latest("a") is None
    assert rig.latest("up") == 0.0


async def test_a_target_that_hangs_does_not_hold_up_the_others_of_its_moment(rig: Rig) -> None:
    hold = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        if request.query["who"] != "quick":
            await hold.wait()
        return web.Response(body=b"a 1\n", headers={"Content-Type": TEXT})

    def moment(target: Target) -> int:
        return offset(int.from_bytes(target_id(target)[:8], "big"), target.interval)

    rig.exporter.handler = answer
    quick = rig.target("scrape_interval: 60s, scrape_timeout: 60s, params: {who: [quick]}")
    others = (replace(quick, url=quick.url.replace("quick", f"slow{number}")) for number in range(10_000))
    slow = next(target for target in others if moment(target) == moment(quick))
    scrapers = [rig.make(target) for target in (slow, quick)]
    tasks = [asyncio.create_task(scraper.run()) for scraper in scrapers]
    try:
        await settle()
        await rig.clock.advance(60)
        await rig.until(lambda: scrapers[1].state.ok is True)
        assert scrapers[0].state.ok is None
        hold.set()
        await rig.until(lambda: scrapers[0].state.ok is True)
        at = scrapers[0].state.last_scrape
        assert at is not None
        assert (at, at % 60_000) == (scrapers[1].state.last_scrape, moment(quick))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


PROTOBUF = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"


def native_body(count: float, **labels: str) -> bytes:
    histogram = FloatHistogram(0, count, 1.0, positive=side(0, [count]))
    return b"".join(exposition([("a", (), 0, 1.0), ("h", labels.items(), 0, histogram)]))


def native_kinds(rig: Rig) -> dict[str, list[bool]]:
    """Whether each sample of the native histograms is a staleness marker, by label `x`."""
    found: dict[str, list[bool]] = {}
    for batch in rig.store.select([Matcher(MatchType.EQ, "__name__", "h")], Millis(0), Millis(2**60)):
        assert batch.histograms is not None
        for row, labels in enumerate(batch.labels):
            assert labels.get("job") == "j"
            times = batch.timelines[batch.timeline_of[row]].timestamps
            found[labels.get("x")] = [each is None for each in batch.histograms[row, : len(times)].tolist()]
    return found


async def test_native_histograms_are_asked_for_stored_and_end(rig: Rig) -> None:
    bodies = [native_body(1, x="1"), native_body(2, x="1"), native_body(2, x="2")]
    answers = iter(bodies)

    async def answer(request: web.Request) -> web.Response:
        assert negotiate(request.headers["Accept"]) == (True, Escaping.NONE)
        return web.Response(body=next(answers), headers={"Content-Type": PROTOBUF})

    rig.exporter.handler = answer
    scraper = rig.scraper("scrape_native_histograms: true, honor_timestamps: false")
    for _ in bodies:
        assert await rig.scrape(scraper) == ""
    assert native_kinds(rig) == {"1": [False, False, True], "2": [False]}
    assert (rig.latest("scrape_samples_scraped"), rig.latest("scrape_samples_post_metric_relabeling")) == (2.0, 2.0)
    await scraper.stop(Millis(rig.now + 1))
    assert native_kinds(rig)["2"] == [False, True]


async def test_native_histograms_with_times_of_their_own_keep_them_and_do_not_end(rig: Rig) -> None:
    rig.exporter.kind = PROTOBUF

    async def answer(request: web.Request) -> web.Response:
        body = native_body(1, x="1") if len(rig.exporter.requests) == 1 else b""
        return web.Response(body=body, headers={"Content-Type": PROTOBUF})

    rig.exporter.handler = answer
    scraper = rig.scraper("scrape_native_histograms: true")
    for _ in range(2):
        assert await rig.scrape(scraper) == ""
    (batch,) = rig.store.select([Matcher(MatchType.EQ, "__name__", "h")], Millis(0), Millis(2**60))
    assert batch.timelines[0].timestamps.tolist() == [0]


async def test_native_histograms_are_relabelled_limited_and_checked(rig: Rig) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=native_body(1, x="1"), headers={"Content-Type": PROTOBUF})

    rig.exporter.handler = answer
    base = "scrape_native_histograms: true, honor_timestamps: false"
    drop = "metric_relabel_configs: [{source_labels: [x], regex: '1', action: drop}]"
    assert await rig.scrape(rig.scraper(f"{base}, {drop}")) == ""
    assert native_kinds(rig) == {}
    assert "sample limit exceeded (2 samples, limit 1)" in await rig.scrape(rig.scraper(f"{base}, sample_limit: 1"))
    assert "label_limit exceeded" in await rig.scrape(rig.scraper(f"{base}, label_limit: 3"))
    assert native_kinds(rig) == {}


CLASSIC = """# TYPE h histogram
h_bucket{x="1",le="1"} 2
h_bucket{x="1",le="+Inf"} 3
h_sum{x="1"} 4
h_count{x="1"} 3
# TYPE up_again gauge
up_again 1
"""


@pytest.mark.parametrize(("keep", "left"), [("false", []), ("true", ["h_bucket", "h_bucket", "h_count", "h_sum"])])
async def test_classic_histograms_become_native_ones_if_asked_for(rig: Rig, keep: str, left: list[str]) -> None:
    bodies = [CLASSIC, CLASSIC.replace(" 3", " 5"), "up_again 1\n"]
    rig.exporter.handler = lambda _: _text(bodies.pop(0))
    scraper = rig.scraper(f"convert_classic_histograms_to_nhcb: true, always_scrape_classic_histograms: {keep}")
    while bodies:
        assert await rig.scrape(scraper) == ""
    assert native_kinds(rig) == {"1": [False, False, True]}
    (batch,) = rig.store.select([Matcher(MatchType.EQ, "__name__", "h")], Millis(0), Millis(2**60))
    assert batch.histograms is not None
    first, second = batch.histograms.cells[0, :2]
    assert (first.custom, first.positive.counts.tolist(), first.sum) == ((1.0,), [2.0, 1.0], 4.0)
    assert (second.count, second.positive.counts.tolist()) == (5.0, [2.0, 3.0])
    names = rig.store.series([[Matcher(MatchType.RE, "__name__", "h_.*")]], Millis(0), Millis(2**60))
    assert [labels.name for labels in names] == left


async def _text(body: str) -> web.Response:
    return web.Response(text=body)


def counted(value: float, created: float) -> str:
    return f"# TYPE c counter\nc_total {value}\nc_created {created}\n# TYPE g gauge\ng 1\n# EOF\n"


def all_of(rig: Rig, name: str) -> list[tuple[int, float | None]]:
    """Time and value (None: stale) of the one series of this name."""
    (batch,) = rig.store.select([Matcher(MatchType.EQ, "__name__", name)], Millis(0), Millis(2**60))
    (line,) = batch.timelines
    stale = np.zeros(len(line.timestamps), np.bool_) if line.stale is None else line.stale
    values = [None if gone else value for value, gone in zip(batch.values[0].tolist(), stale.tolist(), strict=False)]
    return list(zip(line.timestamps.tolist(), values, strict=True))


async def test_a_counter_is_zero_when_it_was_created_if_that_is_asked_for(rig: Rig) -> None:
    rig.exporter.kind = "application/openmetrics-text; version=1.0.0"
    scraper = rig.scraper(zeros=True)
    assert await rig.scrape(scraper, counted(5, 1000.25)) == ""
    first = rig.now
    assert await rig.scrape(scraper, counted(6, 1000.25)) == ""
    assert await rig.scrape(scraper, counted(2, (rig.now + 7_000) / 1000)) == ""
    restart = rig.now - 8_000
    assert await rig.scrape(scraper, counted(3, restart / 1000)) == ""
    expected = [(1_000_250, 0.0), (first, 5.0), (first + 15_000, 6.0), (restart, 0.0), (first + 30_000, 2.0)]
    assert all_of(rig, "c_total") == [*expected, (first + 45_000, 3.0)]
    assert len(all_of(rig, "g")) == 4
    assert rig.store.series([[Matcher(MatchType.EQ, "__name__", "c_created")]], Millis(0), Millis(2**60)) == []
    assert "protobuf" in rig.exporter.requests[0].headers["Accept"]
    # A scrape may be a little older than what it tells: then the next one tells it, too.
    assert await rig.scrape(scraper, counted(1, (rig.now + 15_001) / 1000)) == ""
    assert await rig.scrape(scraper, counted(2, (rig.now + 1) / 1000)) == ""
    expected += [(first + 45_000, 3.0), (first + 60_000, 1.0), (first + 60_001, 0.0), (first + 75_000, 2.0)]
    assert all_of(rig, "c_total") == expected
    restart = first + 60_001
    # After a restart of the hub nothing is known of the series but what is stored.
    assert await rig.scrape(rig.scraper(zeros=True), counted(4, restart / 1000)) == ""
    assert all_of(rig, "c_total") == [*expected, (rig.now, 4.0)]


async def test_a_start_that_is_old_or_not_before_the_sample_is_no_sample(rig: Rig) -> None:
    rig.exporter.kind = "application/openmetrics-text; version=1.0.0"
    rig.now = 10_000_000
    for number, start in enumerate((rig.now / 1000 - 3600, rig.now / 1000 + 15.0, rig.now / 1000 + 99, 0, -5)):
        label = f"metric_relabel_configs: [{{target_label: n, replacement: n{number}}}]"
        scraper = rig.scraper(label, zeros=True)
        assert await rig.scrape(scraper, counted(5, start)) == ""
        rig.now -= 15_000
    found = rig.stored("c_total")
    assert [value for _, value, _ in found] == [5.0] * 5


async def test_without_the_feature_created_is_a_series(rig: Rig) -> None:
    rig.exporter.kind = "application/openmetrics-text; version=1.0.0"
    assert await rig.scrape(rig.scraper(), counted(5, 1000.25)) == ""
    assert [value for _, value in all_of(rig, "c_created")] == [1000.25]
    assert len(all_of(rig, "c_total")) == 1


async def test_native_histograms_are_empty_when_they_were_created(rig: Rig) -> None:
    histogram = write_int(1, 5) + write_double(2, 1.0) + write_int(5, 2) + write_double(6, 0.5)
    histogram += write_bytes(12, write_int(1, 0) + write_int(2, 1)) + write_bytes(13, b"\x0a")
    histogram += write_bytes(15, write_int(1, 1000) + write_int(2, 500_000_000))
    family = write_text(1, "h") + write_int(3, 4) + write_bytes(4, write_bytes(7, histogram))
    body = write_varint(len(family)) + family

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body, headers={"Content-Type": PROTOBUF})

    rig.exporter.handler = answer
    scraper = rig.scraper("scrape_native_histograms: true", zeros=True)
    for _ in range(2):
        assert await rig.scrape(scraper) == ""
    (batch,) = rig.store.select([Matcher(MatchType.EQ, "__name__", "h")], Millis(0), Millis(2**60))
    assert batch.histograms is not None
    assert batch.timelines[0].timestamps.tolist() == [1_000_500, 1_015_000, 1_030_000]
    empty, whole, _ = batch.histograms.cells[0, :3]
    assert (empty.count, empty.schema, empty.zero_threshold, empty.hint) == (0.0, 1, 0.5, ResetHint.RESET)
    assert whole.count == 5.0


async def test_without_the_option_text_is_asked_for(rig: Rig) -> None:
    await rig.scrape(rig.scraper())
    assert "protobuf" not in rig.exporter.requests[0].headers["Accept"]
