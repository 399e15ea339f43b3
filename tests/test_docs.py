"""Undocumented means red: flags, keys and endpoints stand in the READMEs as the programs have them."""

import os
import re
from pathlib import Path

import pytest

from tests.reference import PAGES, ROOT, replaced, sections


@pytest.mark.parametrize("program", sorted(PAGES))
def test_the_reference_is_what_the_program_says(program: str) -> None:
    page = PAGES[program].read_text("utf-8")
    for name, content in sections(program).items():
        assert replaced(page, name, content) == page, f"{program}: {name} have changed: run `make docs`"


def test_every_make_target_named_in_prose_exists() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES.values()):
        named = set(re.findall(r"`make ([a-z-]+)", page.read_text("utf-8")))
        assert named <= targets, f"{page.name}: {named - targets}"


def test_links_between_pages_lead_somewhere() -> None:
    for folder, below, names in os.walk(ROOT):
        # Virtual environments, caches and data are not ours.
        below[:] = [name for name in below if not name.startswith(".") and name not in ("build", "dist")]
        for page in (Path(folder, name) for name in names if name.endswith(".md")):
            for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8")):
                assert (page.parent / link).exists(), f"{page}: {link}"
