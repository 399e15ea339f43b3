"""`bramblectl query`: PromQL asked of a hub, of a hub's data directory, or of an agent's log."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.clock import Clock
from common.ctl.arguments import duration, label, moment, package_error
from common.ctl.client import Client
from common.errors import QueryError
from common.labels import Labels
from common.sample import Millis


@dataclass(frozen=True, slots=True)
class Span:
    """Steps of a range query, ms."""

    start: Millis
    end: Millis
    step: int


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to a command line."""
    text = "evaluate PromQL on a hub, or on the files of a hub or an agent"
    command = commands.add_parser("query", help=text, description=text, allow_abbrev=False)
    where = command.add_mutually_exclusive_group()
    where.add_argument("--url", default="http://localhost:9090", help="the hub to ask (default: %(default)s)")
    where.add_argument(
        "--log", metavar="DIR", type=Path, help="an agent's log (its --storage.path) to read, the agent running or not"
    )
    where.add_argument(
        "--tsdb",
        metavar="DIR",
        type=Path,
        help="a hub's data (its --storage.tsdb.path, or a snapshot) to read, the hub running or not",
    )
    command.add_argument(
        "--time",
        type=moment,
        help="when, as Unix seconds or RFC 3339 (default: now; with --log and --tsdb, the newest sample's time)",
    )
    command.add_argument("--start", type=moment, help="a range query from here, as --time")
    command.add_argument("--end", type=moment, help="to here (default: as --time)")
    command.add_argument("--step", type=duration, help="in steps like 15s or 1h (default: a 250th of the range)")
    command.add_argument(
        "--label",
        action="append",
        default=[],
        type=label,
        metavar="NAME=VALUE",
        help="with --log: a label of all its series, as a hub sets instance and job; repeatable",
    )
    command.add_argument("--format", choices=("table", "json"), default="table", help="(default: %(default)s)")
    command.add_argument("expression", help="PromQL")
    command.set_defaults(handler=run)


def run(args: argparse.Namespace, clock: Clock) -> int:
    """Print the result; the exit status."""
    # What numpy and the engine cost is paid by those who ask for it.
    try:
        from common.ctl import results
    except ImportError as err:
        raise package_error(err) from None
    directory = args.log or args.tsdb
    if directory is not None:
        data = _local(directory, args, clock)
    else:
        data = _remote(args, clock)
    print(results.as_json(data) if args.format == "json" else results.as_table(data))
    return 0


def _span(args: argparse.Namespace, last: Millis) -> Span | None:
    if args.start is None:
        if args.end is not None or args.step is not None:
            raise QueryError("--end and --step need --start; for one moment give --time")
        return None
    if args.time is not None:
        raise QueryError("--time is one moment, --start begins a range: give one of them")
    end = last if args.end is None else args.end
    return Span(args.start, end, args.step or max(1000, (end - args.start) // 250))


def _remote(args: argparse.Namespace, clock: Clock) -> dict[str, Any]:
    client = Client(args.url.rstrip("/"))
    span = _span(args, clock.now())
    if span is None:
        return client.query(args.expression, None if args.time is None else args.time / 1000)
    return client.query_range(args.expression, span.start / 1000, span.end / 1000, span.step / 1000)


def _local(directory: Path, args: argparse.Namespace, clock: Clock) -> dict[str, Any]:
    from common.ctl.results import data_of
    from common.ctl.stores import Kind, kind_of, open_directory
    from common.promql.engine import Engine

    wanted = Kind.LOG if args.log else Kind.STORE
    found = kind_of(directory)
    if found is not wanted:
        other = "--tsdb" if args.log else "--log"
        raise QueryError(f"{directory} is a {found}: give it as {other}")
    opened = open_directory(directory, clock, Labels.of(dict(args.label)))
    try:
        for line in opened.damage():
            print(f"bramblectl: {line}", file=sys.stderr)
        last = Millis(clock.now() if opened.last is None else opened.last)
        span = _span(args, last)
        engine = Engine(clock=clock)
        if span is not None:
            return data_of(engine.range(opened.querier, args.expression, span.start, span.end, span.step))
        return data_of(engine.instant(opened.querier, args.expression, last if args.time is None else args.time))
    finally:
        opened.close()
