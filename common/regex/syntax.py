"""Parser of RE2's syntax: a pattern becomes a tree of nodes, or a FormatError in the words of Go's regexp.

Source: https://github.com/google/re2/wiki/Syntax and what google-re2 answers. `\\p{...}` and `\\C` are refused.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum

from common.errors import FormatError

MAX_REPEAT = 1000
"""Greatest count of `{n,m}`, nested ones multiplied, as RE2 has it."""

MAX_DEPTH = 60
"""Groups inside groups; the limit keeps all walks over the tree clear of Python's recursion limit."""

_MAX_RUNE = 0x10FFFF
_Ranges = list[tuple[int, int]]


class Place(StrEnum):
    """Conditions on a place between two characters."""

    TEXT_START = "A"
    TEXT_END = "z"
    LINE_START = "^"
    LINE_END = "$"
    WORD_EDGE = "b"
    NO_WORD_EDGE = "B"


@dataclass(frozen=True, slots=True)
class Chars:
    """One character out of `ranges` (first and last code point), or out of all others; `fold` ignores case."""

    ranges: tuple[tuple[int, int], ...]
    negated: bool = False
    fold: bool = False


@dataclass(frozen=True, slots=True)
class At:
    """Nothing, where `place` holds."""

    place: Place


@dataclass(frozen=True, slots=True)
class Sequence:
    """All of `parts` in turn."""

    parts: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of `options`, the first that leads to a match."""

    options: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """`body` from `least` to `most` times (None: any number), as often as possible or, if `lazy`, as seldom."""

    body: "Node"
    least: int
    most: int | None
    lazy: bool


@dataclass(frozen=True, slots=True)
class Capture:
    """`body`, whose text is group number `number`."""

    body: "Node"
    number: int
    name: str | None


Node = Chars | At | Sequence | Choice | Repeat | Capture


_DIGIT: _Ranges = [(0x30, 0x39)]
_UPPER: _Ranges = [(0x41, 0x5A)]
_LOWER: _Ranges = [(0x61, 0x7A)]
_WORD: _Ranges = [*_DIGIT, *_UPPER, (0x5F, 0x5F), *_LOWER]
_PERL: dict[str, _Ranges] = {"d": _DIGIT, "s": [(0x09, 0x0A), (0x0C, 0x0D), (0x20, 0x20)], "w": _WORD}
_POSIX: dict[str, _Ranges] = {
    "alnum": [*_DIGIT, *_UPPER, *_LOWER],
    "alpha": [*_UPPER, *_LOWER],
    "ascii": [(0x00, 0x7F)],
    "blank": [(0x09, 0x09), (0x20, 0x20)],
    "cntrl": [(0x00, 0x1F), (0x7F, 0x7F)],
    "digit": _DIGIT,
    "graph": [(0x21, 0x7E)],
    "lower": _LOWER,
    "print": [(0x20, 0x7E)],
    "punct": [(0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x7E)],
    "space": [(0x09, 0x0D), (0x20, 0x20)],
    "upper": _UPPER,
    "word": _WORD,
    "xdigit": [*_DIGIT, (0x41, 0x46), (0x61, 0x66)],
}
_CONTROL = {"a": 0x07, "f": 0x0C, "n": 0x0A, "r": 0x0D, "t": 0x09, "v": 0x0B}
_HEX = re.compile(r"\{([0-9A-Fa-f]+)\}|([0-9A-Fa-f]{2})")
_OCTAL = re.compile(r"0[0-7]{0,2}|[1-7][0-7]{1,2}")
_COUNT = re.compile(r"\{(\d+)(,(\d*))?\}", re.ASCII)
_NAME = re.compile(r"\(\?P?<(\w+)>")
_FLAGS = re.compile(r"\(\?([imsU]*)(?:-([imsU]+))?([:)])")
_POSIX_NAME = re.compile(r"\[:(\^?)(\w+):\]")


@dataclass(frozen=True, slots=True)
class _Flags:
    """Flags in force: i, m, s and U of RE2."""

    fold: bool = False
    lines: bool = False
    dot_newline: bool = False
    lazy: bool = False

    def changed(self, letters: str, to: bool) -> "_Flags":
        names = {"i": "fold", "m": "lines", "s": "dot_newline", "U": "lazy"}
        return replace(self, **{names[letter]: to for letter in letters})


@dataclass(slots=True)
class _Group:
    """An open group: what is read of it, and what to return to at its end."""

    outer: _Flags
    number: int = 0  # of its capture, 0 for none
    name: str | None = None
    options: list[Node] = field(default_factory=list)
    parts: list[Node] = field(default_factory=list)
    repeat: int = 1  # the greatest repetition inside

    def node(self) -> Node:
        last = Sequence(tuple(self.parts)) if len(self.parts) != 1 else self.parts[0]
        whole = Choice((*self.options, last)) if self.options else last
        return Capture(whole, self.number, self.name) if self.number else whole


def parse(pattern: str, *, dot_newline: bool) -> Node:
    """The tree of `pattern`; FormatError, worded as Go's regexp does, where RE2 refuses it."""
    return _Parser(pattern, dot_newline).run()


