"""Atomic replacement, directory locks, errors that say what to do."""

import errno
from pathlib import Path

import pytest

from common.errors import StorageError
from common.files import SYSTEM_FILES, DirectoryLock, explain, write_atomic


def test_a_file_is_replaced_whole_and_leaves_no_temporary(tmp_path: Path) -> None:
    target = tmp_path / "state"
    write_atomic(target, b"one")
    (tmp_path / "state.tmp").write_bytes(b"left by a crash")
    write_atomic(target, b"two")
    assert target.read_bytes() == b"two"
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


def test_an_appender_continues_at_the_end_and_cuts(tmp_path: Path) -> None:
    path = tmp_path / "log"
    out = SYSTEM_FILES.create(path)
    out.write(b"abc")
    out.close()
    out.close()
    out = SYSTEM_FILES.append(path)
    out.write(b"def")
    assert out.size == 6
    out.truncate(4)
    out.sync()
    out.close()
    assert path.read_bytes() == b"abcd"


def test_reserved_blocks_change_no_size_and_are_given_back(tmp_path: Path) -> None:
    out = SYSTEM_FILES.create(tmp_path / "log")
    out.reserve(1 << 20)
    out.write(b"abc")
    assert out.size == (tmp_path / "log").stat().st_size == 3
    out.truncate(out.size)
    out.close()
    assert (tmp_path / "log").read_bytes() == b"abc"
    assert (tmp_path / "log").stat().st_blocks * 512 < 1 << 20


def test_a_new_file_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"kept")
    with pytest.raises(FileExistsError):
        SYSTEM_FILES.create(tmp_path / "log")


def test_a_locked_directory_names_its_holder(tmp_path: Path) -> None:
    with DirectoryLock(tmp_path, "bramble-edge"), pytest.raises(StorageError, match=r"bramble-edge \(process \d+\)"):
        DirectoryLock(tmp_path, "bramble-edge")
    DirectoryLock(tmp_path, "bramble-edge").close()


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.EACCES, "writable for the user"), (errno.EROFS, "remount"), (errno.ENOSPC, "free some space"),
     (errno.ENOTDIR, "in the way"), (errno.EIO, "dmesg")],
)  # fmt: skip
def test_errors_say_what_to_do(number: int, advice: str) -> None:
    error = explain(OSError(number, "x"), Path("/data"), "log.path")
    assert str(error).startswith("cannot write /data: ")
    assert advice in str(error)
    assert "log.path" in str(error)
    assert error.errno == number
