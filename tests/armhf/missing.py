"""Print what this interpreter lacks to run Bramble's unit tests: one requirement a line, nothing if it is complete.

usage: missing.py pyproject.toml. Asks for the run-time needs of both programs and those of the tests, and for what
the distributions already installed need in turn; markers are those of the interpreter that runs this.
"""

import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "bramble-fleet"
# Checkers of source text find the same on any machine, and schemathesis serves integration tests only; mypy and what
# schemathesis needs have no wheel for 32-bit ARM.
NOT_FOR_UNIT_TESTS = {"mypy", "ruff", "types-pyyaml", "schemathesis"}


def wanted(pyproject: Path) -> Iterator[Requirement]:
    """The requirements of the project and of its extras `edge`, `hub` and `dev`, without what unit tests don't need."""
    project = tomllib.loads(pyproject.read_text())["project"]
    extras = project["optional-dependencies"]
    for line in (*project["dependencies"], *extras["edge"], *extras["hub"], *extras["dev"]):
        requirement = Requirement(line)
        if canonicalize_name(requirement.name) not in NOT_FOR_UNIT_TESTS | {PROJECT}:
            yield requirement


def missing(roots: Iterator[Requirement]) -> list[str]:
    """The requirements that no installed distribution satisfies, following those that do."""
    found: dict[str, None] = {}
    todo = [(requirement, "") for requirement in roots]
    seen: set[tuple[str, str]] = set()
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        bare = f"{requirement.name}{requirement.specifier}"
        try:
            installed = distribution(requirement.name)
        except PackageNotFoundError:
            found[bare] = None
            continue
        if not requirement.specifier.contains(installed.version, prereleases=True):
            found[bare] = None
            continue
        for each in ("", *requirement.extras):
            if (key := (canonicalize_name(requirement.name), each)) not in seen:
                seen.add(key)
                todo += [(Requirement(line), each) for line in installed.requires or ()]
    return list(found)


if __name__ == "__main__":
    print("\n".join(missing(wanted(Path(sys.argv[1])))), end="")
    sys.exit(0)
