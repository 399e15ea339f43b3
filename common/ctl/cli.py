"""bramblectl: run a local fleet, query a hub."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from common.clock import SystemClock
from common.ctl import local
from common.ctl.client import Client
from common.ctl.table import render
from common.errors import BrambleError
from common.labels import Labels
from common.supervisor import until_signal


def port(text: str) -> int:
    """A TCP port number for argparse."""
    if text.isascii() and text.isdigit() and 0 < int(text) < 65536:
        return int(text)
    raise argparse.ArgumentTypeError(f'expected a port from 1 to 65535, got "{text}"')


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(prog="bramblectl", description=__doc__, allow_abbrev=False)
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("run", "start a hub and one agent on this machine and show what they see"),
        ("demo", "the same with an agent for each fixture Pi"),
    ):
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.add_argument("--data", type=Path, default=Path(".bramble") / name, help="folder for data and logs")
        command.add_argument("--hub-port", type=port, help="the hub's port (default: 9090, or the next free one)")
        command.add_argument("--edge-port", type=port, help="the first agent's port (default: 9100, or the next free)")
        command.add_argument("--no-discovery.mdns", dest="mdns", action="store_false", help="static addresses only")
        command.add_argument("--once", action="store_true", help="stop everything once the table is complete")
        if name == "demo":
            command.add_argument(
                "--trees", type=Path, required=True, help="folder of fixture Pis (NAME/proc, NAME/sys)"
            )
    query = commands.add_parser("query", help="an instant query, as a table", allow_abbrev=False)
    query.add_argument("--url", default="http://localhost:9090", help="the hub (default: %(default)s)")
    query.add_argument("--time", type=float, help="Unix seconds (default: now)")
    query.add_argument("expression", help="PromQL")
    return root


def query(url: str, expression: str, time: float | None) -> None:
    """Print an instant query's result as a table."""
    points = Client(url.rstrip("/")).instant(expression, time)
    rows = [(str(Labels.of(dict(p.labels))), repr(p.value).removesuffix(".0")) for p in points]
    print(render(("SERIES", "VALUE"), rows, right=frozenset({1})) if rows else "(no series)")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; exit status 0, 1 for a failure, 2 for a wrong command line."""
    args = parser().parse_args(argv)
    try:
        if args.command == "query":
            query(args.url, args.expression, args.time)
            return
    except BrambleError as err:
        sys.exit(f"bramblectl: {err}")
    options = local.Options(
        args.data.resolve(), args.hub_port, args.edge_port, args.mdns, args.once, getattr(args, "trees", None)
    )
    status = 0

    async def program() -> None:
        nonlocal status
        status = await local.run(options, SystemClock())

    asyncio.run(until_signal(program))
    sys.exit(status)


if __name__ == "__main__":
    main()
