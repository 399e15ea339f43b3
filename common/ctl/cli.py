"""bramblectl: run a local fleet, query hubs, agents and their files."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from common.clock import SystemClock
from common.ctl import local, query, tsdb
from common.ctl.arguments import port
from common.errors import BrambleError
from common.supervisor import until_signal


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
    query.add_to(commands)
    tsdb.add_to(commands)
    return root


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; exit status 0, 1 for a failure, 2 for a wrong command line."""
    args = parser().parse_args(argv)
    clock = SystemClock()
    if "handler" in args:
        try:
            sys.exit(args.handler(args, clock))
        except BrokenPipeError:
            # Who reads no further (head, less) needs no more; what Python still holds must not be flushed at the end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except (BrambleError, OSError) as err:
            sys.exit(f"bramblectl: {err}")
    options = local.Options(
        args.data.resolve(), args.hub_port, args.edge_port, args.mdns, args.once, getattr(args, "trees", None)
    )
    status = 0

    async def program() -> None:
        nonlocal status
        status = await local.run(options, clock)

    asyncio.run(until_signal(program))
    sys.exit(status)


if __name__ == "__main__":
    main()
