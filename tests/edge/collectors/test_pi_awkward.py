"""Captured Raspberry Pis with one file broken at a time: what does not come from that file stays as it was."""

import os
import random
from pathlib import Path

import pytest

from common.clock import SystemClock
from common.errors import BrambleError
from edge.collectors.registry import build_collectors
from tests.edge.collectors.test_pi_facts import copy_with_links

pytestmark = pytest.mark.conformance

TRIES = 6
"""Files broken in each tree; which ones, the seed says."""

CHANGING = frozenset({"time", "timex", "filesystem", "processes", "rpi_rtc", "rpi_firmware", "uname"})
"""Collectors that ask this machine or the clock, and so differ from run to run."""

SOLE_SOURCES = frozenset({"loadavg", "meminfo", "stat", "cpu"})
"""Collectors of one file, which fail as a whole with it."""

GARBAGE = (b"", b"\0\0\0\0", b"\xff\xfe garbage \x85\x1c\n", b"9" * 5000, None)
"""None: the file is gone."""

Series = tuple[str, tuple[str, ...], float]


def read(root: Path) -> dict[str, set[Series] | None]:
    """Collector -> its series, or None if it failed."""
    given = {
        "path.procfs": f"{root}/proc",
        "path.sysfs": f"{root}/sys",
        "path.rootfs": str(root),
        "collector.rpi_firmware.vcgencmd": "",
    }
    found: dict[str, set[Series] | None] = {}
    for collector in build_collectors(given, SystemClock()):
        if collector.name in CHANGING:
            continue
        look = getattr(collector, "read", collector.collect)
        try:
            found[collector.name] = {
                (desc.name, labels, value)
                for desc, labels, value in look(lambda what, error: None)
                if "timestamp" not in desc.name
            }
        except (BrambleError, OSError):
            found[collector.name] = None
        collector.close()
    return found


@pytest.mark.parametrize("name", ["pi-4", "pi-5", "pi-zero-2w", "cm4"])
def test_one_broken_file_costs_only_what_comes_from_it(name: str, shared: Path, tmp_path: Path) -> None:
    copy_with_links(shared / "pi-fixtures" / name, tmp_path)
    before = read(tmp_path)
    files = sorted(
        path
        for folder in ("proc", "sys")
        for path in (tmp_path / folder).rglob("*")
        if path.is_file() and not path.is_symlink()
    )
    rng = random.Random(name)
    for path in rng.sample(files, min(TRIES, len(files))):
        kept, garbage = path.read_bytes(), rng.choice(GARBAGE)
        if garbage is None:
            path.unlink()
        else:
            path.write_bytes(garbage)
        after = read(tmp_path)
        path.write_bytes(kept)
        shown = os.path.relpath(path, tmp_path)
        touched = {collector for collector in before if before[collector] != after[collector]}
        assert len(touched) <= 3, f"{shown} as {garbage!r} changed {touched}"
        for collector in touched - SOLE_SOURCES:
            old, new = before[collector] or set(), after[collector] or set()
            # A table holds many series, a chip's or a board's name is part of all of its own, CPUs share a policy.
            named = path.name in ("name", "type", "model", "linux,revision", "mounts", "wireless", "dev", "err_stats")
            named = named or path.name == "get_throttled" or path.name.startswith("scaling_")
            assert named or len(old - new) <= 6, f"{shown} as {garbage!r} cost {collector} {sorted(old - new)[:10]}"
