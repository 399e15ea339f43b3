"""`bramblectl tsdb import`: from a file or standard input into a hub's data directory."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from common.clock import Clock
from common.ctl.progress import Progress
from common.ctl.stores import Kind, kind_of
from common.errors import BrambleError, LimitError, StorageError
from common.exposition.archive import Archive, LineError
from common.exposition.parse import Format
from common.files import allow_open_files
from common.times import rfc3339
from common.tsdb.importing import OPTIONS, Importer
from common.tsdb.options import StoreOptions
from common.tsdb.store import Store
from common.units import format_duration, format_size

CHUNK = 1 << 20
MAX_LINE = 1 << 20
BATCH = 100_000
FUTURE_MS = 600_000
"""How far ahead of the clock a sample may be, as in remote write."""


def import_file(name: str, directory: Path, form: str, dry_run: bool, clock: Clock) -> int:
    """Import, with progress and a summary on stderr; the exit status. StorageError if the directory can't be used."""
    shown = "<stdin>" if name == "-" else name
    archive = Archive(Format.TEXT if form == "prom" else Format.OPENMETRICS, clock.now() + FUTURE_MS)
    with _input(name) as (file, total), _store(directory, dry_run, clock) as store:
        progress = Progress(sys.stderr, clock, total)
        importer = Importer(store) if store is not None else None
        run = _Run(archive, importer, progress)
        problem = ""
        status = 1
        try:
            run.all(file)
            status = 0
        except LineError as err:
            problem = f"{shown}:{err.line}: {err}"
            run.flush()
        except LimitError as err:
            problem = f"{shown}, before line {archive.line}: {err}"
        except KeyboardInterrupt:
            problem = f"interrupted at {shown}:{archive.line}"
            status = 130
        if importer is not None:
            importer.finish()
        progress.clear()
        for line in _summary(run, store, clock):
            print(f"bramblectl: {line}", file=sys.stderr)
        if problem:
            print(f"bramblectl: {problem}", file=sys.stderr)
            if importer is not None:
                print(
                    f"bramblectl: what precedes it is in {directory}; import the corrected text again: what is there "
                    "stays as it is",
                    file=sys.stderr,
                )
        return status


class _Run:
    """Reads lines and hands batches on."""

    def __init__(self, archive: Archive, importer: Importer | None, progress: Progress) -> None:
        self.archive = archive
        self.importer = importer
        self.progress = progress
        self.bytes = 0
        self.samples = 0

    def all(self, file: IO[bytes]) -> None:
        """Take everything; LineError at a bad line."""
        rest = b""
        while chunk := file.read(CHUNK):
            self.bytes += len(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            self.archive.feed(lines)
            if len(rest) > MAX_LINE:
                raise LineError(self.archive.line + 1, f"line longer than {MAX_LINE} bytes: is this text?")
            if self.archive.waiting >= BATCH:
                self.flush()
            self.progress.show(self.bytes, self.samples + self.archive.waiting)
        if rest and rest != b"# EOF":
            # Of a number that was cut there is no telling.
            raise LineError(self.archive.line + 1, "the text ends inside this line: is it whole?")
        self.archive.feed([rest] if rest else [])
        self.archive.end()
        self.flush()

    def flush(self) -> None:
        """Hand on what was read."""
        columns = self.archive.take()
        if self.importer is not None:
            self.importer.add(columns)
        self.samples += len(columns.times)


@contextlib.contextmanager
def _input(name: str) -> Iterator[tuple[IO[bytes], int]]:
    """The text and its size, 0 where nobody knows."""
    if name == "-":
        yield sys.stdin.buffer, 0
        return
    path = Path(name)
    try:
        file = path.open("rb")
    except OSError as err:
        raise BrambleError(f"cannot read {name}: {err.strerror or err}") from None
    with file:
        yield file, path.stat().st_size if path.is_file() else 0


@contextlib.contextmanager
def _store(directory: Path, dry_run: bool, clock: Clock) -> Iterator[Store | None]:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        kind = kind_of(directory)
        if kind is not Kind.STORE:
            raise StorageError(f"{directory} is an {kind}, which only its agent writes: give a hub's data directory")
    if dry_run:
        yield None
        return
    allow_open_files()
    store = Store.open(directory, OPTIONS, clock)
    try:
        yield store
    finally:
        store.close()


def _summary(run: _Run, store: Store | None, clock: Clock) -> Iterator[str]:
    seconds = run.progress.seconds
    read = f"{format_size(run.bytes)} in {seconds:.1f} s"
    if run.importer is None or store is None:
        yield f"{run.samples} samples read, {read}; nothing stored (--dry-run)"
    elif run.importer.first is None:
        yield f"no samples, {read}"
    else:
        taken = run.importer
        yield (
            f"{taken.samples} samples of {taken.series} series imported, "
            f"{rfc3339(taken.first)} to {rfc3339(taken.last)}, {read}"
        )
        stats = store.stats()
        yield f"{store.path} has {stats.blocks} blocks, {format_size(stats.block_bytes)}"
        if stats.duplicate_samples:
            yield f"{stats.duplicate_samples} samples had a time that their series has already; the older ones stay"
        kept = StoreOptions().retention_ms
        if taken.first is not None and taken.first < clock.now() - kept:
            yield (
                f"start the hub with --storage.tsdb.retention.time above "
                f"{format_duration((clock.now() - taken.first) // 3_600_000 * 3_600_000)} (default "
                f"{format_duration(kept)}), or it drops the oldest of them"
            )
    if run.archive.exemplars:
        yield f"{run.archive.exemplars} exemplars left out: the store has none"
