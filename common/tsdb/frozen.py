"""A store opened to be read only, beside a hub that writes it: no file is changed, no lock is taken."""

from pathlib import Path

from common.clock import Clock
from common.errors import StorageError
from common.files import Appender
from common.tsdb.options import StoreOptions
from common.tsdb.store import Store

MAX_TRIES = 10


class FrozenFiles:
    """Files that nothing happens to: what recovery would repair it leaves out of what is read."""

    def create(self, path: Path) -> Appender:
        return _Sink(path, 0)

    def append(self, path: Path) -> Appender:
        return _Sink(path, path.stat().st_size)

    def replace(self, source: Path, target: Path) -> None:
        pass

    def unlink(self, path: Path) -> None:
        pass

    def mkdir(self, path: Path) -> None:
        pass

    def rmdir(self, path: Path) -> None:
        pass

    def sync_dir(self, path: Path) -> None:
        pass


class _Sink:
    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size

    @property
    def path(self) -> Path:
        return self._path

    @property
    def size(self) -> int:
        return self._size

    def write(self, data: bytes) -> None:
        self._size += len(data)

    def sync(self) -> None:
        pass

    def truncate(self, size: int) -> None:
        self._size = size

    def reserve(self, size: int) -> None:
        pass

    def close(self) -> None:
        pass


def open_frozen(path: Path, clock: Clock, options: StoreOptions | None = None) -> Store:
    """What is durable in `path` now; call nothing that appends, cuts or deletes. StorageError if it can't be read.

    A hub may cut and compact meanwhile: samples move from the log to a block, from blocks to another. Was that so, it
    is opened again.
    """
    for _ in range(MAX_TRIES):
        before = _names(path)
        try:
            store = Store.open(path, options or StoreOptions(), clock, FrozenFiles(), exclusive=False)
        except StorageError as err:
            if isinstance(err.__cause__, FileNotFoundError):
                continue
            raise StorageError(f"cannot read {path}: {err.__cause__ or err}") from None
        after = _names(path)
        if before[0] == after[0] and before[1] <= after[1]:
            return store
        store.close()
    raise StorageError(f"{path} changes faster than it can be read: take a snapshot (/api/v1/admin/tsdb/snapshot)")


def _names(path: Path) -> tuple[dict[str, int], frozenset[str]]:
    """What must stay the same while a store is opened (blocks and deletions), and what must not vanish (the log)."""
    try:
        blocks = {each.name: each.stat().st_ino for each in (path / "blocks").iterdir() if each.suffix != ".tmp"}
    except FileNotFoundError:
        blocks = {}
    return blocks, frozenset(each.name for each in (path / "wal").glob("*.wal"))
