"""Command lines in Prometheus's style: dotted flags, one-line errors with exit status 2, `PROGRAM, version …`."""

import argparse
import functools
import importlib.metadata
import platform
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

DISTRIBUTION = "bramble-fleet"
FROM_CHECKOUT = "0.0.0"


class Parser(argparse.ArgumentParser):
    """Flags are never abbreviated; an error is one line without the page of usage that many flags make."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(
            prog=prog,
            usage=f"{prog} [<flags>]",
            description=description,
            allow_abbrev=False,
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=44, width=118),
        )
        system = f"{platform.system().lower()}/{platform.machine()}"
        text = f"{prog}, version {program_version()} (python {platform.python_version()}, {system})"
        self.add_argument("--version", action="version", version=text, help="Show the version.")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}, try --help\n")


@functools.cache
def program_version() -> str:
    """The installed distribution's version (semver), FROM_CHECKOUT when it runs from a bare checkout."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return FROM_CHECKOUT


def typed(parse: Callable[[str], object]) -> Callable[[str], object]:
    """`parse` for argparse: the text of its ValueError becomes the error's."""

    def convert(text: str) -> object:
        try:
            return parse(text)
        except ValueError as err:
            raise argparse.ArgumentTypeError(str(err)) from None

    return convert


def path_flag(text: str) -> Path:
    """A path that isn't empty."""
    if not text:
        raise ValueError("expected a path, got nothing")
    return Path(text)
