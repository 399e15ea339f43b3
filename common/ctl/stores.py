"""Directories of samples, opened to be read: a hub's store (or a snapshot of one) or an agent's log."""

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

from common.clock import Clock
from common.edgelog.querier import LogQuerier
from common.edgelog.reader import LogFiles, segment_files
from common.errors import StorageError
from common.labels import EMPTY, Labels
from common.tsdb.frozen import open_frozen
from common.tsdb.store import Store


class Kind(StrEnum):
    """What a directory holds."""

    STORE = "hub's store"
    LOG = "agent's log"


def kind_of(path: Path) -> Kind:
    """Which of the two `path` is; StorageError if neither."""
    try:
        names = {each.name for each in path.iterdir()}
        if "wal" in names or "blocks" in names:
            return Kind.STORE
        if "identity.json" in names or segment_files(path):
            return Kind.LOG
    except OSError as err:
        raise StorageError(f"cannot read {path}: {err.strerror or err}") from None
    raise StorageError(
        f"{path} is neither a hub's data directory (it would have wal/ and blocks/) nor an agent's log (*.seg): "
        "give the --storage.tsdb.path of a hub, or the --storage.path of an agent"
    )


@dataclass(frozen=True, slots=True, eq=False)
class OpenStore:
    """A hub's store."""

    querier: Store
    streams: ClassVar = True
    """Whether a selection of any size comes in bounded batches."""

    @property
    def last(self) -> int | None:
        """The newest timestamp, ms."""
        return self.querier.stats().last

    def cells(self) -> Counter[str]:
        """A bound of the samples by metric name."""
        return self.querier.cells()

    def damage(self) -> list[str]:
        """What could not be read, in words."""
        loss = self.querier.stats().loss
        return [f"{name} is damaged and left out" for name in loss.quarantined]

    def close(self) -> None:
        """Release the files."""
        self.querier.close()


@dataclass(frozen=True, slots=True, eq=False)
class OpenLog:
    """An agent's log."""

    querier: LogQuerier
    files: LogFiles
    streams: ClassVar = False

    @property
    def last(self) -> int | None:
        """The newest timestamp, ms."""
        return self.files.last

    def cells(self) -> Counter[str]:
        """A bound of the samples by metric name."""
        return self.querier.cells()

    def damage(self) -> list[str]:
        """What could not be read, in words."""
        loss = self.files.loss
        found = [f"{loss.lost_frames} frames are damaged and left out"] if loss.lost_frames else []
        return [*found, f"{loss.lost_bytes} bytes are damaged and left out"] if loss.lost_bytes else found

    def close(self) -> None:
        """Nothing is open between reads."""


Opened = OpenStore | OpenLog


def open_directory(path: Path, clock: Clock, target: Labels = EMPTY) -> Opened:
    """Open `path` without changing or locking it, whichever kind it is; `target` are labels of a log's series."""
    if kind_of(path) is Kind.STORE:
        return OpenStore(open_frozen(path, clock))
    try:
        files = LogFiles(path)
    except OSError as err:
        raise StorageError(f"cannot read {path}: {err.strerror or err}") from None
    return OpenLog(LogQuerier(files, target), files)
