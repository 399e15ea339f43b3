"""This machine read by the real node_exporter and by us: the same families, types and labels; differences are named.

`NODE_EXPORTER` names another binary than the system's.
"""

import os
import shutil
import subprocess
import time
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from common.clock import SystemClock
from common.exposition.encode import Encoder
from edge.collectors.registry import build_runner
from tests.ports import free_port

pytestmark = pytest.mark.integration

COLLECTORS = (
    *("arp", "conntrack", "cpu", "cpufreq", "diskstats", "edac", "entropy", "filefd", "filesystem", "hwmon"),
    *("loadavg", "mdadm", "meminfo", "netclass", "netdev", "netstat", "nvme", "os", "powersupplyclass", "pressure"),
    *("processes", "schedstat", "sockstat", "softnet", "stat", "thermal_zone", "time", "timex", "udp_queues", "uname"),
    *("vmstat", "bonding", "buddyinfo", "cgroups", "interrupts", "ksmd", "zoneinfo"),
)
LABELS_SINCE = {
    "node_disk_info": "the label rotational came with 1.6",
    "node_network_info": "the label ifalias of a device without one is shown by some versions",
}
"""Families whose labels differ between versions of node_exporter."""

HELP_SINCE = ("node_ksmd_",)
"""Families whose help texts 1.12 changed."""

Families = dict[str, tuple[str, str, set[tuple[str, ...]]]]


def families(page: str) -> Families:
    """Sample name -> type, help and the sets of label names that its series have."""
    found: Families = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            entry = found.setdefault(sample.name, (family.type, family.documentation, set()))
            entry[2].add(tuple(sorted(key for key, value in sample.labels.items() if value)))
    return found


def theirs() -> str:
    program = os.environ.get("NODE_EXPORTER") or shutil.which("prometheus-node-exporter")
    if program is None:
        pytest.skip("node_exporter is not installed: apt-get install prometheus-node-exporter")
    port = free_port()
    argv = [program, f"--web.listen-address=127.0.0.1:{port}", "--web.disable-exporter-metrics"]
    argv += ["--collector.disable-defaults", *(f"--collector.{name}" for name in COLLECTORS)]
    process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as response:
                    page: bytes = response.read()
                    return page.decode("utf-8")
            except OSError:
                time.sleep(0.1)
        raise AssertionError("node_exporter does not answer")
    finally:
        process.terminate()
        process.wait(60)


def ours() -> str:
    given = {"collector.disable-defaults": True, **{f"collector.{name}": True for name in COLLECTORS}}
    runner = build_runner(given, SystemClock())
    page = Encoder().encode([reading for result in runner.collect() for reading in result.samples])
    runner.close()
    return page.decode("utf-8")


def test_the_real_node_exporter_and_we_say_the_same_of_this_machine() -> None:
    expected, got = families(theirs()), families(ours())
    expected = {
        name: entry
        for name, entry in expected.items()
        if name.startswith("node_") and name != "node_exporter_build_info"
    }
    assert len(expected) > 150
    missing = expected.keys() - got.keys()
    assert not missing, f"families that node_exporter has and we have not: {sorted(missing)}"
    differ: list[str] = []
    for name, (kind, text, labels) in expected.items():
        our_kind, our_text, our_labels = got[name]
        if kind != our_kind:
            differ.append(f"{name}: type {kind}, ours {our_kind}")
        if text != our_text and not name.startswith(HELP_SINCE):
            differ.append(f"{name}: help {text!r}, ours {our_text!r}")
        if not labels <= our_labels and name not in LABELS_SINCE:
            differ.append(f"{name}: labels {labels}, ours {our_labels}")
    assert not differ, "\n".join(differ)
