"""Label sets and matchers, as in Prometheus: sorted, unique names, empty value means absent."""

import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING

from common.errors import FormatError

if TYPE_CHECKING:
    from common.regex import Pattern

NAME = "__name__"
MAX_REGEX_LENGTH = 1 << 18
"""Characters of a regular expression; RE2's own memory budget ends near there for lists of host names."""

MAX_REGEX_LENGTH_WITHOUT_RE2 = 512

_LEGACY_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
_LEGACY_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*\Z")
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


def is_legacy_metric_name(name: str) -> bool:
    """Whether `name` needs no quotes as metric name (`[a-zA-Z_:][a-zA-Z0-9_:]*`)."""
    return _LEGACY_METRIC.match(name) is not None


def is_legacy_label_name(name: str) -> bool:
    """Whether `name` needs no quotes as label name (`[a-zA-Z_][a-zA-Z0-9_]*`)."""
    return _LEGACY_LABEL.match(name) is not None


def quote(value: str) -> str:
    """`value` in double quotes with backslash, quote and newline escaped."""
    return f'"{value.translate(_ESCAPES)}"'


class Labels:
    """An immutable label set: pairs (name, value) sorted by name, no empty value, hash computed once."""

    __slots__ = ("_hash", "pairs")
    pairs: tuple[tuple[str, str], ...]

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        """Sort `pairs` and drop empty values; a name given twice is a FormatError."""
        kept = tuple(sorted(pair for pair in pairs if pair[1]))
        for left, right in itertools.pairwise(kept):
            if left[0] == right[0]:
                raise FormatError(f"label {left[0]!r} occurs twice")
        self.pairs = kept
        self._hash = hash(kept)

    @classmethod
    def of(cls, mapping: Mapping[str, str] | None = None, /, **names: str) -> "Labels":
        """Labels from a mapping, keyword arguments, or both (keywords win)."""
        return cls({**(mapping or {}), **names}.items())

    @classmethod
    def from_sorted(cls, pairs: tuple[tuple[str, str], ...]) -> "Labels":
        """Labels from pairs known to be sorted, unique and free of empty values (not checked)."""
        self = cls.__new__(cls)
        self.pairs = pairs
        self._hash = hash(pairs)
        return self

    @property
    def name(self) -> str:
        """The metric name, or the empty string."""
        return self.get(NAME)

    def get(self, name: str, default: str = "") -> str:
        """The value of `name`, or `default`."""
        for key, value in self.pairs:
            if key == name:
                return value
        return default

    def keep(self, names: Collection[str]) -> "Labels":
        """Only the labels in `names`."""
        return Labels.from_sorted(tuple(p for p in self.pairs if p[0] in names))

    def drop(self, names: Collection[str]) -> "Labels":
        """All labels but those in `names`."""
        return Labels.from_sorted(tuple(p for p in self.pairs if p[0] not in names))

    def without_name(self) -> "Labels":
        """All labels but the metric name."""
        return self.drop((NAME,))

    def merge(self, other: "Labels | Mapping[str, str]") -> "Labels":
        """These labels with those of `other` set over them; an empty value there removes."""
        return Labels.of({**dict(self.pairs), **dict(other if isinstance(other, Labels) else other.items())})

    def to_dict(self) -> dict[str, str]:
        """A new dict, sorted by name."""
        return dict(self.pairs)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __contains__(self, name: object) -> bool:
        return any(key == name for key, _ in self.pairs)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Labels) and self._hash == other._hash and self.pairs == other.pairs

    def __lt__(self, other: "Labels") -> bool:
        return self.pairs < other.pairs

    def __str__(self) -> str:
        """Prometheus's text: `name{a="b"}`; a name or label that needs it is quoted inside the braces."""
        name = self.name
        inner = [
            f"{key if is_legacy_label_name(key) else quote(key)}={quote(value)}"
            for key, value in self.pairs
            if key != NAME
        ]
        if name and not is_legacy_metric_name(name):
            return "{" + ", ".join([quote(name), *inner]) + "}"
        if not inner and name:
            return name
        return f"{name}{{{', '.join(inner)}}}"

    def __repr__(self) -> str:
        return f"Labels({self})"


