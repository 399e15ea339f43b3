"""Plain text tables for terminals. Pure."""

import unicodedata
from collections.abc import Sequence


def width(text: str) -> int:
    """Columns that `text` takes on a terminal (wide characters count two, combining ones none)."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def printable(text: str) -> str:
    """`text` with control characters replaced, so that a label's value cannot drive the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def render(header: Sequence[str], rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> str:
    """Aligned columns with two blanks between; columns in `right` are right-aligned. No trailing blanks."""
    lines = [[printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(width(line[i]) for line in lines) for i in range(len(header))]
    out = []
    for line in lines:
        cells = [
            " " * (widths[i] - width(cell)) + cell if i in right else cell + " " * (widths[i] - width(cell))
            for i, cell in enumerate(line)
        ]
        out.append("  ".join(cells).rstrip())
    return "\n".join(out)


def number(value: float | None, digits: int = 0, unit: str = "") -> str:
    """`value` with `digits` decimals and a unit, or a dash where there is none."""
    return "–" if value is None or value != value else f"{value:,.{digits}f}{unit}"
