"""The recording and failing file layers tell the truth about power cuts."""

import errno
from pathlib import Path

import pytest

from common.files import write_atomic
from common.testing_files import Fate, FaultyFiles, Names, RecordingFiles


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_unsynced_data_and_names_may_be_lost_and_synced_ones_not(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    files = RecordingFiles(root)
    out = files.create(root / "log")
    out.write(b"aaaa")
    out.sync()
    files.sync_dir(root)
    files.mark("a")
    out.write(b"bbbb")
    out.close()
    last = {
        (s.fate, s.names): (contents(s.path), s.marks)
        for s in files.crash_states(tmp_path / "scratch")
        if s.point == files.operations
    }
    assert last == {
        (Fate.LOST, Names.LOST): ({"log": b"aaaa"}, ("a",)),
        (Fate.KEPT, Names.LOST): ({"log": b"aaaabbbb"}, ("a",)),
        (Fate.TORN, Names.LOST): ({"log": b"aaaabb"}, ("a",)),
        (Fate.ZEROS, Names.LOST): ({"log": b"aaaa\0\0\0\0"}, ("a",)),
    }


def test_a_new_file_may_vanish_until_its_directory_is_synced(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    files = RecordingFiles(root)
    out = files.create(root / "log")
    out.write(b"aaaa")
    out.sync()
    out.close()
    states = [contents(s.path) for s in files.crash_states(tmp_path / "scratch") if s.point == files.operations]
    assert {} in states
    assert {"log": b"aaaa"} in states


def test_an_atomic_write_leaves_the_old_or_the_new_content_in_every_crash_state(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "state").write_bytes(b"old")
    files = RecordingFiles(root)
    write_atomic(root / "state", b"new content", files)
    files.mark("done")
    seen = set()
    for state in files.crash_states(tmp_path / "scratch"):
        data = (state.path / "state").read_bytes()
        assert data in (b"old", b"new content")
        assert data == b"new content" or not state.marks
        seen.add(data)
    assert len(seen) == 2


def test_a_full_disk_takes_a_part_and_then_says_so(tmp_path: Path) -> None:
    files = FaultyFiles()
    files.room = 6
    out = files.create(tmp_path / "log")
    out.write(b"aaaa")
    with pytest.raises(OSError, match="No space"):
        out.write(b"bbbb")
    out.close()
    assert (tmp_path / "log").read_bytes() == b"aaaabb"
    files.unlink(tmp_path / "log")
    assert files.room == 6


@pytest.mark.parametrize("operation", ["create", "append", "replace", "unlink", "mkdir", "rmdir", "sync_dir"])
def test_each_operation_fails_when_told(tmp_path: Path, operation: str) -> None:
    files = FaultyFiles()
    files.failing[operation] = errno.EIO
    arguments = (tmp_path / "a", tmp_path / "b") if operation == "replace" else (tmp_path / "a",)
    with pytest.raises(OSError, match="Input/output"):
        getattr(files, operation)(*arguments)
