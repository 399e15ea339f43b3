"""Trees of files for collectors, and a place for what they skip."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from common.exposition.model import Reading
from common.testing import FakeClock
from edge.collectors.background import BackgroundCollector
from edge.collectors.base import Collector, Paths


class Skipped(list[str]):
    """Callable that remembers the subjects it was told of."""

    def __call__(self, what: str, error: Exception) -> None:
        self.append(what)


@pytest.fixture
def skipped() -> Skipped:
    return Skipped()


@pytest.fixture
def tree(tmp_path: Path) -> Callable[[Mapping[str, str | bytes]], Paths]:
    """Write files below a fresh root and get the Paths for it."""

    def write(files: Mapping[str, str | bytes]) -> Paths:
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return Paths(str(tmp_path / "proc"), str(tmp_path / "sys"), str(tmp_path), str(tmp_path / "udev"))

    return write


@pytest.fixture
def read(
    tree: Callable[[Mapping[str, str | bytes]], Paths], skipped: Skipped
) -> Callable[..., dict[tuple[str, ...], float]]:
    """Run a collector on files: `(metric name, label values...)` -> value."""

    def run(kind: type[Collector], files: Mapping[str, str | bytes], **options: object) -> dict[tuple[str, ...], float]:
        collector = kind(tree(files), kind.options_type(**options), FakeClock())
        try:
            return values(collector.collect(skipped))
        finally:
            collector.close()

    return run


@pytest.fixture
def read_once(
    tree: Callable[[Mapping[str, str | bytes]], Paths], skipped: Skipped
) -> Callable[..., dict[tuple[str, ...], float]]:
    """One round of a background collector on files, as `read` gives it."""

    def run(kind: type[BackgroundCollector], files: Mapping[str, str | bytes]) -> dict[tuple[str, ...], float]:
        return values(kind(tree(files), kind.options_type(), FakeClock()).read(skipped))

    return run


def values(readings: list[Reading]) -> dict[tuple[str, ...], float]:
    """Readings by metric name and label values; a series read twice is an error."""
    found: dict[tuple[str, ...], float] = {}
    for desc, labels, value in readings:
        key = (desc.name, *labels)
        assert key not in found, f"{key} was read twice"
        assert len(labels) == len(desc.labels)
        found[key] = value
    return found
