"""The tree keeps its shape: import direction, and modules that import on their own."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("common", "edge", "hub")
ALLOWED = {"common": {"common"}, "edge": {"common", "edge"}, "hub": {"common", "hub"}}
MODULES = sorted(p.relative_to(ROOT) for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
MAX_LINES = 800


def imported_packages(path: Path) -> set[str]:
    """Top-level names of ours that the module at `path` imports, at any depth."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names.add((node.module or "").split(".")[0])
    return names & {*PACKAGES, "tests"}


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_point_downwards_only(module: Path) -> None:
    assert imported_packages(ROOT / module) <= ALLOWED[module.parts[0]]


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_no_module_grows_past_one_subject(module: Path) -> None:
    lines = len((ROOT / module).read_text("utf-8").splitlines())
    assert lines <= MAX_LINES, f"{module} has {lines} lines: is it one subject?"


def test_every_module_imports_in_a_fresh_process_and_the_agent_without_numpy() -> None:
    names = [".".join(m.with_suffix("").parts).removesuffix(".__init__") for m in MODULES]
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    for loaded in [m for m in sys.modules if m.split('.')[0] in ('common', 'edge', 'hub')]:\n"
        "        del sys.modules[loaded]\n"
        "    importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *names], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if (ROOT / "edge" / "agent.py").exists():
        agent = "import edge.cli, edge.agent, sys; sys.exit('numpy' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", agent], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr or "the agent imports numpy, which costs it 13 MB"
