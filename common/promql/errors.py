"""The error of text that is not PromQL, with the places in it."""

from dataclasses import dataclass

from common.errors import QueryError


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a query: byte offsets (end exclusive) and what it is."""

    start: int
    end: int
    message: str


class ParseError(QueryError):
    """Text that is not PromQL; `str()` is the first problem as `LINE:COLUMN: parse error: MESSAGE`.

    Lines and columns count from 1, columns in bytes, as in Prometheus.
    """

    def __init__(self, text: bytes, problems: "tuple[Problem, ...]", what: str = "") -> None:
        """`text` is the query; `problems` has at least one; `what` goes before MESSAGE (`"series description"`)."""
        self.text = text
        self.problems = problems
        first = problems[0]
        super().__init__(f"{position(text, first.start)}: parse error: {what}{first.message}")

    def all_messages(self) -> str:
        """Every problem, one a line."""
        return "\n".join(f"{position(self.text, p.start)}: parse error: {p.message}" for p in self.problems)


def position(text: bytes, offset: int) -> str:
    """`LINE:COLUMN` of a byte offset, `unknown position` in an empty text, or `invalid position` outside the text."""
    if not text:
        return "unknown position"
    if not 0 <= offset <= len(text):
        return "invalid position"
    line = text.count(b"\n", 0, offset) + 1
    begin = text.rfind(b"\n", 0, offset) + 1
    return f"{line}:{offset - begin + 1}"
