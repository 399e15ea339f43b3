"""Exact parsers of the Prometheus text format 0.0.4 and of OpenMetrics 1.0, entry by entry.

Grammar: prometheus.io/docs/instrumenting/exposition_formats and the OpenMetrics specification; names in quotes are
Prometheus 3's UTF-8 extension. What is accepted, and the text of each error, is what Prometheus 3 does, since its users
search for these texts. Scrapes go through `lines.py`, which falls back to this one for unusual lines.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from typing import ClassVar

from common.errors import ExpositionError, FormatError
from common.labels import NAME, Labels
from common.sample import MetricType


class Format(StrEnum):
    """Formats by the name of their media type; the two text formats are parsed here, the other by `protobuf.py`."""

    TEXT = "text/plain"
    OPENMETRICS = "application/openmetrics-text"
    PROTOBUF = "application/vnd.google.protobuf"


@dataclass(frozen=True, slots=True)
class Help:
    """`# HELP`, unescaped."""

    metric: str
    text: str


@dataclass(frozen=True, slots=True)
class Type:
    """`# TYPE`."""

    metric: str
    type: MetricType


@dataclass(frozen=True, slots=True)
class Unit:
    """`# UNIT` (OpenMetrics)."""

    metric: str
    unit: str


@dataclass(frozen=True, slots=True)
class Comment:
    """Any other comment of the text format, with its `#`."""

    text: str


@dataclass(frozen=True, slots=True)
class Exemplar:
    """An exemplar; `timestamp` in ms."""

    labels: Labels
    value: float
    timestamp: int | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """One sample; `text` is the series as written, `timestamp` and `start` (creation time) are ms."""

    text: bytes
    labels: Labels
    value: float
    timestamp: int | None = None
    exemplar: Exemplar | None = None
    start: int | None = None


Entry = Help | Type | Unit | Comment | Series

_FLOAT = re.compile(
    r"(?:[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?inf(?:inity)?|nan)\Z", re.IGNORECASE | re.ASCII
)
_INT64 = range(-(2**63), 2**63)
_ESCAPE = re.compile(r'\\[\\"n]')
_HELP_ESCAPE = re.compile(r"\\[\\n]")
_OPENMETRICS_TYPES = {str(t.value): t for t in MetricType}
_TEXT_TYPES = {
    "counter": MetricType.COUNTER,
    "gauge": MetricType.GAUGE,
    "histogram": MetricType.HISTOGRAM,
    "summary": MetricType.SUMMARY,
    "untyped": MetricType.UNKNOWN,
}


def go_quote(data: bytes) -> str:
    """`data` as Go's `%q` prints it: UTF-8 kept where printable, the rest escaped."""
    out = ['"']
    for char in data.decode("utf-8", "surrogateescape"):
        code = ord(char)
        if 0xDC80 <= code <= 0xDCFF:
            out.append(f"\\x{code - 0xDC00:02x}")
        elif char in _GO_ESCAPES:
            out.append(_GO_ESCAPES[char])
        elif char.isprintable():
            out.append(char)
        elif code < 0x80:
            out.append(f"\\x{code:02x}")
        else:
            out.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return "".join(out) + '"'


_GO_ESCAPES = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
    '"': '\\"',
}


def unescape(text: str) -> str:
    """A label value or quoted name without its escapes (`\\\\`, `\\"`, `\\n`); others stay as written."""
    if "\\" not in text:
        return text
    return _ESCAPE.sub(lambda m: "\n" if m[0] == "\\n" else m[0][1], text)


def label_set(pairs: Sequence[tuple[str, str]], keep_empty: bool) -> Labels:
    """The label set; FormatError if a label occurs twice.

    With `keep_empty` it holds empty values, too: so a target says that its series has no such label, and merged over
    the target's own labels the set takes these away.
    """
    labels = Labels(pairs)
    return Labels.from_sorted(tuple(sorted(pairs))) if keep_empty and len(labels) < len(pairs) else labels


def normal_float(text: str) -> str:
    """A `le` or `quantile` value as Prometheus 3 stores it: `1` becomes `1.0`; what is no float stays."""
    if _FLOAT.match(text) is None:
        return text
    return format_float(float(text))


