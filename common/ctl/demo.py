"""Fixture Pis for `bramblectl demo`: copies of small /proc and /sys trees whose counters go on counting."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.clock import Clock
from common.ctl.processes import StartError

TICK_SECONDS = 1.0
USER_HZ = 100


@dataclass(frozen=True, slots=True)
class Tree:
    """A copied tree: `path` holds `proc` and `sys`."""

    name: str
    path: Path


def plant(source: Path, target: Path) -> list[Tree]:
    """Copy every tree below `source` (folders with a `proc`) to `target`, replacing earlier copies."""
    names = sorted(p.name for p in source.iterdir() if (p / "proc").is_dir()) if source.is_dir() else []
    if not names:
        raise StartError(f"no trees with a folder `proc` below {source}: give their folder with --trees DIR")
    shutil.rmtree(target, ignore_errors=True)
    return [Tree(name, Path(shutil.copytree(source / name, target / name, symlinks=True))) for name in names]


def advance_stat(text: str, seconds: float, busy: Sequence[float]) -> str:
    """A /proc/stat in which every CPU has spent `seconds` more: the share `busy[cpu]` in user, the rest idle.

    Columns are those of proc(5): user, nice, system, idle, iowait, ... in USER_HZ ticks.
    """
    lines = []
    for line in text.split("\n"):
        fields = line.split(" ")
        if line.startswith("cpu") and fields[0] != "cpu":
            share = busy[int(fields[0][3:]) % len(busy)]
            ticks = seconds * USER_HZ
            fields[1] = str(int(fields[1]) + round(ticks * share * 0.8))
            fields[3] = str(int(fields[3]) + round(ticks * share * 0.2))
            fields[4] = str(int(fields[4]) + round(ticks * (1 - share)))
            line = " ".join(fields)
        lines.append(line)
    return "\n".join(lines)


async def move(trees: Sequence[Tree], clock: Clock) -> None:
    """Advance every tree's CPU counters once a TICK_SECONDS until cancelled, each by a load of its own."""
    last = clock.monotonic()
    while True:
        await clock.sleep(TICK_SECONDS)
        now = clock.monotonic()
        for number, tree in enumerate(trees):
            path = tree.path / "proc" / "stat"
            busy = [0.05 + 0.07 * number + 0.03 * cpu for cpu in range(4)]
            fresh = path.with_suffix(".new")
            fresh.write_text(advance_stat(path.read_text("ascii"), now - last, busy), "ascii")
            fresh.replace(path)
        last = now
