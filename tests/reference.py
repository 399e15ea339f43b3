"""The reference parts of the READMEs, made from the programs themselves: `make docs` writes, tests compare."""

import argparse
import re
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from common.config import describe
from edge.api import ROUTES as EDGE_ROUTES
from edge.cli import build_parser as edge_parser
from edge.config import EdgeConfig
from hub.api.app import PLAIN_ROUTES, ROUTES
from hub.cli import build_parser as hub_parser
from hub.config import HubConfig

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"edge": ROOT / "edge" / "README.md", "hub": ROOT / "hub" / "README.md"}
FOREIGN = ("node_", "rpi_", "go_", "python_", "process_")
"""Families that are documented elsewhere: by node_exporter, by the collectors' README, by prometheus_client."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    )


def flags(parser: argparse.ArgumentParser) -> str:
    """Every flag with its value and help; a switch that can be negated is listed once."""
    rows = []
    for action in parser._actions:
        names = [name for name in action.option_strings if name.startswith("--") and not name.startswith("--no-")]
        negated = any(name.startswith("--no-") for name in action.option_strings)
        name = f"--[no-]{names[0][2:]}" if negated and names else (names or action.option_strings)[0]
        value = f"={action.metavar or 'VALUE'}" if action.nargs != 0 and not negated else ""
        rows.append(
            (f"`{name}{value}`", (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%"))
        )
    return table(("flag", "what"), rows)


def keys(config: type) -> str:
    """Every key of a configuration file."""
    rows = [(f"`{k.path}`", k.kind, f"`{k.default}`" if k.default else "", k.doc) for k in describe(config)]
    return table(("key", "kind", "default", "what"), rows)


def endpoints(routes: Iterable[tuple[str, str]]) -> str:
    """Paths with their methods."""
    return table(("path", "methods"), [(f"`{path}`", methods) for path, methods in routes])


def families(exposition: str) -> str:
    """The program's own families in a text exposition."""
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", exposition, re.MULTILINE))
    helps = dict(re.findall(r"^# HELP (\S+) (.*)$", exposition, re.MULTILINE))
    rows = [(f"`{name}`", types[name], helps.get(name, "")) for name in sorted(types) if not name.startswith(FOREIGN)]
    return table(("metric", "type", "what"), rows)


def sections(program: str) -> dict[str, str]:
    """Generated sections of a program's README by name, all but `metrics`, which needs it running."""
    if program == "edge":
        return {
            "flags": flags(edge_parser()),
            "keys": keys(EdgeConfig),
            "endpoints": endpoints((path, "GET") for path in EDGE_ROUTES),
        }
    return {
        "flags": flags(hub_parser()),
        "keys": keys(HubConfig),
        "endpoints": endpoints(
            [(path, ", ".join(methods)) for path, methods, _ in ROUTES] + [(path, "GET") for path, _ in PLAIN_ROUTES]
        ),
    }


def replaced(page: str, name: str, content: str) -> str:
    """`page` with the generated section `name` renewed; the page must have its two markers."""
    begin, end = f"<!-- {name}: made by `make docs` -->\n", f"<!-- /{name} -->"
    before, found, rest = page.partition(begin)
    if not found or end not in rest:
        raise ValueError(f"the page has no section {name!r}")
    return f"{before}{begin}{content}\n{end}{rest.partition(end)[2]}"


def main() -> None:
    """Renew all generated sections, with metrics of programs started for it."""
    from tests.integration.programs import edge, hub, programs

    with tempfile.TemporaryDirectory() as folder, programs() as start:
        agent = edge(start, Path(folder) / "edge", "--no-discovery.mdns").wait_ready()
        config = f'bramble: {{pull_interval: 1s, agents: ["127.0.0.1:{agent.port}"]}}\n'
        flags = ("--no-discovery.mdns", "--web.enable-remote-write-receiver")
        server = hub(start, Path(folder) / "hub", *flags, config=config).wait_ready()
        for program, running in (("edge", agent), ("hub", server)):
            page = PAGES[program].read_text("utf-8")
            for name, content in sections(program).items():
                page = replaced(page, name, content)
            page = replaced(page, "metrics", families(running.client.get("/metrics").decode()))
            PAGES[program].write_text(page, "utf-8")
            print(f"wrote {PAGES[program]}", file=sys.stderr)


if __name__ == "__main__":
    main()