def format_float(value: float) -> str:
    """OpenMetrics's canonical float, as Go's shortest `%g` from 1e-04 to 1e+06 and always with a point or exponent."""
    if value != value:
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if value and not 1e-4 <= abs(value) < 1e6:
        # repr gives the fewest digits that read back equal; only their layout differs from Go's.
        sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
        assert isinstance(exponent, int)
        power = exponent + len(digits) - 1
        rest = "".join(map(str, digits[1:]))
        mantissa = f"{'-' if sign else ''}{digits[0]}{'.' + rest if rest else ''}"
        return f"{mantissa}e{'-' if power < 0 else '+'}{abs(power):02}"
    return repr(value)


def parse(data: bytes, form: Format, *, skip_created: bool = False) -> Iterator[Entry]:
    """Entries of `data` in order; ExpositionError where Prometheus has one.

    `skip_created`: OpenMetrics's `_created` samples become the `start` of their family's series instead.
    """
    reader: Reader = TextReader(data) if form is Format.TEXT else OpenMetricsReader(data)
    entries = iter(reader)
    return _with_starts(entries) if skip_created and form is Format.OPENMETRICS else entries


FAMILY_LABEL = {MetricType.HISTOGRAM: "le", MetricType.SUMMARY: "quantile"}
"""Labels whose values are floats, by type of their family."""

SUFFIXES = {
    MetricType.COUNTER: ("_total",),
    MetricType.HISTOGRAM: ("_bucket", "_count", "_sum"),
    MetricType.SUMMARY: ("", "_count", "_sum"),
}
"""Names of series that have a creation time, by type of their family."""


def _with_starts(entries: Iterable[Entry]) -> Iterator[Entry]:
    family, kind = "", MetricType.UNKNOWN
    held: list[Entry] = []
    created: dict[Labels, int] = {}

    def key(labels: Labels) -> Labels:
        return labels.drop((NAME, FAMILY_LABEL.get(kind, NAME)))

    def flush() -> Iterator[Entry]:
        names = {family + suffix for suffix in SUFFIXES.get(kind, ())}
        for entry in held:
            if isinstance(entry, Series) and entry.labels.name in names:
                yield replace(entry, start=created.get(key(entry.labels)))
            else:
                yield entry
        held.clear()
        created.clear()

    for entry in entries:
        if isinstance(entry, Type):
            yield from flush()
            family, kind = entry.metric, entry.type
        if isinstance(entry, Series) and kind in SUFFIXES and entry.labels.name == family + "_created":
            created[key(entry.labels)] = int(entry.value * 1000)
        else:
            held.append(entry)
    yield from flush()


class Token(StrEnum):
    """Kinds of tokens, by the names that Prometheus's error texts have."""

    INVALID = "INVALID"
    EOF = "EOF"
    LINEBREAK = "LINEBREAK"
    WHITESPACE = "WHITESPACE"
    HELP = "HELP"
    TYPE = "TYPE"
    UNIT = "UNIT"
    EOF_WORD = "EOFWORD"
    TEXT = "TEXT"
    COMMENT = "COMMENT"
    METRIC_NAME = "MNAME"
    BRACE_OPEN = "BOPEN"
    BRACE_CLOSE = "BCLOSE"
    LABEL_NAME = "LNAME"
    QUOTED = "QSTRING"
    LABEL_VALUE = "LVALUE"
    COMMA = "COMMA"
    EQUAL = "EQUAL"
    TIMESTAMP = "TIMESTAMP"
    VALUE = "VALUE"


class State(StrEnum):
    """What the lexer expects next."""

    INIT = "init"
    COMMENT = "comment"
    META_NAME = "meta name"
    META_TEXT = "meta text"
    LABELS = "labels"
    LABEL_VALUE = "label value"
    VALUE = "value"
    TIMESTAMP = "timestamp"
    EXEMPLAR = "exemplar"
    EXEMPLAR_VALUE = "exemplar value"
    EXEMPLAR_NUMBER = "exemplar number"
    EXEMPLAR_TIMESTAMP = "exemplar timestamp"


_Rule = tuple[re.Pattern[bytes], Token, State]


def _rule(pattern: bytes, token: Token, state: State) -> _Rule:
    return re.compile(pattern, re.DOTALL), token, state


_METRIC = rb"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = rb"[a-zA-Z_][a-zA-Z0-9_]*"
_STRING = rb'"(?:\\.|[^\\"])*"'
_LINE_STRING = rb'"(?:\\[^\n]|[^\\"\n])*"'
# Prometheus's lexer takes NUL in label values, but not in exemplars.
_EXEMPLAR_STRING = rb'"(?:\\[^\n\0]|[^\\"\n\0])*"'
_STRING_HEAD = re.compile(rb'"(?:\\.|[^\\"])*\\?', re.DOTALL)
_LINE_STRING_HEAD = re.compile(rb'"(?:\\[^\n]|[^\\"\n])*\\?')
_EXEMPLAR_STRING_HEAD = re.compile(rb'"(?:\\[^\n\0]|[^\\"\n\0])*\\?')


