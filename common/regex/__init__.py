"""RE2's expressions without google-re2, which has no wheel for 32-bit ARM: same syntax, same errors.

`syntax` parses; `backtracking` hands to Python's `re` what takes it at most quadratic time; `machine` does the rest in
linear time, slowly.
Different from RE2: `\\p{...}` and `\\C` are refused, and where a group is repeated over nothing its capture may differ.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Protocol

from common.regex.backtracking import is_harmless, text_of
from common.regex.machine import Machine
from common.regex.syntax import parse


class Match(Protocol):
    """What a pattern found: `re.Match`, as far as Bramble uses it."""

    def span(self) -> tuple[int, int]: ...
    def group(self, which: int | str, /) -> str | None: ...
    def groups(self) -> tuple[str | None, ...]: ...


class Pattern(Protocol):
    """`re.Pattern`, as far as Bramble uses it."""

    @property
    def groupindex(self) -> Mapping[str, int]: ...
    def fullmatch(self, text: str, /) -> Match | None: ...
    def finditer(self, text: str, /) -> Iterable[Match]: ...


def compile_pattern(pattern: str, *, dot_newline: bool) -> Pattern:
    """A compiled expression; FormatError where RE2 refuses it or it is too large."""
    tree = parse(pattern, dot_newline=dot_newline)
    return re.compile(text_of(tree)) if is_harmless(tree) else Machine(tree)
