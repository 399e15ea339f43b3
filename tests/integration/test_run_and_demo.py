"""`bramblectl run` and `bramblectl demo`, as `make run` and `make demo` call them."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.programs import ROOT, Running, Start, wait_for
from tests.ports import free_port

pytestmark = [pytest.mark.integration, pytest.mark.alone]
CTL = [sys.executable, "-m", "common.ctl.cli"]


def ctl(*arguments: str, seconds: float = 90) -> subprocess.CompletedProcess[str]:
    """bramblectl's output and status."""
    env = {**os.environ, "GPIOZERO_PIN_FACTORY": "mock"}
    return subprocess.run(
        [*CTL, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=seconds, check=False
    )


def ports() -> list[str]:
    """Flags for free ports: the hub's and those of five agents, which take the ones from the first on."""
    return [f"--hub-port={free_port()}", f"--edge-port={free_port(following=4)}"]


def shows(program: Running, pattern: str) -> bool:
    """Whether the program's output matches; fails the test at once if the program has ended."""
    if program.process.poll() is not None:
        pytest.fail(program.output())
    return re.search(pattern, program.output()) is not None


def test_run_shows_real_figures_of_this_machine_and_stops_cleanly(tmp_path: Path) -> None:
    done = ctl("run", "--once", f"--data={tmp_path}", *ports())
    assert done.returncode == 0, done.stderr + done.stdout
    assert "the hub found 1 agent by mDNS" in done.stdout
    row = re.search(r":\d+ +up +(\d+) +([\d.]+) +([\d.]+) % +([\d.]+) % ", done.stdout)
    assert row, done.stdout
    assert int(row[1]) > 100
    assert re.search(r"alerts +GPIO17 +off +○ off", done.stdout), done.stdout
    assert done.stderr == ""


def test_without_mdns_the_hub_is_given_addresses_and_says_so(tmp_path: Path) -> None:
    done = ctl("run", "--once", "--no-discovery.mdns", f"--data={tmp_path}", *ports())
    assert done.returncode == 0, done.stderr + done.stdout
    assert "by static addresses" in done.stdout


def test_demo_finds_five_pis_and_the_hot_one_blinks_the_lamp(start: Start, tmp_path: Path) -> None:
    env = {"PYTHONUNBUFFERED": "1"}
    command = [*CTL, "demo", f"--data={tmp_path / 'data'}", f"--trees={ROOT / 'tests/fixtures/pis'}", *ports()]
    demo = start(command, tmp_path / "demo.log", env=env)
    try:
        wait_for(lambda: shows(demo, r"lamp alerts \(GPIO17\): blink|GPIO17 +blink"), f"blinks\n{demo.output()}", 120)
        output = demo.output()
        assert "found 5 agents" in output
        assert re.search(r"greenhouse-pi5\S* +up .* 86\.2 °C", output), output
        assert re.search(r"alert \S+ greenhouse-pi5\S*: \w+ -> firing|greenhouse-pi5.* firing", output), output
    finally:
        demo.process.send_signal(signal.SIGINT)
        status = demo.process.wait(60)
    assert status == 0, demo.output()


def test_a_port_asked_for_that_is_in_use_is_named_with_a_way_out(tmp_path: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        done = ctl("run", "--once", f"--data={tmp_path}", f"--hub-port={port}")
    assert done.returncode == 1
    assert done.stderr == (f"bramblectl: port {port} is in use; choose another with HUB_PORT=PORT, or leave it out\n")


def test_a_folder_that_cannot_be_written_is_named_with_a_way_out() -> None:
    done = ctl("run", "--once", "--data=/proc/bramble")
    assert done.returncode == 1
    assert done.stderr.startswith("bramblectl: cannot write to /proc/bramble: ")
    assert "choose another folder with DATA=DIR" in done.stderr