class Reader(ABC):
    """What both formats share: tokens by state, labels, numbers, and errors that quote the input."""

    rules: ClassVar[dict[State, list[_Rule]]]
    heads: ClassVar[dict[State, re.Pattern[bytes]]]
    skip_blanks = False
    strict_commas = True

    def __init__(self, data: bytes, offset: int = 0) -> None:
        self.data = data
        self.offset = offset
        self._start = offset
        self._entry = offset
        self._state = State.INIT
        self.type = MetricType.UNKNOWN
        """Type of the last `# TYPE`; tells whether `le` and `quantile` are floats."""
        self.keep_empty = False
        """Whether label sets hold empty values, too: see `label_set`."""

    def __iter__(self) -> Iterator[Entry]:
        while (entry := self.entry()) is not None:
            yield entry

    @abstractmethod
    def entry(self) -> Entry | None:
        """The next entry, or None at the end; `offset` is then behind it, at the begin of a line."""

    # Tokens

    def _next(self) -> Token:
        while True:
            if self.offset >= len(self.data):
                return Token.EOF
            token = self._lex()
            if token is not Token.WHITESPACE:
                return token

    def _lex(self) -> Token:
        self._start = self.offset
        if self.skip_blanks and self.data[self.offset] in b" \t":
            self.offset = _BLANKS.match(self.data, self.offset).end()  # type: ignore[union-attr]
            return Token.WHITESPACE
        return self._lex_rules()

    def _lex_rules(self) -> Token:
        for pattern, token, state in self.rules[self._state]:
            if match := pattern.match(self.data, self.offset):
                self.offset = match.end()
                self._state = state
                return token
        if (head := self.heads.get(self._state)) and (match := head.match(self.data, self.offset)):
            self.offset = match.end()
        return Token.INVALID

    @property
    def _text(self) -> bytes:
        return self.data[self._start : self.offset]

    def _unexpected(self, expected: str, token: Token) -> ExpositionError:
        end = min(len(self.data), self.offset + 1)
        got, seen = self.data[self._start : end], self.data[self._entry : end]
        return ExpositionError(
            f"expected {expected}, got {go_quote(got)} ({go_quote(token.value.encode())}) "
            f"while parsing: {go_quote(seen)}"
        )

    def _while_parsing(self, problem: str) -> ExpositionError:
        return ExpositionError(f"{problem} while parsing: {go_quote(self.data[self._entry : self.offset])}")

    def _decode(self, text: bytes, what: str) -> str:
        try:
            return text.decode("utf-8")
        except UnicodeDecodeError:
            raise ExpositionError(f"invalid UTF-8 {what}: {go_quote(text)}") from None

    # Parts of an entry

    def _float(self, text: bytes) -> float:
        word = text.decode("utf-8", "backslashreplace")
        if set(word) & set("pP_"):
            raise self._while_parsing("unsupported character in float")
        if _FLOAT.match(word) is None:
            raise self._while_parsing(f"strconv.ParseFloat: parsing {go_quote(text)}: invalid syntax")
        value = float(word)
        if math.isinf(value) and "n" not in word.lower():
            raise self._while_parsing(f"strconv.ParseFloat: parsing {go_quote(text)}: value out of range")
        return value

    def _meta_name(self, keyword: Token) -> str:
        token = self._next()
        if token is not Token.METRIC_NAME:
            raise self._unexpected(f"metric name after {keyword}", token)
        text = self._text
        if text.startswith(b'"'):
            return unescape(self._decode(text[1:-1], "metric name"))
        return text.decode("ascii")

    def _labels(self, name: str | None, exemplar: bool = False) -> tuple[list[tuple[str, str]], str | None]:
        """Label pairs up to the closing brace, and the metric name, if it stood among them."""
        pairs: list[tuple[str, str]] = []
        token = self._next()
        while token is not Token.BRACE_CLOSE:
            if token not in (Token.LABEL_NAME, Token.QUOTED):
                raise self._unexpected("label name", token)
            quoted, text = token is Token.QUOTED, self._text
            token = self._next()
            if quoted and not exemplar and token in (Token.COMMA, Token.BRACE_CLOSE):
                if name is not None:
                    raise self._while_parsing("metric name already set")
                name = unescape(self._decode(text[1:-1], "metric name"))
                if token is Token.COMMA:
                    token = self._next()
                continue
            if token is not Token.EQUAL:
                raise self._unexpected("equal", token)
            key = unescape(self._decode(text[1:-1], "label name")) if quoted else text.decode("ascii")
            if (value := self._next()) is not Token.LABEL_VALUE:
                raise self._unexpected("label value", value)
            raw = self._decode(self._text, "label value")
            pairs.append((key, unescape(raw[1:-1])))
            token = self._next()
            if self.strict_commas and token not in (Token.COMMA, Token.BRACE_CLOSE):
                raise self._unexpected("comma or brace close", token)
            if token is Token.COMMA:
                token = self._next()
        return pairs, name

    def _label_set(self, name: str, pairs: list[tuple[str, str]]) -> Labels:
        special = FAMILY_LABEL.get(self.type)
        if special:
            pairs = [(k, normal_float(v)) if k == special else (k, v) for k, v in pairs]
        try:
            return label_set([(NAME, name), *pairs], self.keep_empty)
        except FormatError as err:
            raise self._while_parsing(str(err)) from None

    def _head(self, token: Token) -> tuple[bytes, Labels, Token]:
        """Series text, label set, and the token behind them; `token` is what the entry began with."""
        name: str | None = None
        pairs: list[tuple[str, str]] = []
        end = self.offset
        if token is Token.METRIC_NAME:
            name = self._text.decode("ascii")
            token = self._next()
            opened = token is Token.BRACE_OPEN
        else:
            opened = True
        if opened:
            pairs, name = self._labels(name)
            end = self.offset
            token = self._next()
        if name is None:
            raise self._while_parsing("metric name not set")
        if token is not Token.VALUE:
            raise self._unexpected("value after metric", token)
        return self.data[self._entry : end], self._label_set(name, pairs), token


