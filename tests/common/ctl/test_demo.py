"""Fixture Pis whose counters go on counting."""

from pathlib import Path

import pytest

from common.ctl.demo import advance_stat, plant
from common.ctl.processes import StartError


def test_cpu_time_advances_by_the_seconds_that_passed() -> None:
    before = "cpu  1 0 1 9 0\ncpu0 10 0 10 100 0 0 0\nintr 5\n"
    after = advance_stat(before, 2.0, [0.5])
    fields = [int(n) for n in after.split("\n")[1].split()[1:]]
    assert sum(fields) - 120 == 200
    assert fields[:4] == [90, 0, 30, 200]
    assert after.split("\n")[2] == "intr 5"


def test_planting_copies_every_tree_afresh(tmp_path: Path) -> None:
    (tmp_path / "src" / "pi" / "proc").mkdir(parents=True)
    (tmp_path / "src" / "pi" / "proc" / "stat").write_text("cpu0 1\n")
    (tmp_path / "src" / "README.md").write_text("")
    (tmp_path / "dst" / "old").mkdir(parents=True)
    (tree,) = plant(tmp_path / "src", tmp_path / "dst")
    assert (tree.name, (tree.path / "proc" / "stat").read_text()) == ("pi", "cpu0 1\n")
    assert not (tmp_path / "dst" / "old").exists()


def test_a_folder_without_trees_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="give their folder with --trees DIR"):
        plant(tmp_path, tmp_path / "dst")