EMPTY = Labels()


class MatchType(StrEnum):
    """Operators of label matchers."""

    EQ = "="
    NE = "!="
    RE = "=~"
    NRE = "!~"


# RE2's messages in C++ -> those of Go's regexp/syntax, which users of Prometheus know.
_RE2_MESSAGES = {
    "missing ]": "missing closing ]",
    "missing )": "missing closing )",
    "trailing \\": "trailing backslash at end of expression",
    "no argument for repetition operator": "missing argument to repetition operator",
    "invalid repetition size": "invalid repeat count",
    "bad repetition operator": "invalid nested repetition operator",
    "invalid perl operator": "invalid or unsupported Perl syntax",
    "invalid named capture group": "invalid named capture",
}


def compile_regex(pattern: str, *, captures: bool = True, dot_newline: bool = True) -> "Pattern":
    """An RE2 expression, to be matched in full; FormatError says why it is not one.

    Without `captures` its groups only group: matching then takes no longer for many of them. `dot_newline` says
    whether the dot matches newlines from the start, as it does in matchers and relabeling.
    """
    if len(pattern) > MAX_REGEX_LENGTH:
        raise FormatError(
            f"error parsing regexp: expression too large: {len(pattern)} characters, the limit is {MAX_REGEX_LENGTH}"
        )
    try:
        import re2
    except ImportError:
        if len(pattern) > MAX_REGEX_LENGTH_WITHOUT_RE2:
            raise FormatError(
                f"regular expression longer than {MAX_REGEX_LENGTH_WITHOUT_RE2} characters: "
                "install google-re2 for longer ones"
            ) from None
        # Imported late: neither the agent nor a machine with google-re2 needs it.
        from common.regex import compile_pattern

        return compile_pattern(pattern, dot_newline=dot_newline)
    options = re2.Options()
    options.dot_nl = dot_newline
    options.log_errors = False
    options.never_capture = not captures
    try:
        compiled: Pattern = re2.compile(pattern, options)
    except re2.error as err:
        text = err.args[0].decode(errors="replace") if isinstance(err.args[0], bytes) else str(err)
        what, _, where = text.partition(": ")
        raise FormatError(f"error parsing regexp: {_RE2_MESSAGES.get(what, what)}: `{where}`") from None
    return compiled


class Matcher:
    """One condition on a label's value; a missing label has the value ''. Immutable and hashable."""

    __slots__ = ("_hash", "_literals", "_pattern", "name", "type", "value")

    def __init__(self, type: MatchType, name: str, value: str) -> None:  # noqa: A002 - the field's word
        """Compile the matcher; a bad regular expression is a FormatError."""
        self.type = MatchType(type)
        self.name = name
        self.value = value
        self._hash = hash((self.type, name, value))
        self._pattern: Pattern | None = None
        self._literals: frozenset[str] | None = None
        if self.type in (MatchType.RE, MatchType.NRE):
            if not set(value) & set("\\.+*?()[]{}^$"):
                self._literals = frozenset(value.split("|"))
            else:
                self._pattern = compile_regex(value, captures=False)

    def matches(self, value: str) -> bool:
        """Whether a label with this value (`''` if absent) satisfies the matcher."""
        if self.type is MatchType.EQ:
            return value == self.value
        if self.type is MatchType.NE:
            return value != self.value
        if self._literals is not None:
            hit = value in self._literals
        else:
            assert self._pattern is not None
            hit = self._pattern.fullmatch(value) is not None
        return hit if self.type is MatchType.RE else not hit

    @property
    def matches_empty(self) -> bool:
        """Whether a series without the label satisfies the matcher."""
        return self.matches("")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Matcher) and (self.type, self.name, self.value) == (
            other.type,
            other.name,
            other.value,
        )

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        name = self.name if is_legacy_label_name(self.name) else quote(self.name)
        return f"{name}{self.type}{quote(self.value)}"

    def __repr__(self) -> str:
        return f"Matcher({self})"


def match_all(matchers: Iterable[Matcher], labels: Labels) -> bool:
    """Whether `labels` satisfies every matcher."""
    return all(m.matches(labels.get(m.name)) for m in matchers)
