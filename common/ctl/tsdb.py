"""`bramblectl tsdb`: what a hub's data directory or an agent's log holds, as text, and back."""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from common.clock import Clock
from common.ctl.arguments import count, label, moment, package_error, selector
from common.errors import StorageError
from common.labels import Labels
from common.times import MAX_TIME, MIN_TIME

BUFFER = 1 << 20


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands to a command line."""
    text = "look into stored samples, write them out, read them in"
    group = commands.add_parser("tsdb", help=text, description=text, allow_abbrev=False)
    inner = group.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_dump(inner)
    _add_import(inner)
    _add_looks(inner)


def _add_dump(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "write samples as OpenMetrics, which `bramblectl tsdb import` and `promtool tsdb create-blocks-from` read"
    command = commands.add_parser(
        "dump",
        help=text,
        description=f"{text}. The hub or the agent may run meanwhile: nothing of DIR is changed or locked, and what is "
        "durable at the start is written. Staleness markers and native histograms, which the formats have no words "
        "for, are left out and counted.",
        allow_abbrev=False,
    )
    _directory(command)
    command.add_argument(
        "--match",
        action="append",
        default=[],
        type=selector,
        metavar="SELECTOR",
        help='only series like {job="node"}; repeatable, then series that any of them selects',
    )
    command.add_argument(
        "--min-time", type=moment, default=MIN_TIME, metavar="TIME", help="from here, as Unix seconds or RFC 3339"
    )
    command.add_argument("--max-time", type=moment, default=MAX_TIME, metavar="TIME", help="up to here, inclusive")
    command.add_argument(
        "--format",
        choices=("openmetrics", "prom"),
        default="openmetrics",
        help="OpenMetrics, or Prometheus's text format, with milliseconds (default: %(default)s)",
    )
    command.add_argument(
        "--label",
        action="append",
        default=[],
        type=label,
        metavar="NAME=VALUE",
        help="of an agent's log: a label for all series, as a hub sets instance and job; repeatable",
    )
    command.add_argument("-o", "--output", type=Path, metavar="FILE", help="write to FILE (default: standard output)")
    command.set_defaults(handler=dump)


def _add_import(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "read OpenMetrics with timestamps of any age into a hub's data directory"
    command = commands.add_parser(
        "import",
        help=text,
        description=f"{text}. The hub must be stopped. Lines are taken in order: at the first bad one the import ends, "
        "names it, and what precedes it stays. Samples that are in DIR already stay as they are, so that the same text "
        "can be imported again. Exemplars are left out and counted.",
        allow_abbrev=False,
    )
    command.add_argument("file", metavar="FILE", help="the text, - for standard input (zcat x.gz | ... import - DIR)")
    _directory(command, "the hub's --storage.tsdb.path; made if it is not there")
    command.add_argument(
        "--format",
        choices=("openmetrics", "prom"),
        default="openmetrics",
        help="OpenMetrics (seconds, ends with # EOF), or Prometheus's text format (ms) (default: %(default)s)",
    )
    command.add_argument("--dry-run", action="store_true", help="read it all, store nothing")
    command.set_defaults(handler=import_)


def _add_looks(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "show what a directory consists of: files, bytes a sample, encodings, labels, churn"
    command = commands.add_parser("analyze", help=text, description=text, allow_abbrev=False)
    _directory(command)
    command.add_argument("--limit", type=count, default=20, help="lines of each list (default: %(default)s)")
    command.set_defaults(handler=analyze)
    text = "check every file's length, checksums, content and references"
    command = commands.add_parser(
        "verify",
        help=text,
        description=f"{text}; changes nothing. The exit status is 1 if a file is damaged. A note is no damage: the end "
        "of a file that is being written, or what a crash leaves and the next start mends.",
        allow_abbrev=False,
    )
    _directory(command)
    command.set_defaults(handler=verify)


def _directory(
    command: argparse.ArgumentParser, text: str = "a hub's data, a snapshot of it, or an agent's log"
) -> None:
    command.add_argument("directory", type=Path, metavar="DIR", help=text)


def dump(args: argparse.Namespace, clock: Clock) -> int:
    """Write a directory's samples; the exit status is 1 if some are damaged."""
    try:
        from common.ctl.stores import Kind, kind_of, open_directory
        from common.tsdb.dump import Dump
    except ImportError as err:
        raise package_error(err) from None
    target = Labels.of(dict(args.label))
    if target and kind_of(args.directory) is Kind.STORE:
        raise StorageError(f"{args.directory} is a {Kind.STORE}, whose series have their labels: leave --label out")
    opened = open_directory(args.directory, clock, target)
    try:
        work = Dump(
            opened.querier,
            opened.cells(),
            sets=args.match,
            start=args.min_time,
            end=args.max_time,
            form="openmetrics" if args.format == "openmetrics" else "text",
            streams=opened.streams,
        )
        with _output(args.output) as out:
            for page in work.pages():
                out.write(page.encode())
        damage = opened.damage()
    finally:
        opened.close()
    counts = work.counts
    _say(f"{counts.samples} samples of {counts.series} series in {counts.families} families")
    if counts.stale:
        _say(f"{counts.stale} staleness markers left out: after an import those series end 5 minutes later")
    if counts.histograms:
        _say(f"{counts.histograms} samples of native histograms left out: the format has none")
    for line in damage:
        _say(f"{line}: see `bramblectl tsdb verify {args.directory}`")
    return 1 if damage else 0


def import_(args: argparse.Namespace, clock: Clock) -> int:
    """Read a text into a hub's store; the exit status."""
    try:
        from common.ctl.importing import import_file
    except ImportError as err:
        raise package_error(err) from None
    return import_file(args.file, args.directory, args.format, args.dry_run, clock)


def analyze(args: argparse.Namespace, clock: Clock) -> int:
    """Show what a directory holds; the exit status."""
    try:
        from common.ctl import inspect
    except ImportError as err:
        raise package_error(err) from None
    return inspect.analyze(args.directory, args.limit, clock)


def verify(args: argparse.Namespace, clock: Clock) -> int:
    """Check a directory; the exit status."""
    try:
        from common.ctl import inspect
    except ImportError as err:
        raise package_error(err) from None
    return inspect.verify(args.directory)


@contextlib.contextmanager
def _output(path: Path | None) -> Iterator[IO[bytes]]:
    """Standard output, or a file that appears under its name only when it is whole."""
    if path is None or (path.exists() and not path.is_file()):
        with open(sys.stdout.fileno() if path is None else path, "wb", BUFFER, closefd=path is not None) as out:
            yield out
        return
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb", BUFFER) as out:
            yield out
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _say(text: str) -> None:
    print(f"bramblectl: {text}", file=sys.stderr)
