"""What this machine's collectors say, judged by the real promtool."""

import shutil
import subprocess

import pytest

from common.clock import SystemClock
from common.exposition.encode import Encoder
from edge.collectors.registry import COLLECTORS, build_runner

pytestmark = pytest.mark.integration


def test_promtool_accepts_the_page_of_all_collectors() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    runner = build_runner({f"collector.{c.name}": True for c in COLLECTORS}, SystemClock())
    page = Encoder().encode([reading for result in runner.collect() for reading in result.samples])
    runner.close()
    done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True)
    assert done.returncode in (0, 3), done.stderr.decode()
    # 3 is lint; node_exporter's own names break its rules too, so only what we named ourselves counts.
    complaints = [line for line in done.stderr.decode().split("\n") if line and not line.startswith("node_")]
    assert not complaints, complaints
