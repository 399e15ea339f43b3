"""Zero samples at start timestamps are where a real Prometheus puts them, from scrapes and from remote write 2.0.

`PROMETHEUS` may name another Prometheus than the one on the path; one of version 2 knows less or nothing of them, then
only what the hub stores is looked at.
"""

import os
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from common.ctl.client import Client
from common.exposition.protobuf_encode import CONTENT_TYPE
from common.remote.snappy import compress
from common.wire import write_bytes, write_double, write_int, write_text, write_varint
from tests.integration.programs import Running, Start, exporter_of, hub, needs, wait_for
from tests.ports import free_port

pytestmark = pytest.mark.integration

FEATURE = "--enable-feature=created-timestamp-zero-ingestion,native-histograms"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
V2 = "application/x-protobuf;proto=io.prometheus.write.v2.Request"


def stamp(ms: int) -> bytes:
    return write_int(1, ms // 1000) + write_int(2, ms % 1000 * 1_000_000)


def family(name: str, kind: int, field: int, body: bytes) -> bytes:
    message = write_text(1, name) + write_int(3, kind) + write_bytes(4, write_bytes(field, body))
    return write_varint(len(message)) + message


class _Exporter(BaseHTTPRequestHandler):
    """Counters, summaries and histograms that were created at `created` ms."""

    created = 0

    def do_GET(self) -> None:
        ms = type(self).created
        if self.path == "/openmetrics":
            kind, at = OPENMETRICS, f"{ms / 1000:.3f}"
            body = (
                f"# TYPE c counter\nc_total 5\nc_created {at}\n# TYPE bare counter\nbare_total 5\n"
                f'# TYPE h histogram\nh_bucket{{le="1.0"}} 1\nh_bucket{{le="+Inf"}} 2\nh_sum 3\nh_count 2\n'
                f"h_created {at}\n"
                f'# TYPE s summary\ns{{quantile="0.5"}} 1\ns_sum 3\ns_count 2\ns_created {at}\n# EOF\n'
            ).encode()
        else:
            kind = CONTENT_TYPE
            native = write_int(1, 5) + write_double(2, 1.0) + write_int(5, 2) + write_double(6, 0.5)
            native += write_bytes(12, write_int(1, 0) + write_int(2, 1)) + write_bytes(13, b"\x0a")
            native += write_bytes(15, stamp(ms))
            quantile = write_bytes(3, write_double(1, 0.5) + write_double(2, 1.0))
            summary = write_int(1, 2) + write_double(2, 3.0) + quantile + write_bytes(4, stamp(ms))
            body = family("c_total", 0, 3, write_double(1, 5.0) + write_bytes(3, stamp(ms)))
            body += family("g", 1, 2, write_double(1, 5.0))
            body += family("s", 2, 4, summary) + family("n", 4, 7, native)
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def exporter() -> Iterator[int]:
    """The port of an exporter with a path for each format."""
    with exporter_of(_Exporter) as port:
        yield port


def both(start: Start, folder: Path, config: str, *flags: str, native: str = "") -> tuple[Running, Running | None]:
    """The hub, and Prometheus if it is of version 3, with the same configuration and flags."""
    text = config.replace("global: {", f"global: {{{native}")
    ours = hub(start, folder / "hub", "--no-discovery.mdns", FEATURE, *flags, config=text).wait_ready()
    program = os.environ.get("PROMETHEUS") or needs("prometheus")
    port = free_port()
    (folder / "prometheus.yml").write_text(config)
    command = [program, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    peer = start([*command, f"--web.listen-address=127.0.0.1:{port}", FEATURE, *flags], folder / "peer.log", port)
    peer.wait_ready()
    new = int(peer.client.api("/api/v1/status/buildinfo")["version"].partition(".")[0]) >= 3
    return ours, peer if new else None


def zeros(client: Client) -> dict[str, list[int]]:
    """The times, ms, of zero samples and empty histograms of every series in the last hour."""
    found = {}
    for item in client.api("/api/v1/query", {"query": '{__name__=~"c_.*|h_.*|s|s_sum|s_count|n|bare_.*|g|w_.*"}[1h]'})[
        "result"
    ]:
        times = [round(at * 1000) for at, value in item.get("values", ()) if float(value) == 0]
        times += [round(at * 1000) for at, value in item.get("histograms", ()) if float(value["count"]) == 0]
        metric = {name: value for name, value in item["metric"].items() if name != "instance"}
        found[str(sorted(metric.items()))] = sorted(times)
    return found


def test_scrapes_begin_at_zero(start: Start, tmp_path: Path, exporter: int) -> None:
    jobs = "".join(
        f"\n- {{job_name: {name}, metrics_path: /{name}, static_configs: [{{targets: ['127.0.0.1:{exporter}']}}]}}"
        for name in ("openmetrics", "protobuf")
    )
    config = f"global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:{jobs}\n"
    first = _Exporter.created = round(time.time() * 1000) - 20_000
    ours, peer = both(start, tmp_path, config, native="scrape_native_histograms: true, ")
    running = [each for each in (ours, peer) if each is not None]
    for each in running:
        wait_for(lambda e=each: e.client.instant("sum(count_over_time(up[1h])) > 4"), "scrapes", 40)  # type: ignore[misc]
    second = _Exporter.created = round(time.time() * 1000)
    for each in running:
        for name, job in (("n", "protobuf"), ("h_sum", "openmetrics")):
            series = f"[('__name__', '{name}'), ('job', '{job}')]"
            wait_for(lambda e=each, s=series: len(zeros(e.client)[s]) > 1, "a restart", 40)  # type: ignore[misc]
    shown = zeros(ours.client)
    told = {"c_total", "h_bucket", "h_sum", "h_count", "s", "s_sum", "s_count", "n"}
    for series, times in shown.items():
        name = series.split("'")[3]
        assert times == ([first, second] if name in told else []), series
    assert len(shown) == 9 + 6
    if peer is not None:
        assert zeros(peer.client) == shown


def body(name: str, created: int, samples: dict[int, float]) -> bytes:
    """A request of remote write 2.0 with one series."""
    parts = [write_bytes(2, write_double(1, value) + write_int(2, at)) for at, value in samples.items()]
    series = write_bytes(1, bytes([1, 2])) + b"".join(parts) + write_int(6, created)
    texts = b"".join(write_text(4, text) for text in ("", "__name__", name))
    return compress(texts + write_bytes(5, series))


def test_series_of_remote_write_begin_at_zero(start: Start, tmp_path: Path) -> None:
    ours, peer = both(start, tmp_path, "global: {}\n", "--web.enable-remote-write-receiver")
    now = round(time.time() * 1000)
    requests = [
        body("w_total", now - 50_000, {now - 40_000: 3.0, now - 30_000: 4.0}),
        body("w_total", now - 50_000, {now - 20_000: 5.0}),
        body("w_total", now - 15_000, {now - 10_000: 1.0}),
        body("w_total", now - 14_000, {now - 5_000: 1.0}),
        body("w_new_total", now, {now - 1_000: 1.0}),
        body("w_none_total", 0, {now - 1_000: 1.0}),
    ]
    headers = {"Content-Type": V2, "Content-Encoding": "snappy", "X-Prometheus-Remote-Write-Version": "2.0.0"}
    found = []
    for each in (ours, peer):
        if each is None:
            continue
        for data in requests:
            made = urllib.request.Request(f"{each.url}/api/v1/write", data, headers, method="POST")
            with urllib.request.urlopen(made, timeout=20) as answer:
                assert answer.status in (200, 204)
        found.append(zeros(each.client))
    names = ("w_total", "w_new_total", "w_none_total")
    keys = [f"[('__name__', '{name}')]" for name in names]
    assert found[0] == dict(zip(keys, ([now - 50_000, now - 15_000], [], []), strict=True))
    assert found[1:] in ([], [found[0]])
