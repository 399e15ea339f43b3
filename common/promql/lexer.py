"""Tokens of a PromQL query, with byte offsets; errors are tokens too, worded as Prometheus words them."""

import re
from dataclasses import dataclass

from common.promql.gotext import name_rune, quote, quote_rune

EOF = "EOF"
ERROR = "ERROR"
IDENTIFIER = "identifier"
METRIC_IDENTIFIER = "metric identifier"
STRING = "string"
NUMBER = "number"
DURATION = "duration"

SET_OPERATORS = frozenset(("and", "or", "unless"))
COMPARISONS = frozenset(("==", "!=", "<=", "<", ">=", ">"))
OPERATORS = (
    SET_OPERATORS | COMPARISONS | frozenset(("+", "-", "*", "/", "%", "^", "atan2", "</", ">/", "@", "=~", "!~"))
)
AGGREGATIONS = frozenset(
    "sum avg count min max group stddev stdvar topk bottomk count_values quantile limitk limit_ratio".split()  # noqa: SIM905
)
KEYWORDS = frozenset(
    "offset smoothed anchored by without on ignoring group_left group_right fill fill_left fill_right bool".split()  # noqa: SIM905
)
TIME_FUNCTIONS = frozenset(("start", "end", "step", "range"))
EXTREMES = frozenset(("min_of", "max_of"))
_WORDS = SET_OPERATORS | {"atan2"} | AGGREGATIONS | KEYWORDS | TIME_FUNCTIONS | EXTREMES
_FILLS = frozenset(("fill", "fill_left", "fill_right"))
_DURATION_WORDS = frozenset(("step", "range", "min_of", "max_of"))

_SPACE = re.compile(rb"[ \t\n\r]*")
_COMMENT = re.compile(rb"#[^\r\n]*")
_WORD = re.compile(rb"[A-Za-z_:][A-Za-z0-9_:]*")
_LABEL = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*")
_ALPHA = re.compile(rb"[A-Za-z_]+")
_DECIMAL = re.compile(rb"(?:0|[1-9][0-9]*|(?=\.))(?:\.[0-9]+)?(?![0-9A-Za-z_.])")
_PLAIN = {quote_char: re.compile(b"[^\\x80-\\xff\\n\\\\" + quote_char + b"]*") for quote_char in (b'"', b"'")}
_PLAIN[b"`"] = re.compile(b"[^\\x80-\\xff`]*")
_NON_ASCII = re.compile(rb"[\x80-\xff]+")
_DIGITS = b"0123456789"
_HEX_DIGITS = b"0123456789abcdefABCDEF"
_SYMBOLS = {char: chr(char) for char in b",*/%+-^=<>()@"}
_IN_DURATION = frozenset(b"(+-*/%^,)")


@dataclass(frozen=True, slots=True)
class Token:
    """`kind` is one of the constants above, or the operator, keyword (in lower case) or punctuation itself.

    `text` is what stands in the query, or the message of an ERROR.
    """

    kind: str
    start: int
    end: int
    text: str

    def describe(self) -> str:
        """The token as Prometheus's messages name it: `identifier "foo"`, `<op:*>`, `end of input`."""
        kind = self.kind
        if kind == EOF:
            return "end of input"
        if kind in OPERATORS:
            return f"<op:{self.text}>"
        if kind in KEYWORDS:
            return f"<{self.text}>"
        if kind in AGGREGATIONS:
            return f"<aggr:{self.text}>"
        if kind in (IDENTIFIER, METRIC_IDENTIFIER):
            return f"{kind} {quote(self.text)}"
        shown = quote(self.text) if self.end - self.start <= 10 else quote(self.text[:10]) + "..."
        return f"{kind} {shown}" if kind in (STRING, NUMBER, DURATION) else shown


