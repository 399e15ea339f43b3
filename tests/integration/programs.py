"""Real programs for integration tests: started on free ports, waited for, killed, and never left behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Protocol, TypeVar

import pytest

from common.ctl.client import Client
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
T = TypeVar("T")


def needs(program: str) -> str:
    """The path of a system's program; the test skips, naming its package, where it is not installed."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed (apt-get install prometheus prometheus-node-exporter iproute2)")
    return path


def wait_for(condition: Callable[[], T], what: str, seconds: float = 60.0) -> T:
    """The first truthy result of `condition` (an exception counts as falsy); fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    last: object = None
    while time.monotonic() < deadline:
        try:
            result = condition()
            if result:
                return result
            last = result
        except Exception as err:  # noqa: BLE001 - whatever it is, it is shown if it stays
            last = err
        time.sleep(0.1)
    pytest.fail(f"{what}: not within {seconds} s; last: {last!r}")


class Running:
    """A started program; `url` is its HTTP root if it has a port."""

    def __init__(self, command: Sequence[str], log: Path, port: int = 0, env: dict[str, str] | None = None) -> None:
        self.command, self.log, self.port = list(command), log, port
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=log.parent,
                env={**os.environ, "PYTHONPATH": str(ROOT), "GPIOZERO_PIN_FACTORY": "mock", **(env or {})},
            )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> Client:
        return Client(self.url)

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_ready(self, seconds: float = 60.0) -> "Running":
        """Wait until `/-/ready` answers 200; fails the test, with its output, if it ends before."""
        deadline = time.monotonic() + seconds
        while not self.client.ready():
            status = self.process.poll()
            assert status is None, f"{self.command} ended with {status}:\n{self.output()}"
            assert time.monotonic() < deadline, f"{self.command} not ready:\n{self.output()}"
            time.sleep(0.1)
        return self

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.process.kill()
        self.process.wait(60)

    def stop(self, seconds: float = 60.0) -> int:
        """SIGTERM, and the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


class Start(Protocol):
    """Starts a program and remembers to end it."""

    def __call__(
        self, command: Sequence[str], log: Path, port: int = 0, env: dict[str, str] | None = None
    ) -> Running: ...


@contextmanager
def programs() -> Iterator[Start]:
    """A `Start` whose programs are all killed at the end."""
    started: list[Running] = []

    def start(command: Sequence[str], log: Path, port: int = 0, env: dict[str, str] | None = None) -> Running:
        running = Running(command, log, port, env)
        started.append(running)
        return running

    try:
        yield start
    finally:
        for running in started:
            if running.process.poll() is None:
                running.kill()


def edge(start: Start, folder: Path, *flags: str, port: int = 0, config: str = "") -> Running:
    """An agent with its log and configuration in `folder`, not waited for."""
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    file = folder / "edge.yml"
    file.write_text(config or "sample_interval: 1s\ncommit_interval: 1s\n")
    command = [sys.executable, "-m", "edge.cli", f"--config.file={file}", f"--web.listen-address=127.0.0.1:{port}"]
    return start([*command, f"--storage.path={folder / 'log'}", *flags], folder / "edge.log", port)


def hub(start: Start, folder: Path, *flags: str, port: int = 0, config: str = "") -> Running:
    """A hub with its data and configuration in `folder`, not waited for."""
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    file = folder / "prometheus.yml"
    file.write_text(config or "global: {}\n")
    command = [sys.executable, "-m", "hub.cli", f"--config.file={file}", f"--web.listen-address=127.0.0.1:{port}"]
    return start([*command, f"--storage.tsdb.path={folder / 'data'}", *flags], folder / "hub.log", port)


@contextmanager
def exporter_of(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    """The port of an HTTP server on a thread, whose requests the handler answers."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
