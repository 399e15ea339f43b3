"""A tree as an expression of Python's `re`, and whether that may be trusted with it.

`re` tries one way after the other. It is quick where there are few ways through a text, and takes years where there
are many.
"""

from common.regex.syntax import At, Capture, Chars, Choice, Node, Place, Repeat, Sequence

MAX_PATHS = 1000
"""Ways through an expression, apart from those of `*` and `+`."""

MAX_DEGREE = 2
"""Repetitions without a bound that one text may be shared out among: time grows with this power of its length."""

_PLACES = {
    Place.TEXT_START: r"\A",
    Place.TEXT_END: r"\Z",
    Place.LINE_START: "(?m:^)",
    Place.LINE_END: "(?m:$)",
    Place.WORD_EDGE: r"(?a:\b)",
    Place.NO_WORD_EDGE: r"(?:(?a:\B)|\A\Z)",  # Python before 3.14 sees none in an empty text
}


def is_harmless(node: Node) -> bool:
    """Whether `re` needs at most quadratic time for this expression."""
    paths, degree = _cost(node)
    return paths <= MAX_PATHS and degree <= MAX_DEGREE


def _cost(node: Node) -> tuple[int, int]:
    """Ways through a node apart from its unbounded repetitions, and how many of these follow each other."""
    match node:
        case Chars() | At():
            return 1, 0
        case Capture(body):
            return _cost(body)
        case Sequence(parts):
            paths, degree = 1, 0
            for part in parts:
                more, deeper = _cost(part)
                paths, degree = min(paths * more, MAX_PATHS + 1), degree + deeper
            return paths, degree
        case Choice(options):
            costs = [_cost(option) for option in options]
            return sum(paths for paths, _ in costs), max(degree for _, degree in costs)
        case Repeat(body, least, most):
            paths, degree = _cost(body)
            if most is None:
                harmless = paths == 1 and degree == 0 and not _may_be_empty(body)
                return 1 if harmless else MAX_PATHS + 1, 1
            total = most - least + 1 if paths == 1 else sum(paths**times for times in range(least, min(most, 10) + 1))
            return total if most <= 10 or paths == 1 else MAX_PATHS + 1, degree * most


def _may_be_empty(node: Node) -> bool:
    match node:
        case Chars():
            return False
        case At():
            return True
        case Capture(body):
            return _may_be_empty(body)
        case Sequence(parts):
            return all(map(_may_be_empty, parts))
        case Choice(options):
            return any(map(_may_be_empty, options))
        case Repeat(body, least):
            return least == 0 or _may_be_empty(body)


def text_of(node: Node) -> str:
    """The expression for `re.compile`, without flags."""
    match node:
        case Chars():
            return text_of_chars(node)
        case At(place):
            return _PLACES[place]
        case Capture(body, _, name):
            # A name of Python's is an identifier, one of RE2's may be a number.
            return f"(?P<{name}>{text_of(body)})" if name is not None and name.isidentifier() else f"({text_of(body)})"
        case Sequence(parts):
            return "".join(f"(?:{text_of(part)})" if isinstance(part, Choice) else text_of(part) for part in parts)
        case Choice(options):
            return "|".join(map(text_of, options))
        case Repeat(body, least, most, lazy):
            inner = text_of(body) if isinstance(body, Chars) else f"(?:{text_of(body)})"
            return f"{inner}{{{least},{'' if most is None else most}}}{'?' if lazy else ''}"


def text_of_chars(chars: Chars) -> str:
    """The expression for one character."""
    if not chars.ranges:
        return r"[\x00-\U0010ffff]" if chars.negated else "(?!)"
    inner = "".join(_span(low, high) for low, high in chars.ranges)
    out = inner if not chars.negated and _is_one(chars) else f"[{'^' if chars.negated else ''}{inner}]"
    return f"(?i:{out})" if chars.fold else out


def _is_one(chars: Chars) -> bool:
    return len(chars.ranges) == 1 and chars.ranges[0][0] == chars.ranges[0][1]


def _span(low: int, high: int) -> str:
    return _rune(low) if low == high else f"{_rune(low)}-{_rune(high)}"


def _rune(code: int) -> str:
    char = chr(code)
    return char if char.isascii() and char.isalnum() else f"\\U{code:08x}"
