"""Schemathesis against a started hub: no 500, no status, header or answer that the OpenAPI document lacks."""

import re
from pathlib import Path

import pytest

from tests.fuzz.api import run, start_hub
from tests.integration.programs import Start

pytestmark = pytest.mark.integration
SECONDS = (30, 60, 120, 240)
"""How long it may take for ENOUGH requests, on a machine that has other things to do, too."""
ENOUGH = 500


def test_schemathesis_finds_nothing(start: Start, tmp_path: Path) -> None:
    program = start_hub(start, tmp_path / "hub")
    for seconds in SECONDS:
        done = run(program, tmp_path, seconds)
        assert done.returncode == 0, done.stdout + done.stderr
        tested = re.search(r"Selected: (\d+)/\d+\s+Tested: (\d+)", done.stdout)
        assert tested is not None, done.stdout
        passed = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
        assert passed is not None, done.stdout
        if tested[1] == tested[2] and int(passed[1]) >= ENOUGH:
            break
    else:
        pytest.fail(done.stdout)
    metrics = program.client.get("/metrics").decode()
    assert 'code="500"' not in metrics
    assert "request failed" not in program.output()
    assert program.stop() == 0
