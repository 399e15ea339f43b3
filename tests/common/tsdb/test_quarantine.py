"""Quarantine keeps damaged bytes within its bound."""

import os
from pathlib import Path

from common.files import SYSTEM_FILES
from common.tsdb.quarantine import Quarantine


def test_the_oldest_go_first_and_what_is_too_large_alone_is_not_kept(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path, SYSTEM_FILES, 100)
    for number in range(3):
        quarantine.put(f"{number}", bytes(40))
        os.utime(tmp_path / f"{number}", ns=(number, number))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]
    quarantine.put("huge", bytes(101))
    assert "huge" not in {path.name for path in tmp_path.iterdir()}