_BLANKS = re.compile(rb"[ \t]*")


class TextReader(Reader):
    """The text format; a missing newline at the end is forgiven."""

    skip_blanks = True
    strict_commas = False
    rules: ClassVar[dict[State, list[_Rule]]] = {
        State.INIT: [
            _rule(rb"\n", Token.LINEBREAK, State.INIT),
            _rule(rb"#[ \t]+HELP[ \t]+", Token.HELP, State.META_NAME),
            _rule(rb"#[ \t]+TYPE[ \t]+", Token.TYPE, State.META_NAME),
            _rule(rb"#[^\n]*", Token.COMMENT, State.INIT),
            _rule(_METRIC, Token.METRIC_NAME, State.VALUE),
            _rule(rb"\{", Token.BRACE_OPEN, State.LABELS),
        ],
        State.META_NAME: [
            _rule(_STRING, Token.METRIC_NAME, State.META_TEXT),
            _rule(_METRIC, Token.METRIC_NAME, State.META_TEXT),
        ],
        State.META_TEXT: [_rule(rb"[^\n]*", Token.TEXT, State.INIT)],
        State.LABELS: [
            _rule(_LABEL, Token.LABEL_NAME, State.LABELS),
            _rule(_STRING, Token.QUOTED, State.LABELS),
            _rule(rb"\}", Token.BRACE_CLOSE, State.VALUE),
            _rule(rb"=", Token.EQUAL, State.LABEL_VALUE),
            _rule(rb",", Token.COMMA, State.LABELS),
        ],
        State.LABEL_VALUE: [_rule(_STRING, Token.LABEL_VALUE, State.LABELS)],
        State.VALUE: [
            _rule(rb"\{", Token.BRACE_OPEN, State.LABELS),
            _rule(rb"[^{ \t\n\0]+", Token.VALUE, State.TIMESTAMP),
        ],
        State.TIMESTAMP: [
            _rule(rb"-?[0-9]+", Token.TIMESTAMP, State.TIMESTAMP),
            _rule(rb"\n", Token.LINEBREAK, State.INIT),
        ],
    }
    heads: ClassVar[dict[State, re.Pattern[bytes]]] = {
        State.LABELS: _STRING_HEAD,
        State.LABEL_VALUE: _STRING_HEAD,
        State.META_NAME: _STRING_HEAD,
    }

    def __init__(self, data: bytes, offset: int = 0) -> None:
        super().__init__(data if data.endswith(b"\n") else data + b"\n", offset)

    def entry(self) -> Entry | None:
        """See Reader."""
        self._state = State.INIT
        token = self._next()
        while token is Token.LINEBREAK:
            token = self._next()
        self._entry = self._start
        match token:
            case Token.EOF:
                return None
            case Token.HELP | Token.TYPE:
                return self._meta(token)
            case Token.COMMENT:
                text = Comment(self._text.decode("utf-8", "replace"))
                self._next()
                return text
            case Token.METRIC_NAME | Token.BRACE_OPEN:
                return self._series(token)
        raise self._unexpected("a valid start token", token)

    def _meta(self, keyword: Token) -> Entry:
        name = self._meta_name(keyword)
        text = self._text if self._next() is Token.TEXT else b""
        if (token := self._next()) is not Token.LINEBREAK:
            raise self._unexpected("linebreak after metadata", token)
        if keyword is Token.TYPE:
            kind = _TEXT_TYPES.get(text.decode("utf-8", "replace"))
            if kind is None:
                raise ExpositionError(f"invalid metric type {go_quote(text)}")
            self.type = kind
            return Type(name, kind)
        try:
            help_text = text.decode("utf-8")
        except UnicodeDecodeError:
            raise ExpositionError(f"help text {go_quote(text)} is not a valid utf8 string") from None
        return Help(name, _HELP_ESCAPE.sub(lambda m: "\n" if m[0] == "\\n" else "\\", help_text))

    def _series(self, token: Token) -> Series:
        text, labels, _ = self._head(token)
        value = self._float(self._text)
        timestamp: int | None = None
        token = self._next()
        if token is Token.TIMESTAMP:
            timestamp = int(self._text)
            if timestamp not in _INT64:
                raise self._while_parsing(f"strconv.ParseInt: parsing {go_quote(self._text)}: value out of range")
            token = self._next()
        if token is not Token.LINEBREAK:
            raise self._unexpected("next entry after timestamp", token)
        return Series(text, labels, value, timestamp)


