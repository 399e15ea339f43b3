"""The reference parts of the READMEs, made from the programs themselves: `make docs` writes, tests compare."""

import argparse
import re
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from common.config import describe
from common.ctl.cli import parser as ctl_parser
from edge.api import ROUTES as EDGE_ROUTES
from edge.cli import build_parser as edge_parser
from edge.config import EdgeConfig
from hub.api.app import PLAIN_ROUTES, ROUTES
from hub.cli import build_parser as hub_parser
from hub.config import HubConfig

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "ctl": ROOT / "common" / "ctl" / "README.md",
    "edge": ROOT / "edge" / "README.md",
    "hub": ROOT / "hub" / "README.md",
}
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
    return table(("flag", "what"), _rows(parser))


def _rows(parser: argparse.ArgumentParser) -> list[tuple[str, str]]:
    rows = []
    for action in parser._actions:
        names = [name for name in action.option_strings if name.startswith("--") and not name.startswith("--no-")]
        negated = any(name.startswith("--no-") for name in action.option_strings)
        name = f"--[no-]{names[0][2:]}" if negated and names else [*names, *action.option_strings, ""][0]
        choices = "|".join(action.choices) if isinstance(action.choices, tuple) else "VALUE"
        value = f"={action.metavar or choices}" if action.nargs != 0 and not negated else ""
        if name:
            text = (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")
            rows.append((f"`{name}{value}`", text))
    return rows


def commands(parser: argparse.ArgumentParser) -> str:
    """Every command below a parser that does something, with what it takes."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return "\n\n".join(commands(command) for command in action.choices.values())
    taken = [(action.metavar or action.dest, action.help or "") for action in parser._actions if _is_argument(action)]
    rows = [(f"`{name}`", text) for name, text in taken]
    rows += [row for row in _rows(parser) if row[0] != "`--help`"]
    title = " ".join([parser.prog, *(str(name) for name, _ in taken)])
    return f"### `{title}`\n\n{parser.description}\n\n{table(('', 'what'), rows)}"


def _is_argument(action: argparse.Action) -> bool:
    return not action.option_strings


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
    if program == "ctl":
        return {"commands": commands(ctl_parser())}
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
        page = PAGES["ctl"].read_text("utf-8")
        PAGES["ctl"].write_text(replaced(page, "commands", sections("ctl")["commands"]), "utf-8")
        for program, running in (("edge", agent), ("hub", server)):
            page = PAGES[program].read_text("utf-8")
            for name, content in sections(program).items():
                page = replaced(page, name, content)
            page = replaced(page, "metrics", families(running.client.get("/metrics").decode()))
            PAGES[program].write_text(page, "utf-8")
            print(f"wrote {PAGES[program]}", file=sys.stderr)


if __name__ == "__main__":
    main()