class Lexer:
    """Gives the tokens of `source` one by one; after an EOF or ERROR come only EOFs."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self.position = 0
        self._start = 0
        self._parens = 0
        self._in_braces = False
        self._in_brackets = False
        self._got_colon = False
        self._got_duration = False
        self._duration_state = False
        self._done = False

    def next(self) -> Token:
        """The next token."""
        if self._done:
            return Token(EOF, len(self.source), len(self.source), "")
        self._skip_blank()
        self._start = self.position
        if self._in_braces:
            token = self._inside_braces()
        elif self._duration_state:
            token = self._inside_brackets()
        else:
            token = self._statement()
        if token.kind in (EOF, ERROR):
            self._done = True
        return token

    def _skip_blank(self) -> None:
        source = self.source
        while True:
            match = _SPACE.match(source, self.position)
            assert match is not None
            self.position = match.end()
            if self._duration_state or source[self.position : self.position + 1] != b"#":
                return
            match = _COMMENT.match(source, self.position)
            assert match is not None
            self.position = match.end()

    def _emit(self, kind: str, end: int) -> Token:
        self.position = end
        return Token(kind, self._start, end, self.source[self._start : end].decode(errors="replace"))

    def _fail(self, message: str, start: int | None = None) -> Token:
        return Token(ERROR, self._start if start is None else start, len(self.source), message)

    def _rune(self, at: int) -> str | None:
        """The character at a byte offset, U+FFFD for a byte that is not UTF-8, None at the end."""
        head = self.source[at : at + 4]
        if not head:
            return None
        for width in (1, 2, 3, 4):
            try:
                return head[:width].decode()
            except UnicodeDecodeError:
                continue
        return "\ufffd"

    def _statement(self) -> Token:
        source, at = self.source, self.position
        if at >= len(source):
            if self._parens:
                return self._fail("unclosed left parenthesis")
            if self._in_brackets:
                return self._fail("unclosed left bracket")
            return self._emit(EOF, at)
        char = source[at]
        follower = source[at + 1] if at + 1 < len(source) else -1
        if char in b"=<>" and follower == 0x3D:
            return self._emit(chr(char) + "=", at + 2)
        if char in b"<>" and follower == 0x2F:
            return self._emit(chr(char) + "/", at + 2)
        if char == 0x3D and follower == 0x7E:
            return self._fail("unexpected character after '=': '~'")
        if char == 0x28 or char == 0x29:
            return self._parenthesis(char, at)
        if symbol := _SYMBOLS.get(char):
            return self._emit(symbol, at + 1)
        if char == 0x21:
            if follower == 0x3D:
                return self._emit("!=", at + 2)
            return self._fail(f"unexpected character after '!': {quote_rune(self._rune(at + 1))}")
        if char in _DIGITS or (char == 0x2E and follower >= 0 and follower in _DIGITS):
            return self._number_or_duration()
        if char in b"\"'`":
            return self._string(source[at : at + 1])
        if match := _WORD.match(source, at):
            return self._bracket_word(at) if self._in_brackets else self._word(match.end())
        if char == 0x7B:
            self._in_braces = True
            return self._emit("{", at + 1)
        if char == 0x5B:
            if self._in_brackets:
                return self._fail("unexpected left bracket '['")
            self._in_brackets = self._duration_state = True
            self._got_colon = self._got_duration = False
            return self._emit("[", at + 1)
        if char == 0x5D:
            if not self._in_brackets:
                return self._fail("unexpected right bracket ']'")
            self._in_brackets = False
            return self._emit("]", at + 1)
        return self._fail(f"unexpected character: {quote_rune(self._rune(at))}")

    def _parenthesis(self, char: int, at: int) -> Token:
        self._parens += 1 if char == 0x28 else -1
        if self._parens < 0:
            return self._fail("unexpected right parenthesis ')'", at + 1)
        return self._emit(chr(char), at + 1)

    def _word(self, end: int) -> Token:
        text = self.source[self._start : end].decode()
        word = text.lower()
        if word in _WORDS:
            if word in _FILLS or word in EXTREMES:
                # These came late: they are names of metrics unless a parenthesis follows.
                match = _SPACE.match(self.source, end)
                assert match is not None
                if self.source[match.end() : match.end() + 1] != b"(":
                    return self._emit(IDENTIFIER, end)
            return self._emit(word, end)
        if word in ("inf", "nan"):
            return self._emit(NUMBER, end)
        return self._emit(METRIC_IDENTIFIER if ":" in text else IDENTIFIER, end)

    def _duration_word(self, at: int) -> Token | None:
        match = _ALPHA.match(self.source, at)
        if match is not None and (word := match.group().decode().lower()) in _DURATION_WORDS:
            self._got_duration = True
            return self._emit(word, match.end())
        return None

    def _bracket_word(self, at: int) -> Token:
        """A letter or colon after the first number inside brackets."""
        if self.source[at] == 0x3A:
            if self._got_colon:
                return self._fail("unexpected colon ':'")
            self._got_colon = True
            return self._emit(":", at + 1)
        return self._duration_word(at) or self._fail(
            f"unexpected character: {quote_rune(chr(self.source[at]))}, expected ':'"
        )

    def _inside_brackets(self) -> Token:
        """Tokens after `[` up to the first number; from there on it is `_statement`."""
        source, at = self.source, self.position
        if at >= len(source):
            return self._fail("unexpected end of input in duration expression")
        char = source[at]
        if char == 0x5D:
            self._in_brackets = self._duration_state = False
            return self._emit("]", at + 1)
        if char == 0x3A:
            if not self._got_duration:
                return self._fail("unexpected colon before duration in duration expression", at + 1)
            if self._got_colon:
                return self._fail("unexpected repeated colon in duration expression", at + 1)
            self._got_colon = True
            return self._emit(":", at + 1)
        if char == 0x28 or char == 0x29:
            return self._parenthesis(char, at)
        if char in _IN_DURATION:
            return self._emit(chr(char), at + 1)
        follower = source[at + 1] if at + 1 < len(source) else -1
        if char in _DIGITS or (char == 0x2E and follower >= 0 and follower in _DIGITS):
            self._got_duration = True
            self._duration_state = False
            return self._number_or_duration()
        return self._duration_word(at) or self._fail(
            f"unexpected character in duration expression: {quote_rune(self._rune(at))}"
        )

    def _inside_braces(self) -> Token:
        source, at = self.source, self.position
        if at >= len(source):
            return self._fail("unexpected end of input inside braces")
        char = source[at]
        if match := _LABEL.match(source, at):
            return self._emit(IDENTIFIER, match.end())
        if char in b"\"'`":
            return self._string(source[at : at + 1])
        if char == 0x2C:
            return self._emit(",", at + 1)
        pair = source[at : at + 2]
        if pair in (b"=~", b"!=", b"!~"):
            return self._emit(pair.decode(), at + 2)
        if char == 0x3D:
            return self._emit("=", at + 1)
        if char == 0x21:
            return self._fail(f"unexpected character after '!' inside braces: {quote_rune(self._rune(at + 1))}")
        if char == 0x7B:
            return self._fail("unexpected left brace '{'")
        if char == 0x7D:
            self._in_braces = False
            return self._emit("}", at + 1)
        return self._fail(f"unexpected character inside braces: {quote_rune(self._rune(at))}")

    def _string(self, mark: bytes) -> Token:
        source = self.source
        plain = _PLAIN[mark]
        at = self.position + 1
        while True:
            match = plain.match(source, at)
            assert match is not None
            at = match.end()
            char = source[at : at + 1]
            if char == mark:
                return self._emit(STRING, at + 1)
            if not char or char == b"\n":
                return self._fail("unterminated raw string" if mark == b"`" else "unterminated quoted string")
            if char == b"\\":
                problem, at = self._escape(at + 1, mark)
                if problem:
                    return self._fail(problem)
                continue
            match = _NON_ASCII.match(source, at)
            assert match is not None
            try:
                valid = "\ufffd" not in match.group().decode()
            except UnicodeDecodeError:
                valid = False
            if not valid:
                return self._fail("invalid UTF-8 rune")
            at = match.end()

    def _escape(self, at: int, mark: bytes) -> tuple[str, int]:
        """What is wrong with the escape sequence whose letter is at `at` (or nothing), and where it ends."""
        char = self.source[at : at + 1]
        if not char:
            return "escape sequence not terminated", at
        if char in b"abfnrtv\\" or char == mark:
            return "", at + 1
        if char in b"01234567":
            length, base, most = 3, 8, 255
        elif char in b"xuU":
            length, base, most = {b"x": (2, 16, 255), b"u": (4, 16, 0x10FFFF), b"U": (8, 16, 0x10FFFF)}[char]
            at += 1
        else:
            return f"unknown escape sequence {name_rune(self._rune(at) or '')}", at
        digits = b"01234567" if base == 8 else _HEX_DIGITS
        for offset in range(at, at + length):
            rune = self._rune(offset)
            if rune is None:
                return "escape sequence not terminated", at
            if self.source[offset] not in digits:
                return f"illegal character {name_rune(rune)} in escape sequence", at
        code = int(self.source[at : at + length], base)
        if code > most or 0xD800 <= code < 0xE000:
            return "escape sequence is an invalid Unicode code point", at
        return "", at + length

    def _number_or_duration(self) -> Token:
        if match := _DECIMAL.match(self.source, self.position):
            return self._emit(NUMBER, match.end())
        found, at = self._scan_number(self.position)
        if found:
            return self._emit(NUMBER, at)
        found, at = self._scan_units(at)
        if found:
            return self._emit(DURATION, at)
        return self._fail(
            f"bad number or duration syntax: {quote(self.source[self._start : at].decode(errors='replace'))}"
        )

    def _is(self, at: int, chars: bytes) -> bool:
        return at < len(self.source) and self.source[at] in chars

    def _is_alphanumeric(self, at: int) -> bool:
        return (
            at < len(self.source)
            and (self.source[at] == 0x5F or chr(self.source[at]).isalnum())
            and (self.source[at] < 0x80)
        )

    def _scan_number(self, at: int) -> tuple[bool, int]:
        """Whether a number stands at `at`, and how far it was read; its value is checked by the parser."""
        begin = at
        digits = _DIGITS
        if self._is(at, b"0"):
            at += 1
            if self._is(at, b"xX"):
                at += 1
                at += self._is(at, b"_")
                digits = _HEX_DIGITS
        at += self._is(at, b".")
        at += self._is(at, digits)
        had_dot = had_exponent = False
        while self._is(at, digits + b"._eE"):
            if self._is(at, b"."):
                at += 1
                if had_dot:
                    return False, at
                had_dot = True
                if self._is(at, b"_."):
                    return False, at + 1
                if digits is _HEX_DIGITS:
                    return False, at
            elif self._is(at, b"eE"):
                at += 1
                if had_exponent:
                    return False, at
                had_exponent = True
                at += self._is(at, b"+-")
                if self._is(at, b"._eE"):
                    return False, at + 1
                if at >= len(self.source):
                    return False, at
            elif self._is(at, b"_"):
                at += 1
                if self._is(at, b"._eE"):
                    return False, at + 1
                if at >= len(self.source):
                    return False, at
            else:
                while self._is(at, digits):
                    at += 1
        return at > begin and not self._is_alphanumeric(at), at

    def _scan_units(self, at: int) -> tuple[bool, int]:
        """Whether what was read so far and what follows has the form of a duration, and where it ends."""
        if not self._is(at, b"smhdwy"):
            return False, at
        at += 1
        at += self._is(at, b"s")
        while self._is(at, _DIGITS):
            while self._is(at, _DIGITS):
                at += 1
            if not self._is(at, b"smhdw"):
                return False, at
            at += 1
            at += self._is(at, b"s")
        if self._is_alphanumeric(at):
            return False, at + 1
        return True, at
