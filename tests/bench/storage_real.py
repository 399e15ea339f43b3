"""The real series of this machine: node_exporter's, scraped every second for as long as it is wanted."""

import threading
import time
import urllib.request
from pathlib import Path

import numpy as np

from common.exposition.lines import LineParser
from common.exposition.parse import Format
from common.frames.model import ABSENT, PRESENT
from common.labels import Labels
from tests.bench.storage import Target
from tests.bench.storage_peers import Server


class Recorder(threading.Thread):
    """Scrapes until it is stopped."""

    def __init__(self, binary: str, folder: Path) -> None:
        super().__init__(daemon=True)
        self._server = Server("node_exporter", [binary, "--web.listen-address=127.0.0.1:{port}"], folder / "exporter")
        self._done = threading.Event()
        self._parser = LineParser()
        self._slots: list[tuple[int, dict[Labels, float]]] = []

    def run(self) -> None:
        while not self._done.wait(1 - time.time() % 1):
            at = int(time.time() * 1000)
            try:
                with urllib.request.urlopen(f"{self._server.url}/metrics", timeout=5) as answer:
                    exposed = self._parser.parse(answer.read(), Format.TEXT)
            except OSError:
                continue
            self._slots.append((at, dict(zip(exposed.labels, exposed.values, strict=True))))

    def stop(self) -> list[Target]:
        """What was seen, as one target."""
        self._done.set()
        self.join()
        self._server.stop()
        slots = self._slots
        labels = list(dict.fromkeys(key for _, seen in slots for key in seen))
        values = np.array([[seen.get(key, np.nan) for _, seen in slots] for key in labels])
        there = np.array([[key in seen for _, seen in slots] for key in labels])
        states = np.where(there, PRESENT, ABSENT).astype(np.uint8)
        return [Target("this:9100", labels, np.array([at for at, _ in slots]), values, states)]
