"""Schemathesis against a really started hub: it asks what the OpenAPI document allows, and what it doesn't.

A finding is a 500, a status that the document lacks, a wrong Content-Type, or an answer that its schema refuses.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import numpy as np

from common.labels import Labels
from common.remote import snappy
from common.remote.read import encode_result, encode_series
from tests.integration.programs import ROOT, Running, Start, hub, programs
from tests.ports import free_port

CHECKS = (
    "no_internal_error",  # tests/fuzz/openapi_hooks.py
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
LEFT_OUT = ("/-/quit", "/api/v1/notifications/live")
"""Paths that end the program or never end themselves."""

CONFIG = """
global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}
rule_files: [rules.yml]
scrape_configs:
- job_name: hub
  static_configs: [{{targets: ["127.0.0.1:{port}", "127.0.0.1:1"]}}]
"""
RULES = """
groups:
- name: g
  rules:
  - {record: r, expr: sum(up)}
  - {alert: Always, expr: up == 1, annotations: {summary: "{{ $value }}"}}
"""


def start_hub(start: Start, folder: Path) -> Running:
    """A hub with everything switched on, that scrapes itself and has some series of the last hour."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rules.yml").write_text(RULES)
    flags = ("--web.enable-remote-write-receiver", "--web.enable-admin-api", "--web.enable-lifecycle")
    program = hub(
        start, folder, "--no-discovery.mdns", "--query.timeout=5s", *flags, port=port, config=CONFIG.format(port=port)
    ).wait_ready()
    now = int(program.client.instant("time()")[0].value)
    times = np.arange(now - 3600, now, 15, dtype=np.int64) * 1000
    series = [
        encode_series(Labels.of(__name__="m", i=str(i)), times, np.arange(len(times), dtype=np.float64))
        for i in range(3)
    ]
    headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy"}
    body = bytes(snappy.compress(encode_result(series)))
    request = urllib.request.Request(f"{program.url}/api/v1/write", data=body, headers=headers, method="POST")
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 204
    return program


def run(program: Running, folder: Path, seconds: int, *flags: str) -> subprocess.CompletedProcess[str]:
    """Schemathesis for about that long, with its files in `folder`; its exit status says whether it found something."""
    # One worker: Hypothesis parses its strategies' sources, which CPython before 3.12 fails at in two threads at a time
    # ("AST constructor recursion depth mismatch").
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", f"{program.url}/api/v1/openapi.yaml",
        f"--checks={','.join(CHECKS)}", f"--max-time={seconds}", "--phases=examples,coverage,fuzzing",
        "--request-timeout=20", "--workers=1", "--continue-on-failure", "--warnings=off", "--no-shrink",
        "--generation-database=none", *(f"--exclude-path={path}" for path in LEFT_OUT), *flags,
    ]  # fmt: skip
    env = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.fuzz.openapi_hooks", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=seconds * 3 + 60)


def main() -> int:
    """Run against a hub of its own; the exit status is that of schemathesis."""
    parser = argparse.ArgumentParser(prog="tests.fuzz.api", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", default="")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, programs() as start:
        folder = Path(name)
        program = start_hub(start, folder / "hub")
        done = run(program, folder, given.seconds, *([f"--seed={given.seed}"] if given.seed else ()))
        print(done.stdout, done.stderr)
        failures = [line for line in program.output().splitlines() if "request failed" in line]
        print(*failures, sep="\n")
        return done.returncode or bool(failures)


if __name__ == "__main__":
    sys.exit(main())
