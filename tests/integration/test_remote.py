"""A real Prometheus writes into the hub by remote write and reads back by remote read."""

from pathlib import Path

import pytest

from common.ctl.client import Client
from tests.integration.programs import Running, Start, free_port, hub, needs, wait_for

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
