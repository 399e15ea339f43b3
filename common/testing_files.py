"""Fakes of the file layer: one records what is written and rebuilds what a power cut may leave, one fails at will."""

import errno
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from common.files import SYSTEM_FILES, Appender, Files, SystemAppender, SystemFiles


class Fate(StrEnum):
    """What became of the data that was written and never synced."""

    LOST = "lost"
    KEPT = "kept"
    TORN = "torn"
    """Of what was appended, the first half arrived."""
    ZEROS = "zeros"
    """The new length arrived, the data did not (delayed allocation)."""


class Names(StrEnum):
    """What became of creations, renames and removals since the last sync of their directory."""

    LOST = "lost"
    KEPT = "kept"


@dataclass(frozen=True, slots=True)
class CrashState:
    """A directory as a power cut after `point` operations may leave it; `marks` is what had been marked by then."""

    point: int
    fate: Fate
    names: Names
    marks: tuple[object, ...]
    path: Path


@dataclass(slots=True)
class _Inode:
    durable: bytes = b""
    now: bytearray = field(default_factory=bytearray)

    def after(self, fate: Fate) -> bytes:
        if fate is Fate.LOST:
            return self.durable
        if fate is Fate.KEPT or not self.now.startswith(self.durable):
            return bytes(self.now)
        added = len(self.now) - len(self.durable)
        if fate is Fate.ZEROS:
            return self.durable + bytes(added)
        return bytes(self.now[: len(self.durable) + added // 2])


@dataclass(frozen=True, slots=True)
class _Step:
    kind: str
    inode: int = 0
    path: Path = Path()
    target: Path = Path()
    data: bytes = b""
    size: int = 0
    mark: object = None


class UnsyncedFiles(SystemFiles):
    """The machine's files without syncing: for tests that don't ask what a power cut leaves."""

    def create(self, path: Path) -> Appender:
        return _UnsyncedAppender(path, os.O_CREAT | os.O_EXCL)

    def append(self, path: Path) -> Appender:
        return _UnsyncedAppender(path, 0)

    def sync_dir(self, path: Path) -> None:
        pass


class _UnsyncedAppender(SystemAppender):
    def sync(self) -> None:
        pass


class RecordingFiles:
    """Files that works on the disk and records every change under `root`."""

    def __init__(self, root: Path, inner: Files = SYSTEM_FILES) -> None:
        """What lies under `root` already counts as durable."""
        self.root = root
        self._inner = inner
        self._steps: list[_Step] = []
        self._inodes: dict[Path, int] = {}
        self._base: dict[Path, bytes] = {}
        self._count = 0
        for path in sorted(root.rglob("*")) if root.is_dir() else []:
            if path.is_file():
                self._base[path] = path.read_bytes()
                self._number(path)

    def _number(self, path: Path) -> int:
        self._count += 1
        self._inodes[path] = self._count
        return self._count

    def record(self, step: _Step) -> None:
        """Append one operation."""
        self._steps.append(step)

    def mark(self, what: object) -> None:
        """Note that `what` is acknowledged from here on: every later crash state lists it in `marks`."""
        self.record(_Step("mark", mark=what))

    @property
    def operations(self) -> int:
        """How many operations were recorded."""
        return len(self._steps)

    def create(self, path: Path) -> Appender:
        inner = self._inner.create(path)
        inode = self._number(path)
        self.record(_Step("create", inode, path))
        return _RecordingAppender(self, inner, inode)

    def append(self, path: Path) -> Appender:
        return _RecordingAppender(self, self._inner.append(path), self._inodes[path])

    def replace(self, source: Path, target: Path) -> None:
        self._inner.replace(source, target)
        self._inodes[target] = self._inodes.pop(source)
        self.record(_Step("replace", path=source, target=target))

    def unlink(self, path: Path) -> None:
        self._inner.unlink(path)
        if self._inodes.pop(path, None) is not None:
            self.record(_Step("unlink", path=path))

    def mkdir(self, path: Path) -> None:
        self._inner.mkdir(path)
        self.record(_Step("mkdir", path=path))

    def rmdir(self, path: Path) -> None:
        self._inner.rmdir(path)

    def sync_dir(self, path: Path) -> None:
        self._inner.sync_dir(path)
        self.record(_Step("sync_dir", path=path))

    def crash_states(self, scratch: Path, every: int = 1) -> Iterator[CrashState]:
        """What a power cut may leave after each recorded operation (each `every`-th), built in `scratch` one by one.

        `scratch` is emptied before each state. A state that equals the one before it at the same point is left out.
        """
        for point in range(0, len(self._steps) + 1, every):
            seen: list[dict[Path, bytes]] = []
            for fate in Fate:
                for names in Names:
                    tree, marks = self._replay(point, fate, names)
                    if tree in seen:
                        continue
                    seen.append(tree)
                    self._build(scratch, tree, point)
                    yield CrashState(point, fate, names, marks, scratch)

    def _build(self, scratch: Path, tree: dict[Path, bytes], point: int) -> None:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        for step in self._steps[:point]:
            if step.kind == "mkdir" and step.path.is_relative_to(self.root):
                (scratch / step.path.relative_to(self.root)).mkdir(parents=True, exist_ok=True)
        for path, data in tree.items():
            place = scratch / path.relative_to(self.root)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)

    def _replay(self, point: int, fate: Fate, names: Names) -> tuple[dict[Path, bytes], tuple[object, ...]]:
        inodes: dict[int, _Inode] = {}
        current: dict[Path, int] = {}
        for number, (path, data) in enumerate(self._base.items(), 1):
            inodes[number] = _Inode(data, bytearray(data))
            current[path] = number
        durable = dict(current)
        marks: list[object] = []
        for step in self._steps[:point]:
            match step.kind:
                case "create":
                    inodes[step.inode] = _Inode()
                    current[step.path] = step.inode
                case "write":
                    inodes[step.inode].now += step.data
                case "truncate":
                    del inodes[step.inode].now[step.size :]
                case "sync":
                    inodes[step.inode].durable = bytes(inodes[step.inode].now)
                case "replace":
                    current[step.target] = current.pop(step.path)
                case "unlink":
                    current.pop(step.path, None)
                case "sync_dir":
                    durable = {p: i for p, i in durable.items() if p.parent != step.path}
                    durable.update({p: i for p, i in current.items() if p.parent == step.path})
                case "mark":
                    marks.append(step.mark)
        tree = durable if names is Names.LOST else current
        return {path: inodes[inode].after(fate) for path, inode in tree.items()}, tuple(marks)


class _RecordingAppender:
    def __init__(self, files: RecordingFiles, inner: Appender, inode: int) -> None:
        self._files = files
        self._inner = inner
        self._inode = inode

    @property
    def path(self) -> Path:
        return self._inner.path

    @property
    def size(self) -> int:
        return self._inner.size

    def write(self, data: bytes) -> None:
        self._inner.write(data)
        self._files.record(_Step("write", self._inode, data=bytes(data)))

    def sync(self) -> None:
        self._inner.sync()
        self._files.record(_Step("sync", self._inode))

    def truncate(self, size: int) -> None:
        self._inner.truncate(size)
        self._files.record(_Step("truncate", self._inode, size=size))

    def reserve(self, size: int) -> None:
        self._inner.reserve(size)

    def close(self) -> None:
        self._inner.close()


class FaultyFiles:
    """Files that fails where told: `failing` maps an operation's name (`write`, `sync`, `create`, …) to an errno.

    A failing write leaves half of its data behind. `room` is how many more bytes fit until ENOSPC; None for no limit.
    """

    def __init__(self, inner: Files = SYSTEM_FILES) -> None:
        self._inner = inner
        self.failing: dict[str, int] = {}
        self.room: int | None = None

    def check(self, operation: str, path: Path) -> None:
        """Raise what `failing` asks for."""
        number = self.failing.get(operation)
        if number is not None:
            raise OSError(number, os.strerror(number), str(path))

    def create(self, path: Path) -> Appender:
        self.check("create", path)
        return _FaultyAppender(self, self._inner.create(path))

    def append(self, path: Path) -> Appender:
        self.check("append", path)
        return _FaultyAppender(self, self._inner.append(path))

    def replace(self, source: Path, target: Path) -> None:
        self.check("replace", target)
        self._inner.replace(source, target)

    def unlink(self, path: Path) -> None:
        self.check("unlink", path)
        if self.room is not None and path.exists():
            self.room += path.stat().st_size
        self._inner.unlink(path)

    def mkdir(self, path: Path) -> None:
        self.check("mkdir", path)
        self._inner.mkdir(path)

    def rmdir(self, path: Path) -> None:
        self.check("rmdir", path)
        self._inner.rmdir(path)

    def sync_dir(self, path: Path) -> None:
        self.check("sync_dir", path)
        self._inner.sync_dir(path)


class _FaultyAppender:
    def __init__(self, files: FaultyFiles, inner: Appender) -> None:
        self._files = files
        self._inner = inner

    @property
    def path(self) -> Path:
        return self._inner.path

    @property
    def size(self) -> int:
        return self._inner.size

    def write(self, data: bytes) -> None:
        files = self._files
        fits = len(data)
        if "write" in files.failing:
            fits = len(data) // 2
        elif files.room is not None:
            fits = min(fits, files.room)
            files.room -= fits
        self._inner.write(data[:fits])
        files.check("write", self.path)
        if fits < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def sync(self) -> None:
        self._files.check("sync", self.path)
        self._inner.sync()

    def truncate(self, size: int) -> None:
        self._files.check("truncate", self.path)
        if self._files.room is not None:
            self._files.room += max(0, self.size - size)
        self._inner.truncate(size)

    def reserve(self, size: int) -> None:
        self._inner.reserve(size)

    def close(self) -> None:
        self._inner.close()
