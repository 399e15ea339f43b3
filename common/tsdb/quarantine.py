"""Damaged bytes, kept for inspection within a bound."""

from pathlib import Path

from common.files import Files, write_atomic


class Quarantine:
    """A directory of at most `limit` bytes; the oldest files go first, and what is larger alone is not kept."""

    def __init__(self, folder: Path, files: Files, limit: int) -> None:
        self._folder = folder
        self._files = files
        self._limit = limit

    def put(self, name: str, data: bytes) -> None:
        """Keep these bytes. OSError as usual."""
        # A snapshot that is only read has no such folder, and gets none.
        found = self._folder.iterdir() if self._folder.exists() else ()
        files = sorted(found, key=lambda p: p.stat().st_mtime_ns)
        room = self._limit - len(data)
        total = sum(p.stat().st_size for p in files)
        for path in files:
            if total <= room:
                break
            total -= path.stat().st_size
            self._files.unlink(path)
        if room >= 0:
            write_atomic(self._folder / name, data, self._files)
