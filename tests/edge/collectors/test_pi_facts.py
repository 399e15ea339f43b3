"""Captured Raspberry Pis: every fact that a right agent finds, by name, labels and value."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from common.clock import SystemClock
from edge.collectors.registry import build_runner

pytestmark = pytest.mark.conformance

TREES = ("cm4", "pi-4", "pi-5", "pi-zero-2w")
OTHERWISE = {"rpi_wifi_link_quality_ratio": "rpi_wifi_link_quality"}
"""Facts that give the driver's number where the metric proposed for them is a ratio: both are here."""

Series = tuple[str, dict[str, str], float]


def copy_with_links(source: Path, target: Path) -> None:
    """Copy a tree whose links may have become files that hold their target."""
    for folder, _, names in os.walk(source):
        here = target / Path(folder).relative_to(source)
        here.mkdir(parents=True, exist_ok=True)
        for name in names:
            path = Path(folder) / name
            if path.is_symlink():
                (here / name).symlink_to(path.readlink())
                continue
            data = path.read_bytes()
            if data.startswith((b"../", b"/sys/firmware")) and b"\n" not in data:
                (here / name).symlink_to(data.decode())
            else:
                (here / name).write_bytes(data)


@pytest.fixture
def pi(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[Series]]:
    """Series of one tree, with the stand-in for vcgencmd on the path."""

    def collect(name: str) -> list[Series]:
        source, root = shared / "pi-fixtures" / name, tmp_path / name
        copy_with_links(source, root)
        program = tmp_path / "bin" / "vcgencmd"
        program.parent.mkdir()
        shutil.copy(shared / "pi-fixtures/bin/vcgencmd", program)
        program.chmod(0o755)
        monkeypatch.setenv("PI_FIXTURE", str(root))
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        given = {"path.procfs": f"{root}/proc", "path.sysfs": f"{root}/sys", "path.rootfs": str(root)}
        runner = build_runner(given, SystemClock())
        try:
            for collector in runner.background():
                collector.round()
            results = runner.collect()
        finally:
            runner.close()
        return [
            (desc.name, dict(zip(desc.labels, values, strict=True)), value)
            for result in results
            for desc, values, value in result.samples
        ]

    return collect


@pytest.mark.parametrize("name", TREES)
def test_every_fact_of_a_captured_pi_is_reported(name: str, pi: Callable[[str], list[Series]], shared: Path) -> None:
    series = pi(name)
    missing: list[str] = []
    for fact in json.loads((shared / "pi-fixtures" / name / "facts.json").read_text("utf-8")):
        metric, labels, value = fact["metric"], fact["labels"], fact["value"]
        if value is None:
            found = [s for s in series if s[0] == metric]
            assert not found, f"{fact['what']}: there must be no series, got {found}"
            continue
        metric = OTHERWISE.get(metric, metric)
        if metric.endswith("_info") and value != 1:
            number = 1.0
            if metric == "rpi_mmc_info":
                labels = {**labels, "name": value}
        else:
            number = float(value)
        hits = [s for s in series if s[0] == metric and labels.items() <= s[1].items()]
        if not any(s[2] == pytest.approx(number, rel=1e-6) for s in hits):
            missing.append(f"{fact['what']}: {metric}{labels} = {value}, got {hits}")
    assert not missing, "\n".join(missing)
