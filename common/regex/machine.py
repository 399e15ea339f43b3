"""A tree as a program for Pike's machine: all ways through a text at once, in time linear in its length.

Source: Russ Cox, "Regular Expression Matching: the Virtual Machine Approach", https://swtch.com/~rsc/regexp/regexp2.html.
"""

import re
from collections.abc import Callable, Iterator

from common.errors import FormatError
from common.regex.backtracking import text_of_chars
from common.regex.syntax import At, Capture, Chars, Choice, Node, Place, Repeat, Sequence

MAX_INSTRUCTIONS = 10_000
"""Length of a program; each character of a text may cost a visit of each."""

_ACCEPT, _CHARS, _PLACE, _SAVE, _JUMP, _FORK = range(6)
_Slots = tuple[int, ...]


class Found:
    """What was found, with the methods of `re.Match` that Bramble uses."""

    def __init__(self, text: str, slots: _Slots, names: dict[str, int]) -> None:
        self._text = text
        self._slots = slots
        self._names = names

    def span(self) -> tuple[int, int]:
        """Where it starts and ends."""
        return self._slots[0], self._slots[1]

    def group(self, which: int | str = 0, /) -> str | None:
        """Text of a group, None where it took no part; IndexError if there is no such group."""
        number = self._names.get(which, -1) if isinstance(which, str) else which
        if not 0 <= number < len(self._slots) // 2:
            raise IndexError("no such group")
        start, end = self._slots[2 * number : 2 * number + 2]
        return None if start < 0 or end < 0 else self._text[start:end]

    def groups(self) -> tuple[str | None, ...]:
        """Texts of all groups from number 1 on."""
        return tuple(self.group(number) for number in range(1, len(self._slots) // 2))


class Machine:
    """An expression as program; as `re.Pattern` in what it has."""

    def __init__(self, tree: Node) -> None:
        """FormatError where the program would exceed MAX_INSTRUCTIONS."""
        self.groupindex: dict[str, int] = {}
        self._code: list[tuple[int, int, int]] = []
        self._sets: list[Callable[[str], object]] = []
        self._known: dict[Chars, int] = {}
        self._groups = 0
        self._emit(Capture(tree, 0, None))
        self._add(_ACCEPT)
        self._empty: _Slots = (-1, -1) * (self._groups + 1)

    def fullmatch(self, text: str, /) -> Found | None:
        """The match of the whole text, if there is one."""
        slots = self._run(text, 0, whole=True)
        return None if slots is None else Found(text, slots, self.groupindex)

    def finditer(self, text: str, /) -> Iterator[Found]:
        """Matches from left to right; after an empty one, and beside one, as `re` has them."""
        at, taken = 0, -1
        while at <= len(text):
            slots = self._run(text, at, whole=False, not_empty_at=taken)
            if slots is None:
                return
            yield Found(text, slots, self.groupindex)
            at = taken = slots[1]
            if slots[0] < slots[1]:
                taken = -1

    def _add(self, kind: int, x: int = 0, y: int = 0) -> int:
        if len(self._code) >= MAX_INSTRUCTIONS:
            raise FormatError(
                f"error parsing regexp: expression too large: more than {MAX_INSTRUCTIONS} steps when repetitions are "
                "written out; install google-re2 for larger ones"
            )
        self._code.append((kind, x, y))
        return len(self._code) - 1

    def _emit(self, node: Node) -> None:
        match node:
            case Chars():
                number = self._known.setdefault(node, len(self._sets))
                if number == len(self._sets):
                    self._sets.append(_member(node))
                self._add(_CHARS, number)
            case At(place):
                self._add(_PLACE, list(Place).index(place))
            case Sequence(parts):
                for part in parts:
                    self._emit(part)
            case Capture(body, number, name):
                self._groups = max(self._groups, number)
                if name is not None:
                    self.groupindex[name] = number
                self._add(_SAVE, 2 * number)
                self._emit(body)
                self._add(_SAVE, 2 * number + 1)
            case Choice(options):
                ends = []
                for option in options[:-1]:
                    fork = self._add(_FORK)
                    self._emit(option)
                    ends.append(self._add(_JUMP))
                    self._code[fork] = (_FORK, fork + 1, len(self._code))
                self._emit(options[-1])
                for end in ends:
                    self._code[end] = (_JUMP, len(self._code), 0)
            case Repeat():
                self._emit_repeat(node)

    def _emit_repeat(self, node: Repeat) -> None:
        for _ in range(node.least):
            self._emit(node.body)
        forks = []
        if node.most is None:
            forks.append(self._add(_FORK))
            self._emit(node.body)
            self._add(_JUMP, forks[0])
        else:
            for _ in range(node.most - node.least):
                forks.append(self._add(_FORK))
                self._emit(node.body)
        end = len(self._code)
        for fork in forks:
            self._code[fork] = (_FORK, end, fork + 1) if node.lazy else (_FORK, fork + 1, end)

    def _run(self, text: str, start: int, *, whole: bool, not_empty_at: int = -1) -> _Slots | None:
        """Slots of the first match at or after `start` in order of preference, or of the whole text.

        An empty match at `not_empty_at` does not count.
        """
        code, sets = self._code, self._sets
        found: _Slots | None = None
        threads: list[tuple[int, _Slots]] = []
        for at in range(start, len(text) + 1):
            if found is None and (at == start or not whole):
                # The least preferred way is to begin here; those under way began before.
                threads.append((0, self._empty))
            if not threads:
                return found
            char = text[at] if at < len(text) else ""
            following: list[tuple[int, _Slots]] = []
            for step, slots in self._reached(text, at, threads):
                kind, x, _ = code[step]
                if kind == _CHARS:
                    if char and sets[x](char):
                        following.append((step + 1, slots))
                elif (not whole or not char) and not (slots[0] == at == not_empty_at):
                    # What is preferred less than this match is of no more interest.
                    found = slots
                    break
            threads = following
        return found

    def _reached(self, text: str, at: int, threads: list[tuple[int, _Slots]]) -> Iterator[tuple[int, _Slots]]:
        """The steps that take a character or accept, reachable from `threads` without taking one, by preference."""
        code = self._code
        seen = bytearray(len(code))
        holds: dict[int, bool] = {}
        stack = threads[::-1]
        while stack:
            step, slots = stack.pop()
            if seen[step]:
                continue
            seen[step] = 1
            kind, x, y = code[step]
            if kind <= _CHARS:
                yield step, slots
            elif kind == _JUMP:
                stack.append((x, slots))
            elif kind == _FORK:
                stack.append((y, slots))
                stack.append((x, slots))
            elif kind == _SAVE:
                stack.append((step + 1, (*slots[:x], at, *slots[x + 1 :])))
            elif holds.setdefault(x, _PLACES[x](text, at)):
                stack.append((step + 1, slots))


def _member(chars: Chars) -> Callable[[str], object]:
    """Whether a character is one of them, by the same engine as everywhere else."""
    return re.compile(text_of_chars(chars)).match


def _is_word(char: str) -> bool:
    return char.isascii() and (char.isalnum() or char == "_")


def _word_edge(text: str, at: int) -> bool:
    return _is_word(text[at - 1 : at]) != _is_word(text[at : at + 1])


_CONDITIONS: dict[Place, Callable[[str, int], bool]] = {
    Place.TEXT_START: lambda text, at: at == 0,
    Place.TEXT_END: lambda text, at: at == len(text),
    Place.LINE_START: lambda text, at: at == 0 or text[at - 1] == "\n",
    Place.LINE_END: lambda text, at: at == len(text) or text[at] == "\n",
    Place.WORD_EDGE: _word_edge,
    Place.NO_WORD_EDGE: lambda text, at: not _word_edge(text, at),
}
_PLACES = [_CONDITIONS[place] for place in Place]
