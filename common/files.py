"""The one layer through which stores write to disk: what tests record, cut short and make fail.

Reading needs no seam: a crash state is rebuilt as a real directory. All methods block and raise OSError.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import resource
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from common.errors import StorageError

_KEEP_SIZE = 1
"""FALLOC_FL_KEEP_SIZE of fallocate(2)."""

_fallocate = getattr(ctypes.CDLL(None), "fallocate64", None)


class Appender(Protocol):
    """A file open for appending."""

    @property
    def path(self) -> Path:
        """Where it lies."""
        ...

    @property
    def size(self) -> int:
        """Bytes in the file, written or there before."""
        ...

    def write(self, data: bytes) -> None:
        """Append all of `data`; after an OSError an unknown part of it is there."""
        ...

    def sync(self) -> None:
        """Make everything written durable (fdatasync); after an OSError never sync this file again, write another."""
        ...

    def truncate(self, size: int) -> None:
        """Cut to `size` bytes; durable with the next `sync`."""
        ...

    def reserve(self, size: int) -> None:
        """Set blocks aside for a file of `size` bytes, where the file system can; its size stays.

        Appending then changes less metadata. `truncate` gives back what was not used.
        """
        ...

    def close(self) -> None:
        """Close without syncing; idempotent."""
        ...


class Files(Protocol):
    """Changes to files and directories."""

    def create(self, path: Path) -> Appender:
        """A new, empty file; FileExistsError if there is one. Its name is durable after `sync_dir`."""
        ...

    def append(self, path: Path) -> Appender:
        """An existing file, opened at its end."""
        ...

    def replace(self, source: Path, target: Path) -> None:
        """Rename over `target`; durable after `sync_dir`."""
        ...

    def unlink(self, path: Path) -> None:
        """Remove a file; durable after `sync_dir`; a missing one is no error."""
        ...

    def mkdir(self, path: Path) -> None:
        """Make a directory, its parents too; an existing one is no error."""
        ...

    def rmdir(self, path: Path) -> None:
        """Remove an empty directory."""
        ...

    def sync_dir(self, path: Path) -> None:
        """Make names in this directory durable."""
        ...


class SystemAppender:
    """An Appender over a file descriptor."""

    def __init__(self, path: Path, flags: int) -> None:
        self._path = path
        self._fd = os.open(path, flags | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._size = os.fstat(self._fd).st_size

    @property
    def path(self) -> Path:
        return self._path

    @property
    def size(self) -> int:
        return self._size

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            done = os.write(self._fd, view)
            self._size += done
            view = view[done:]

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)
        self._size = size

    def reserve(self, size: int) -> None:
        if _fallocate is not None:
            # A file system that can't says so by errno, which costs nothing but the saving.
            _fallocate(self._fd, _KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(size))

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class SystemFiles:
    """The machine's file system."""

    def create(self, path: Path) -> Appender:
        return SystemAppender(path, os.O_CREAT | os.O_EXCL)

    def append(self, path: Path) -> Appender:
        return SystemAppender(path, 0)

    def replace(self, source: Path, target: Path) -> None:
        source.replace(target)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def mkdir(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)

    def rmdir(self, path: Path) -> None:
        path.rmdir()

    def sync_dir(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        except OSError as err:
            if err.errno != errno.EINVAL:  # file systems without directory sync (some FUSE, 9p) say so
                raise
        finally:
            os.close(fd)


SYSTEM_FILES = SystemFiles()


def write_atomic(path: Path, data: bytes, files: Files = SYSTEM_FILES) -> None:
    """Replace `path` by `data`, whole or not at all, durably: temp, fsync, rename, fsync directory."""
    temporary = path.with_name(path.name + ".tmp")
    files.unlink(temporary)
    out = files.create(temporary)
    try:
        out.write(data)
        out.sync()
    except OSError:
        out.close()
        with contextlib.suppress(OSError):
            files.unlink(temporary)
        raise
    out.close()
    files.replace(temporary, path)
    files.sync_dir(path.parent)


MAX_OPEN_FILES = 65_536


def allow_open_files() -> None:
    """Raise this process's limit of open files as far as it may: each block of a store is one (setrlimit(2))."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class DirectoryLock:
    """Keeps a second process out of a directory (flock on `DIR/lock`); released with the process at the latest."""

    def __init__(self, directory: Path, owner: str) -> None:
        """StorageError, naming the holder, if another process (or this one) has it."""
        path = directory / "lock"
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            holder = os.pread(self._fd, 200, 0).decode(errors="replace").strip() or "another process"
            self.close()
            if err.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise StorageError(
                f"{directory} is in use by {holder}: stop it, or give this {owner} a directory of its own"
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{owner} (process {os.getpid()})\n".encode(), 0)

    def close(self) -> None:
        """Release; idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def explain(err: OSError, path: Path, key: str) -> StorageError:
    """The StorageError for `err` on `path`, with what to do; `key` names the setting that chose the path."""
    reason = os.strerror(err.errno) if err.errno else str(err)
    if err.errno in (errno.EACCES, errno.EPERM):
        todo = f"make it writable for the user that runs this program, or set {key} to a directory that is"
    elif err.errno == errno.EROFS:
        todo = f"remount the file system writable, or set {key} to a directory on one that is"
    elif err.errno in (errno.ENOSPC, errno.EDQUOT):
        todo = f"free some space, or lower the retention of {key}"
    elif err.errno in (errno.ENOTDIR, errno.EEXIST):
        todo = f"a file is in the way: remove it, or set {key} to another directory"
    else:
        todo = f"check the disk (dmesg), or set {key} to another directory"
    error = StorageError(f"cannot write {path}: {reason}; {todo}")
    error.errno = err.errno
    return error
