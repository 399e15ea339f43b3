"""The tables of edge/collectors/README.md, made from the collectors; `make docs` writes, a test compares."""

from collections.abc import Iterable
from pathlib import Path

from edge.collectors.background import BackgroundCollector
from edge.collectors.base import Collector
from edge.collectors.registry import COLLECTORS

PAGE = Path(__file__).resolve().parents[3] / "edge/collectors/README.md"
BEGIN, END = "<!-- collectors: begin, `make docs` -->\n", "<!-- collectors: end -->\n"


def source(collector: type[Collector]) -> str:
    """First sentence of the module's docstring."""
    module = __import__(collector.__module__, fromlist=["__doc__"])
    return (module.__doc__ or "").strip().split("\n")[0].rstrip(".")


def row(collector: type[Collector]) -> str:
    """One line of the table of collectors."""
    state = "on" if collector.default_enabled else "off"
    if issubclass(collector, BackgroundCollector):
        state += ", background"
    return f"| `{collector.name}` | {state} | {(collector.__doc__ or '').strip()} | {source(collector)} |"


def families(collectors: Iterable[type[Collector]]) -> str:
    """Families that node_exporter does not have, with type and help."""
    found = {d.name: d for c in collectors for d in c.descs if d.name.startswith("rpi_")}
    lines = [
        f"| `{name}` | {found[name].type} | {', '.join(found[name].labels)} | {found[name].help} |"
        for name in sorted(found)
    ]
    return "| metric | type | labels | what |\n| --- | --- | --- | --- |\n" + "\n".join(lines) + "\n"


def generated() -> str:
    """What stands between the marks."""
    head = "| collector | default | metrics | source |\n| --- | --- | --- | --- |\n"
    return f"{head}" + "\n".join(map(row, COLLECTORS)) + "\n\n### What no exporter gives\n\n" + families(COLLECTORS)


def renewed(page: str) -> str:
    """The page with its generated part renewed."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, f"{PAGE.name}: no mark {BEGIN!r}"
    assert end, f"{PAGE.name}: no mark {END!r}"
    return before + begin + "\n" + generated() + "\n" + end + after


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text("utf-8")), "utf-8")
