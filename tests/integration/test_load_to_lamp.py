"""Load on this machine's CPU fires a shipped rule and blinks a lamp; the end of the load clears both."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.integration.programs import ROOT, Running, Start, edge, hub, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.alone]
RULE = "CpuBusy"


@contextmanager
def load() -> Iterator[None]:
    """Keep every CPU busy."""
    burn = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in burn:
            process.kill()
            process.wait()


def alert_state(server: Running) -> str:
    """The state of RULE's alert, or `inactive`."""
    states = [a["state"] for a in server.client.api("/api/v1/alerts")["alerts"] if a["labels"]["alertname"] == RULE]
    return states[0] if states else "inactive"


def lamp(server: Running) -> dict[str, object]:
    """The lamp `alerts`."""
    (found,) = [p for p in server.client.api("/api/v1/bramble/panel")["lamps"] if p["name"] == "alerts"]
    return dict(found)


def lamp_is(server: Running, on: bool) -> bool:
    """Whether the lamp's pin is in that state now."""
    return bool(lamp(server)["on"]) is on


def test_load_fires_a_shipped_rule_and_blinks_the_lamp_until_it_ends(start: Start, tmp_path: Path) -> None:
    rules = ROOT / "hub" / "examples" / "rules.yml"
    edge(start, tmp_path / "edge").wait_ready()
    config = (
        f"global: {{evaluation_interval: 1s}}\nrule_files: [{json.dumps(str(rules))}]\nbramble: {{pull_interval: 1s}}\n"
    )
    server = hub(start, tmp_path / "hub", config=config).wait_ready()
    wait_for(
        lambda: server.client.instant('up{job="node"}')[0].value == 1,
        f"the hub finds the agent by mDNS\n{server.output()}",
        30,
    )
    wait_for(lambda: alert_state(server) == "inactive" and lamp(server)["pattern"] == "off", "quiet at first", 90)
    with load():
        wait_for(lambda: alert_state(server) == "firing", f"{RULE} fires", 150)
        wait_for(lambda: str(lamp(server)["pattern"]).startswith("blink"), "the lamp blinks")
        for state in (True, False, True):
            wait_for(partial(lamp_is, server, state), f"the blinking pin is {state}")
        assert server.client.instant(f'ALERTS{{alertname="{RULE}",alertstate="firing"}}')[0].value == 1
    wait_for(lambda: alert_state(server) == "inactive", f"{RULE} clears", 120)
    wait_for(lambda: lamp(server)["pattern"] == "off" and not lamp(server)["on"], "the lamp goes off")