def inverted(ranges: _Ranges) -> Iterator[tuple[int, int]]:
    """The ranges between ascending `ranges`."""
    low = 0
    for first, last in ranges:
        if first > low:
            yield low, first - 1
        low = last + 1
    if low <= _MAX_RUNE:
        yield low, _MAX_RUNE


def _error(what: str, where: str) -> FormatError:
    return FormatError(f"error parsing regexp: {what}: `{where}`")


class _Parser:
    def __init__(self, pattern: str, dot_newline: bool) -> None:
        self.pattern = pattern
        self.at = 0
        self.flags = _Flags(dot_newline=dot_newline)
        self.groups = [_Group(self.flags)]
        self.captures = 0
        self.names: set[str] = set()
        self.inside = 1  # the greatest repetition in the last expression
        self.operator = -1  # where in `pattern` the repetition starts that ended just here, -1 if none did

    def run(self) -> Node:
        pattern = self.pattern
        while self.at < len(pattern):
            char = pattern[self.at]
            if char in "*+?":
                least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[char]
                self.repeat(self.at + 1, least, most)
            elif char == "{" and (match := _COUNT.match(pattern, self.at)):
                self.count(match)
            else:
                self.operator = -1
                self.one(char)
        if len(self.groups) > 1:
            raise _error("missing closing )", pattern)
        return self.groups[0].node()

    def one(self, char: str) -> None:
        match char:
            case "(":
                self.open()
            case ")":
                self.close()
            case "|":
                group = self.groups[-1]
                group.options.append(Sequence(tuple(group.parts)))
                group.parts = []
                self.at += 1
            case "[":
                self.add(self.character_class())
            case "\\":
                self.escape()
            case ".":
                self.add(Chars(() if self.flags.dot_newline else ((0x0A, 0x0A),), negated=True), 1)
            case "^":
                self.add(At(Place.LINE_START if self.flags.lines else Place.TEXT_START), 1)
            case "$":
                self.add(At(Place.LINE_END if self.flags.lines else Place.TEXT_END), 1)
            case _:
                self.add(self.literal(ord(char)), 1)

    def add(self, node: Node, consumed: int = 0) -> None:
        self.at += consumed
        self.inside = 1
        self.groups[-1].parts.append(node)

    def literal(self, code: int) -> Chars:
        return Chars(((code, code),), fold=self.flags.fold)

    def count(self, match: re.Match[str]) -> None:
        least = int(match[1])
        most = least if match[2] is None else int(match[3]) if match[3] else None
        if max(least, most or 0) > MAX_REPEAT or (most is not None and most < least):
            raise _error("invalid repeat count", match[0])
        self.repeat(match.end(), least, most)

    def repeat(self, end: int, least: int, most: int | None) -> None:
        """Apply the repetition from `at` to `end` of the pattern."""
        pattern, start = self.pattern, self.at
        lazy = pattern.startswith("?", end)
        self.at = end + lazy
        if self.operator >= 0:
            raise _error("invalid nested repetition operator", pattern[self.operator : self.at])
        group = self.groups[-1]
        if not group.parts:
            raise _error("missing argument to repetition operator", pattern[start : self.at])
        self.inside *= max(least, most or 0, 1)
        if self.inside > MAX_REPEAT:
            raise _error("invalid repeat count", pattern[start : self.at])
        group.repeat = max(group.repeat, self.inside)
        group.parts.append(Repeat(group.parts.pop(), least, most, lazy != self.flags.lazy))
        self.operator = start

    def open(self) -> None:
        pattern, at = self.pattern, self.at
        group = _Group(self.flags)
        inner = self.flags
        end = at + 1
        if pattern.startswith("(?", at):
            if pattern.startswith(("(?P<", "(?<"), at) and not pattern.startswith(("(?<=", "(?<!"), at):
                name = _NAME.match(pattern, at)
                if name is None:
                    raise _error("invalid named capture", pattern[at:].partition(">")[0] + ">" * (">" in pattern[at:]))
                end = name.end()
                if name[1] not in self.names:
                    group.name = name[1]
                    self.names.add(name[1])
                self.captures += 1
                group.number = self.captures
            else:
                flags = _FLAGS.match(pattern, at)
                if flags is None or flags[0] == "(?)":
                    raise _error("invalid or unsupported Perl syntax", pattern[at : at + 3])
                inner = self.flags.changed(flags[1], True).changed(flags[2] or "", False)
                end = flags.end()
                if flags[3] == ")":
                    self.flags, self.at = inner, end  # a repetition that follows is still that of what precedes
                    return
        else:
            self.captures += 1
            group.number = self.captures
        if len(self.groups) > MAX_DEPTH:
            raise _error("expression nests too deeply", f"limit {MAX_DEPTH}")
        self.groups.append(group)
        self.flags, self.at = inner, end

    def close(self) -> None:
        if len(self.groups) == 1:
            raise _error("unexpected )", self.pattern)
        group = self.groups.pop()
        self.add(group.node(), 1)
        self.flags, self.inside = group.outer, group.repeat
        self.groups[-1].repeat = max(self.groups[-1].repeat, group.repeat)

    def escape(self) -> None:
        letter = self.pattern[self.at + 1 : self.at + 2]
        if letter == "Q":
            literal, found, _ = self.pattern[self.at + 2 :].partition("\\E")
            self.at += 2 + len(literal) + len(found)
            for char in literal:
                self.add(self.literal(ord(char)))
        elif letter and letter in "AzbB":
            self.add(At(Place(letter)), 2)
        elif ranges := self.perl_class(letter):
            self.add(Chars(tuple(ranges), letter.isupper(), self.flags.fold), 2)
        else:
            self.add(self.literal(self.character()))

    def perl_class(self, letter: str) -> _Ranges:
        """The ranges of `\\d`, `\\D` and so on, without the negation; empty for other letters."""
        if letter in ("p", "P"):
            raise _error("Unicode classes need google-re2, which has no wheel for this machine", "\\" + letter)
        return _PERL.get(letter.lower(), [])

    def character(self) -> int:
        """The one character that an escape at this place means."""
        pattern, at = self.pattern, self.at
        letter = pattern[at + 1 : at + 2]
        if not letter:
            raise _error("trailing backslash at end of expression", "")
        if letter in _CONTROL:
            self.at += 2
            return _CONTROL[letter]
        if octal := _OCTAL.match(pattern, at + 1):
            self.at = octal.end()
            return int(octal[0], 8)
        if letter == "x" and (digits := _HEX.match(pattern, at + 2)):
            code = int(digits[1] or digits[2], 16)
            if code <= _MAX_RUNE:
                self.at = digits.end()
                return code
        elif letter.isascii() and not letter.isalnum():
            self.at += 2
            return ord(letter)
        raise _error("invalid escape sequence", pattern[at : at + 2])

    def character_class(self) -> Chars:
        pattern, start = self.pattern, self.at
        self.at += 1
        negated = pattern.startswith("^", self.at)
        self.at += negated
        parts: _Ranges = []
        while not parts or not pattern.startswith("]", self.at):
            if self.at >= len(pattern):
                raise _error("missing closing ]", pattern[start:])
            if match := _POSIX_NAME.match(pattern, self.at):
                ranges = _POSIX.get(match[2])
                if ranges is None:
                    raise _error("invalid character class range", match[0])
                parts += inverted(ranges) if match[1] else ranges
                self.at = match.end()
                continue
            letter = pattern[self.at + 1 : self.at + 2] if pattern[self.at] == "\\" else ""
            if named := self.perl_class(letter):
                parts += inverted(named) if letter.isupper() else named
                self.at += 2
                continue
            begin = self.at
            low = high = self.class_character()
            if pattern.startswith("-", self.at) and not pattern.startswith("-]", self.at):
                self.at += 1
                if self.at >= len(pattern):
                    raise _error("missing closing ]", pattern[start:])
                high = self.class_character()
                if high < low:
                    raise _error("invalid character class range", pattern[begin : self.at])
            parts.append((low, high))
        self.at += 1
        return Chars(tuple(parts), negated, self.flags.fold)

    def class_character(self) -> int:
        if self.pattern[self.at] == "\\":
            return self.character()
        self.at += 1
        return ord(self.pattern[self.at - 1])
