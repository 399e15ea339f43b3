"""Time of parsing hostile text, by its length: linear means that twice the text takes twice the time.

usage: python -m tests.bench.parser_hostile [--bytes 90000]

Prints, for every shape, the time a megabyte of it takes at a quarter, a half and the whole of the length, and the
ratio of the last two times. Every shape must parse or give a ParseError; the limits (bytes, tokens, levels) are the
parser's own.
"""

import argparse
import sys
import time
from collections.abc import Callable

from common.promql.errors import ParseError
from common.promql.parser import parse
from common.promql.signatures import FEATURES

Shape = Callable[[int], str]


def repeat(part: str, before: str = "", after: str = "") -> Shape:
    """`before`, `part` as often as fits, `after`."""
    return lambda size: before + part * (max(size - len(before) - len(after), 0) // len(part)) + after


SHAPES: dict[str, Shape] = {
    "opening parentheses": repeat("("),
    "closing parentheses": repeat(")"),
    "signs": repeat("-", after="1"),
    "sums": repeat("a+", after="a"),
    "powers": repeat("a^", after="a"),
    "sets": repeat("a or ", after="a"),
    "sums of bad selectors": repeat("{}*2+", after="a"),
    "subqueries of a sum": lambda size: "(" + "a+" * (size // 7) + "a)" + "[5m:]" * (size // 7),
    "offsets": repeat(" offset 1", before="a"),
    "subqueries": repeat("[1m:]", before="a"),
    "calls": repeat("abs(", after="a"),
    "aggregations without end": repeat("sum("),
    "arguments": repeat("1,", before="abs(", after="1)"),
    "trailing commas": repeat(",", before="abs(1", after=")"),
    "grouping": repeat("a,", before="sum by (", after=") (b)"),
    "grouping without commas": repeat("a ", before="sum by (", after=") (b)"),
    "matchers": repeat('a="b",', before="foo{", after="}"),
    "matchers without commas": repeat('a="b" ', before="foo{", after="}"),
    "equal signs in braces": repeat("=", before="foo{a"),
    "one string": repeat("x", before='"', after='"'),
    "escapes": repeat("\\x41", before='"', after='"'),
    "bytes beyond ASCII": repeat("é", before='"', after='"'),
    "string without end": repeat("x", before='"'),
    "one name": repeat("a"),
    "digits": repeat("1"),
    "octal digits": repeat("1", before="0"),
    "hexadecimal digits": repeat("f", before="0x"),
    "digits after a point": repeat("1", before="0."),
    "digits of a duration": repeat("1", after="s"),
    "units": repeat("1s"),
    "duration arithmetic": repeat("1+", before="a[", after="1]"),
    "powers of durations": repeat("1^", before="a[", after="1]"),
    "words that fit nowhere": repeat("a "),
    "comments": repeat("#\n", after="a"),
    "blanks": repeat(" ", after="a"),
    "late keywords before blanks": repeat("fill "),
    "at signs": repeat("@"),
    "alternatives of a regular expression": repeat("a|", before='{a=~"', after='b"}'),
    "stars of a regular expression": repeat("(a*)*", before='{a=~"', after='"}'),
}


def measure(text: str) -> tuple[float, str]:
    """Seconds of processor time to parse, best of three, and how it ended."""
    best, outcome = float("inf"), "parsed"
    for _ in range(3):
        began = time.thread_time()
        try:
            parse(text, FEATURES)
        except ParseError as error:
            outcome = error.problems[0].message
        best = min(best, time.thread_time() - began)
    return best, outcome


def main() -> int:
    """Print the table; 1 if a shape's time grows faster than its length by more than half."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--bytes", type=int, default=90_000)
    size = options.parse_args().bytes
    print("| shape | ms/MB at 1/4 | at 1/2 | at 1 | growth of the last doubling | outcome |\n|---|---|---|---|---|---|")
    worst = 0.0
    for name, shape in SHAPES.items():
        times = []
        outcome = ""
        for part in (size // 4, size // 2, size):
            seconds, outcome = measure(shape(part))
            times.append(seconds)
        growth = times[2] / times[1]
        # Below a millisecond it is the clock and the fixed cost that is measured.
        worst = max(worst, growth if times[2] > 0.001 else 0.0)
        rates = " | ".join(
            f"{seconds * 1e9 / part:.1f}" for seconds, part in zip(times, (size // 4, size // 2, size), strict=True)
        )
        shown = outcome if len(outcome) < 50 else outcome[:47] + "..."
        print(f"| {name} | {rates} | {growth:.2f} | {shown.replace('|', '/')} |")
    print(f"\nworst growth of a doubling: {worst:.2f}")
    return 1 if worst > 3 else 0


if __name__ == "__main__":
    sys.exit(main())
