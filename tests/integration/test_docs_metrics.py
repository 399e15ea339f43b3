"""Every metric of a running program is documented."""

import re
from pathlib import Path

import pytest

from tests.integration.programs import Running, Start, edge, hub
from tests.reference import PAGES, families

pytestmark = pytest.mark.integration


def undocumented(program: str, running: Running) -> set[str]:
    """Families that the program shows and its README doesn't name."""
    shown = set(re.findall(r"^\| `(\S+)`", families(running.client.get("/metrics").decode()), re.MULTILINE))
    return shown - set(re.findall(r"^\| `(\S+)`", PAGES[program].read_text("utf-8"), re.MULTILINE))


def test_every_own_metric_of_both_programs_is_documented(start: Start, tmp_path: Path) -> None:
    agent = edge(start, tmp_path / "edge", "--no-discovery.mdns").wait_ready()
    config = f'bramble: {{pull_interval: 1s, agents: ["127.0.0.1:{agent.port}"]}}\n'
    flags = ("--no-discovery.mdns", "--web.enable-remote-write-receiver")
    server = hub(start, tmp_path / "hub", *flags, config=config).wait_ready()
    assert undocumented("edge", agent) == set(), "run `make docs`"
    assert undocumented("hub", server) == set(), "run `make docs`"
