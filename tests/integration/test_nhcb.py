"""Classic histograms of every exposition format become the native ones that a real Prometheus makes of them.

`PROMETHEUS` may name another Prometheus than the one on the path; one of version 2 knows no such conversion, then only
what the hub answers is looked at.
"""

import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from common.ctl.client import Client
from common.exposition.protobuf_encode import CONTENT_TYPE
from common.wire import write_bytes, write_double, write_int, write_text, write_varint
from tests.integration.programs import Start, exporter_of, hub, needs, wait_for
from tests.ports import free_port

pytestmark = pytest.mark.integration

TEXT = """# TYPE h histogram
h_bucket{x="1",le="0.1"} 1
h_bucket{x="1",le="1"} 4
h_bucket{x="1",le="10"} 4
h_bucket{x="1",le="+Inf"} 9
h_sum{x="1"} 12.5
h_count{x="1"} 9
h_bucket{x="open",le="1"} 4
h_sum{x="open"} 1
h_count{x="open"} 6
h_bucket{x="no sum",le="1"} 4
h_bucket{x="no sum",le="+Inf"} 5
h_count{x="no count"} 5
h_sum{x="no count"} 5
h_bucket{x="shuffled",le="+Inf"} 5
h_bucket{x="shuffled",le="2"} 3
h_bucket{x="shuffled",le="1"} 1
h_count{x="shuffled"} 5
h_sum{x="shuffled"} 5
h_bucket{x="falls",le="1"} 4
h_bucket{x="falls",le="+Inf"} 3
h_count{x="falls"} 3
h_bucket{x="differs",le="1"} 4
h_bucket{x="differs",le="+Inf"} 5
h_count{x="differs"} 6
h_bucket{x="floats",le="1"} 0.5
h_bucket{x="floats",le="+Inf"} 1.5
h_count{x="floats"} 1.5
h_sum{x="only"} 1.5
h_bucket{x="empty",le="1"} 0
h_bucket{x="empty",le="+Inf"} 0
h_count{x="empty"} 0
h_sum{x="empty"} 0
# TYPE other gauge
other_bucket{le="1"} 5
other_count 5
"""
WHOLE = {"1", "open", "no sum", "no count", "shuffled", "floats", "only", "empty"}
OPENMETRICS = TEXT.partition("# TYPE other")[0] + "# TYPE g gauge\ng 1\n# EOF\n"


def protobuf() -> bytes:
    """A classic histogram, and one that is native, too; in one family Prometheus takes all for what the first is."""

    def bucket(bound: float, count: int) -> bytes:
        return write_bytes(3, write_int(1, count) + write_double(2, bound))

    def family(name: str, body: bytes) -> bytes:
        label = write_bytes(1, write_text(1, "x") + write_text(2, "1"))
        message = write_text(1, name) + write_int(3, 4) + write_bytes(4, label + write_bytes(7, body))
        return write_varint(len(message)) + message

    classic = write_int(1, 9) + write_double(2, 12.5) + bucket(0.1, 1) + bucket(1, 4) + bucket(10, 4)
    spans = write_bytes(12, write_int(1, 0) + write_int(2, 2))
    native = write_int(5, 2 << 1) + write_double(6, 0.001) + spans + write_bytes(13, write_varint(8) + write_varint(2))
    return family("h", classic) + family("native", classic + native)


BODIES = {
    "/text": (b"text/plain; version=0.0.4", TEXT.encode()),
    "/openmetrics": (b"application/openmetrics-text; version=1.0.0", OPENMETRICS.encode()),
    "/protobuf": (CONTENT_TYPE.encode(), protobuf()),
}


class _Exporter(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        kind, body = BODIES[self.path]
        self.send_response(200)
        self.send_header("Content-Type", kind.decode())
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def exporter() -> Iterator[int]:
    """The port of an exporter with a path for each format."""
    with exporter_of(_Exporter) as port:
        yield port


def config(port: int, native: str = "") -> str:
    jobs = "".join(
        f"""
- job_name: {path[1:]}{suffix}
  metrics_path: {path}
  always_scrape_classic_histograms: {keep}
  static_configs: [{{targets: ["127.0.0.1:{port}"]}}]"""
        for path in BODIES
        for suffix, keep in (("", "false"), ("-kept", "true"))
    )
    return f"""
global: {{scrape_interval: 1s, scrape_timeout: 1s, convert_classic_histograms_to_nhcb: true{native}}}
scrape_configs:{jobs}
- job_name: protobuf-left
  metrics_path: /protobuf
  convert_classic_histograms_to_nhcb: false
  static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
- job_name: left
  metrics_path: /text
  convert_classic_histograms_to_nhcb: false
  static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


def answers(client: Client) -> dict[str, Any]:
    """All there is of the exporter, as the server tells it, without times."""
    found = {}
    for item in client.api("/api/v1/query", {"query": '{job!="",__name__!~"scrape_(duration|series).*"}'})["result"]:
        metric = {name: value for name, value in item["metric"].items() if name != "instance"}
        found[str(sorted(metric.items()))] = item.get("histogram", item.get("value"))[1]
    return found


def test_histograms_are_those_of_prometheus(start: Start, tmp_path: Path, exporter: int) -> None:
    ours = hub(
        start, tmp_path / "hub", "--no-discovery.mdns", config=config(exporter, ", scrape_native_histograms: true")
    )
    program = os.environ.get("PROMETHEUS") or needs("prometheus")
    port = free_port()
    command = [program, f"--config.file={tmp_path / 'prometheus.yml'}", "--enable-feature=native-histograms"]
    command += [f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    (tmp_path / "prometheus.yml").write_text("global: {}\n")
    peer = start(command, tmp_path / "peer.log", port).wait_ready()
    new = int(peer.client.api("/api/v1/status/buildinfo")["version"].partition(".")[0]) >= 3
    if new:
        peer.stop()
        (tmp_path / "prometheus.yml").write_text(config(exporter))
        peer = start(command, tmp_path / "peer.log", port).wait_ready()
    everything = "count(up == 1) == 8"
    wait_for(lambda: ours.wait_ready().client.instant(everything), "scrapes by the hub")
    shown = answers(ours.client)
    names = {
        job: {
            item["metric"]["x"] for item in ours.client.api("/api/v1/query", {"query": f'h{{job="{job}"}}'})["result"]
        }
        for job in ("text", "text-kept", "openmetrics", "protobuf", "left")
    }
    assert names == {
        "text": WHOLE,
        "text-kept": WHOLE,
        "openmetrics": WHOLE,
        "protobuf": {"1"},
        "left": set(),
    }
    kept = {point.labels.get("job"): point.value for point in ours.client.instant("count by (job) (h_bucket)")}
    assert kept.keys() == {"text-kept", "openmetrics-kept", "protobuf-kept", "protobuf-left", "left"}
    if new:
        wait_for(lambda: peer.client.instant(everything), "scrapes by Prometheus", 30)
        theirs = answers(peer.client)
        different = {
            key: (theirs.get(key), shown.get(key)) for key in theirs | shown if theirs.get(key) != shown.get(key)
        }
        assert not different, "\n".join(f"{key}: {each}" for key, each in different.items())
