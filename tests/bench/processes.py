"""Programs that benchmarks start, and what the kernel says of them."""

import contextlib
import http.client
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Program:
    """A started server on a port of 127.0.0.1; its log goes to `log`."""

    def __init__(self, name: str, argv: Sequence[str], port: int, log: Path) -> None:
        self.name = name
        self.port = port
        with log.open("ab") as out:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=ROOT)
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.get("/-/ready")[0] == 200:
                    return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{name} does not answer:\n{log.read_text()[-2000:]}")
            time.sleep(0.1)

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        """Status and body of a GET on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        """The sum of a metric's samples on its /metrics."""
        text = self.get("/metrics")[1].decode()
        return sum(float(each) for each in re.findall(rf"^{name}(?:{{[^\n]*}})? (\S+)$", text, re.MULTILINE))

    def cpu(self) -> float:
        """CPU seconds of all threads, also of those that ended."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        tasks = Path(f"/proc/{self.process.pid}/task")
        live = 0
        for task in tasks.iterdir():
            with contextlib.suppress(OSError):
                live += int((task / "schedstat").read_text().split()[0])
        # schedstat is finer, but forgets threads that ended.
        return max(live / 1e9, ticks - 0.02)

    def memory(self) -> dict[str, float]:
        """Resident memory now and at its peak, MB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return {key: int(re.findall(rf"^{key}:\s+(\d+)", text, re.MULTILINE)[0]) / 1024 for key in ("VmRSS", "VmHWM")}

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(60)


@contextlib.contextmanager
def running(programs: list[Program]) -> Iterator[None]:
    """End these (the list may grow meanwhile) whatever happens."""
    try:
        yield
    finally:
        for program in programs:
            program.stop()


def hub_argv(config: Path, data: Path, port: int, *flags: str) -> list[str]:
    """The command line of a hub of this checkout."""
    return [
        *(sys.executable, "-m", "hub.cli", f"--config.file={config}", f"--storage.tsdb.path={data}"),
        *(f"--web.listen-address=127.0.0.1:{port}", "--no-discovery.mdns", *flags),
    ]