class OpenMetricsReader(Reader):
    """OpenMetrics 1.0: one space between parts, and `# EOF` at the end."""

    rules: ClassVar[dict[State, list[_Rule]]] = {
        State.INIT: [
            _rule(rb"# HELP ", Token.HELP, State.META_NAME),
            _rule(rb"# TYPE ", Token.TYPE, State.META_NAME),
            _rule(rb"# UNIT ", Token.UNIT, State.META_NAME),
            _rule(rb"# EOF\n?", Token.EOF_WORD, State.INIT),
            _rule(_METRIC, Token.METRIC_NAME, State.VALUE),
            _rule(rb"\{", Token.BRACE_OPEN, State.LABELS),
        ],
        State.META_NAME: TextReader.rules[State.META_NAME],
        State.META_TEXT: [_rule(rb" [^\n]*\n", Token.TEXT, State.INIT)],
        State.LABELS: TextReader.rules[State.LABELS],
        State.LABEL_VALUE: [_rule(_LINE_STRING, Token.LABEL_VALUE, State.LABELS)],
        State.VALUE: [
            _rule(rb"\{", Token.BRACE_OPEN, State.LABELS),
            _rule(rb" [^ \n\0]+", Token.VALUE, State.TIMESTAMP),
        ],
        State.TIMESTAMP: [
            _rule(rb" # \{", Token.COMMENT, State.EXEMPLAR),
            _rule(rb" [^ \n\0]+", Token.TIMESTAMP, State.TIMESTAMP),
            _rule(rb"\n", Token.LINEBREAK, State.INIT),
        ],
        State.EXEMPLAR: [
            _rule(_LABEL, Token.LABEL_NAME, State.EXEMPLAR),
            _rule(_EXEMPLAR_STRING, Token.QUOTED, State.EXEMPLAR),
            _rule(rb"\}", Token.BRACE_CLOSE, State.EXEMPLAR_NUMBER),
            _rule(rb"=", Token.EQUAL, State.EXEMPLAR_VALUE),
            _rule(rb",", Token.COMMA, State.EXEMPLAR),
        ],
        State.EXEMPLAR_VALUE: [_rule(_EXEMPLAR_STRING, Token.LABEL_VALUE, State.EXEMPLAR)],
        State.EXEMPLAR_NUMBER: [_rule(rb" [^ \n\0]+", Token.VALUE, State.EXEMPLAR_TIMESTAMP)],
        State.EXEMPLAR_TIMESTAMP: [
            _rule(rb" [^ \n\0]+", Token.TIMESTAMP, State.EXEMPLAR_TIMESTAMP),
            _rule(rb"\n", Token.LINEBREAK, State.INIT),
        ],
    }
    heads: ClassVar[dict[State, re.Pattern[bytes]]] = {
        State.INIT: re.compile(rb"# (?:HELP|HEL|HE|H|TYPE|TYP|TY|T|UNIT|UNI|UN|U|EO|E)?|#"),
        State.META_NAME: _STRING_HEAD,
        State.META_TEXT: re.compile(rb" [^\n]*"),
        State.LABELS: _STRING_HEAD,
        State.LABEL_VALUE: _LINE_STRING_HEAD,
        State.VALUE: re.compile(rb" "),
        State.TIMESTAMP: re.compile(rb" "),
        State.EXEMPLAR: _EXEMPLAR_STRING_HEAD,
        State.EXEMPLAR_VALUE: _EXEMPLAR_STRING_HEAD,
        State.EXEMPLAR_NUMBER: re.compile(rb" "),
        State.EXEMPLAR_TIMESTAMP: re.compile(rb" "),
    }

    def entry(self) -> Entry | None:
        """See Reader."""
        self._state = State.INIT
        self._entry = self.offset
        token = self._next()
        match token:
            case Token.EOF_WORD:
                if self._next() is not Token.EOF:
                    raise ExpositionError("unexpected data after # EOF")
                return None
            case Token.EOF:
                raise ExpositionError("data does not end with # EOF")
            case Token.HELP | Token.TYPE | Token.UNIT:
                return self._meta(token)
            case Token.METRIC_NAME | Token.BRACE_OPEN:
                return self._series(token)
        raise self._unexpected("a valid start token", token)

    def _meta(self, keyword: Token) -> Entry:
        name = self._meta_name(keyword)
        if self._next() is not Token.TEXT:
            raise ExpositionError(f"expected text in {keyword}")
        raw = self._text[1:-1]
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise ExpositionError(f"help text {go_quote(raw)} is not a valid utf8 string") from None
        if keyword is Token.TYPE:
            kind = _OPENMETRICS_TYPES.get(text)
            if kind is None:
                raise ExpositionError(f"invalid metric type {go_quote(raw)}")
            self.type = kind
            return Type(name, kind)
        if keyword is Token.UNIT:
            if text and not name.endswith("_" + text):
                raise ExpositionError(f"unit {go_quote(raw)} not a suffix of metric {go_quote(name.encode())}")
            return Unit(name, text)
        return Help(name, unescape(text))

    def _series(self, token: Token) -> Series:
        text, labels, _ = self._head(token)
        value = self._float(self._text[1:])
        timestamp: int | None = None
        exemplar: Exemplar | None = None
        expected = "timestamp or comment"
        token = self._next()
        if token is Token.TIMESTAMP:
            timestamp = self._timestamp("timestamp")
            expected = "next entry after timestamp"
            token = self._next()
        if token is Token.COMMENT:
            exemplar = self._exemplar()
        elif token is Token.EOF:
            raise ExpositionError("data does not end with # EOF")
        elif token is not Token.LINEBREAK:
            raise self._unexpected(expected, token)
        return Series(text, labels, value, timestamp, exemplar)

    def _timestamp(self, what: str) -> int:
        seconds = self._float(self._text[1:])
        if not math.isfinite(seconds):
            raise ExpositionError(f"invalid {what} {format_float(seconds)}")
        millis = int(seconds * 1000)
        if millis not in _INT64:
            raise self._while_parsing(f"{what} out of range")
        return millis

    def _exemplar(self) -> Exemplar:
        pairs, _ = self._labels(None, exemplar=True)
        token = self._next()
        if token is not Token.VALUE:
            raise self._unexpected("value after exemplar labels", token)
        value = self._float(self._text[1:])
        timestamp: int | None = None
        token = self._next()
        if token is Token.TIMESTAMP:
            timestamp = self._timestamp("exemplar timestamp")
            if (token := self._next()) is not Token.LINEBREAK:
                raise self._unexpected("next entry after exemplar timestamp", token)
        elif token is Token.EOF:
            raise ExpositionError("data does not end with # EOF")
        elif token is not Token.LINEBREAK:
            raise self._unexpected("timestamp or comment", token)
        try:
            return Exemplar(Labels(pairs), value, timestamp)
        except FormatError as err:
            raise self._while_parsing(str(err)) from None
