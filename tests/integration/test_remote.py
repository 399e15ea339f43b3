"""A real Prometheus writes into the hub by remote write and reads back by remote read."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from common.ctl.client import Client
from common.exposition.protobuf_encode import CONTENT_TYPE
from common.wire import write_bytes, write_double, write_int, write_text, write_varint
from tests.integration.programs import Running, Start, hub, needs, wait_for
from tests.ports import free_port

pytestmark = pytest.mark.integration


def prometheus(start: Start, folder: Path, target: Running) -> Client:
    """A Prometheus that scrapes itself each second, writes to `target` with a label of its own, and reads from it."""
    port = free_port()
    file = folder / "prometheus.yml"
    file.write_text(
        f"""
global: {{scrape_interval: 1s}}
scrape_configs:
- job_name: self
  static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
remote_write:
- url: {target.url}/api/v1/write
  write_relabel_configs: [{{target_label: written, replacement: "yes"}}]
  queue_config: {{batch_send_deadline: 1s}}
remote_read:
- url: {target.url}/api/v1/read
  read_recent: true
"""
    )
    command = [needs("prometheus"), f"--config.file={file}", f"--web.listen-address=127.0.0.1:{port}"]
    start([*command, f"--storage.tsdb.path={folder / 'prometheus'}"], folder / "prometheus.log", port).wait_ready()
    return Client(f"http://127.0.0.1:{port}")


def test_prometheus_writes_into_the_hub_and_reads_back(start: Start, tmp_path: Path) -> None:
    program = hub(start, tmp_path / "hub", "--web.enable-remote-write-receiver", "--no-discovery.mdns").wait_ready()
    peer = prometheus(start, tmp_path, program)
    # Prometheus waits for a whole scrape before it follows its log.
    wait_for(lambda: program.client.instant('up{job="self",written="yes"}'), "what was written", seconds=60)
    ours = program.client.instant('count({written="yes"})')[0].value
    assert ours > 100
    # Prometheus itself has no series with this label: what it answers, it has read from the hub.
    found = wait_for(lambda: peer.instant('count({written="yes"})'), "what was read back")
    assert found[0].value >= ours


def test_without_the_flag_prometheus_is_told_what_to_do(start: Start, tmp_path: Path) -> None:
    program = hub(start, tmp_path / "hub", "--no-discovery.mdns").wait_ready()
    prometheus(start, tmp_path, program)
    log = tmp_path / "prometheus.log"
    wait_for(lambda: "--web.enable-remote-write-receiver" in log.read_text(), "the reason in its log", seconds=60)


class _Exporter(BaseHTTPRequestHandler):
    """A native histogram of integers in protobuf, which has grown at each scrape."""

    scrapes = 0

    def do_GET(self) -> None:
        type(self).scrapes += 1
        grown = self.scrapes

        def zigzag(value: int) -> int:
            return value << 1 ^ value >> 63

        histogram = (
            write_int(1, 8 * grown)
            + write_double(2, 1.25 * grown)
            + write_int(5, zigzag(2))
            + write_double(6, 0.001)
            + write_int(7, grown)
            + b"".join(write_bytes(12, write_int(1, zigzag(o)) + write_int(2, n)) for o, n in ((-1, 2), (4, 1)))
            + write_bytes(13, b"".join(write_varint(zigzag(delta * grown)) for delta in (2, 1, -2)))
            + write_bytes(9, write_int(1, zigzag(3)) + write_int(2, 1))
            + write_int(10, zigzag(grown))
        )
        family = write_text(1, "sizes") + write_int(3, 4) + write_bytes(4, write_bytes(7, histogram))
        body = write_varint(len(family)) + family
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def _range(url: str, query: str, start: float, end: float) -> dict[str, Any]:
    form = urlencode({"query": query, "start": start, "end": end, "step": 0.5})
    with urlopen(f"{url}/api/v1/query_range?{form}") as response:
        answer: dict[str, Any] = json.load(response)
    return {str(sorted(each["metric"].items())): each for each in answer["data"]["result"]}


def test_native_histograms_that_prometheus_writes_answer_as_its_own(start: Start, tmp_path: Path) -> None:
    program = hub(start, tmp_path / "hub", "--web.enable-remote-write-receiver", "--no-discovery.mdns").wait_ready()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Exporter) as exporter:
        Thread(target=exporter.serve_forever, daemon=True).start()
        port = free_port()
        file = tmp_path / "prometheus.yml"
        file.write_text(
            f"""
global: {{scrape_interval: 1s}}
scrape_configs:
- job_name: native
  static_configs: [{{targets: ["127.0.0.1:{exporter.server_address[1]}"]}}]
remote_write:
- url: {program.url}/api/v1/write
  send_native_histograms: true
  queue_config: {{batch_send_deadline: 1s}}
"""
        )
        command = [needs("prometheus"), f"--config.file={file}", f"--web.listen-address=127.0.0.1:{port}"]
        command += ["--enable-feature=native-histograms", f"--storage.tsdb.path={tmp_path / 'prometheus'}"]
        peer = start(command, tmp_path / "prometheus.log", port).wait_ready()
        count = "histogram_count(sizes)"
        wait_for(lambda: program.client.instant(f"{count} >= 48"), "what was written", seconds=60)
        exporter.shutdown()
    # What both have: up to the newest sample that came here. No window may begin on a sample: Prometheus 2 counts it.
    end = program.client.instant("timestamp(sizes)")[0].value - 0.25
    # Not quantiles: Prometheus 2 interpolates otherwise inside buckets.
    for query in ("sizes", "rate(sizes[4s])", "histogram_sum(increase(sizes[3s]))", "sum(sizes)"):
        theirs = _range(peer.url, query, end - 5, end)
        ours = _range(program.url, query, end - 5, end)
        assert theirs
        assert any(each.get("histograms") or each.get("values") for each in theirs.values())
        assert ours == theirs
