"""Copies a store's directory while it is in use; the copy opens as a store of its own."""

import os
import shutil
from pathlib import Path


def copy_store(source: Path, target: Path) -> None:
    """Blocks as hard links where the file system can, the log as a copy; durable. `target` must not exist.

    The caller keeps blocks and segments from being removed meanwhile. A segment may grow: what is copied of a record
    that is not whole is cut off when the copy is opened. OSError; what was copied is then removed.
    """
    target.parent.mkdir(exist_ok=True)
    target.mkdir()
    try:
        for folder in ("blocks", "wal"):
            (target / folder).mkdir()
        for path in sorted((source / "blocks").iterdir()):
            if path.suffix != ".tmp":
                _link(path, target / "blocks" / path.name)
        for path in sorted((source / "wal").glob("*.wal")):
            shutil.copyfile(path, target / "wal" / path.name)
        for path in (*sorted((target / "wal").iterdir()), target / "wal", target / "blocks", target, target.parent):
            _sync(path)
    except OSError:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:
        # FAT and some network file systems have no links.
        shutil.copyfile(source, target)
        _sync(target)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
