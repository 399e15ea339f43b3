"""The subset of Go templates that labels and annotations of alerts use most; anything else is a named error.

Supported: text, `{{ pipeline }}` with trim markers and comments; `$labels.x`, `$externalLabels.x`, `$externalURL`,
`$value`, the same as `.Labels.x`, `.ExternalLabels.x`, `.ExternalURL`, `.Value`; strings, numbers, parentheses, `|`;
the functions in `FUNCTIONS`. Control structures, variables and queries are refused when the rule file is loaded.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from common.errors import FormatError
from common.labels import EMPTY, Labels, compile_regex
from common.relabel import expand
from common.rules import format as fmt

MAX_OUTPUT = 16 * 1024
_KEYWORDS = frozenset(["if", "else", "end", "range", "with", "define", "template", "block", "break", "continue"])
_ACTION = re.compile(r"\{\{(-\s)?")
_TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`)
    |(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    |(?P<path>\$?(?:\.[A-Za-z_]\w*)+|\$[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)
    |(?P<name>[A-Za-z_]\w*)
    |(?P<mark>[()|])""",
    re.VERBOSE | re.ASCII,
)
_VERB = re.compile(r"%([-+# 0]*)(\d*)(?:\.(\d+))?([a-zA-Z%])")

Value = str | float | Labels


class TemplateError(FormatError):
    """A template that can't be used, or couldn't be expanded; `offset` is a character position in its source."""

    def __init__(self, message: str, offset: int = 0) -> None:
        super().__init__(message)
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Context:
    """What an alert gives its templates."""

    labels: Labels
    value: float
    external_labels: Labels = EMPTY
    external_url: str = ""


@dataclass(frozen=True, slots=True)
class _Literal:
    value: Value


@dataclass(frozen=True, slots=True)
class _Path:
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Wrong:
    """A field that isn't there: as in Go, known only when the template is expanded."""

    problem: str


@dataclass(frozen=True, slots=True)
class _Call:
    func: str
    args: tuple["_Node", ...]


_Node = _Literal | _Path | _Wrong | _Call


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template; `expand` gives its text for one alert."""

    source: str
    parts: tuple[str | _Node, ...] = field(default=(), repr=False)

    @property
    def constant(self) -> bool:
        """Whether its text is its source, whatever the alert."""
        return self.parts == ((self.source,) if self.source else ()) and len(self.source) <= MAX_OUTPUT

    def expand(self, context: Context) -> str:
        """The text; TemplateError if a function refuses its argument or the result is longer than MAX_OUTPUT."""
        out = "".join(part if isinstance(part, str) else _text(_evaluate(part, context)) for part in self.parts)
        if len(out) > MAX_OUTPUT:
            raise TemplateError(f"the template's text is longer than {MAX_OUTPUT} characters")
        return out


def parse_template(source: str) -> Template:
    """Parse `source`; TemplateError names what is not supported or malformed."""
    parts: list[str | _Node] = []
    at = 0
    trim = False
    while True:
        opening = _ACTION.search(source, at)
        text = source[at : opening.start() if opening else len(source)]
        if trim:
            text = text.lstrip()
        if opening is None:
            break
        if opening.group(1):
            text = text.rstrip()
        if text:
            parts.append(text)
        begin = opening.end()
        if source.startswith("/*", begin):
            stop = source.find("*/", begin)
            closing = re.compile(r"\s*(\s-)?\}\}").match(source, stop + 2) if stop >= 0 else None
            if closing is None:
                raise TemplateError("unclosed comment", opening.start())
            at, trim = closing.end(), closing.group(1) is not None
            continue
        node, at, trim = _Parser(source, begin, opening.start()).action()
        parts.append(node)
    if text:
        parts.append(text)
    return Template(source, tuple(parts))


class _Parser:
    """Reads one action from behind its `{{`."""

    def __init__(self, source: str, at: int, opened: int) -> None:
        self.source, self.at, self.opened = source, at, opened
        self.kind, self.text, self.start = "", "", at
        self.trim = False
        self.next()

    def next(self) -> None:
        closing = re.compile(r"\s*?(\s-)?\}\}").match(self.source, self.at)
        if closing:
            self.kind, self.text, self.start = "end", "}}", self.at
            self.at, self.trim = closing.end(), closing.group(1) is not None
            return
        match = _TOKEN.match(self.source, self.at)
        if match is None:
            if self.at >= len(self.source):
                raise TemplateError("unclosed action", self.opened)
            found = self.source[self.at]
            raise TemplateError(f"unexpected {found!r} in a template action", self.at)
        self.start, self.at = self.at, match.end()
        self.kind, self.text = str(match.lastgroup), match.group()
        if self.kind == "space":
            self.next()

    def action(self) -> tuple[_Node, int, bool]:
        node = self.pipeline()
        if self.kind != "end":
            raise TemplateError(f"unexpected {self.text!r} in a template action", self.start)
        return node, self.at, self.trim

    def pipeline(self) -> _Node:
        node = self.command(None)
        while self.text == "|" and self.kind == "mark":
            self.next()
            node = self.command(node)
        return node

    def command(self, piped: _Node | None) -> _Node:
        start, name = self.start, self.text
        if self.kind == "name":
            if name in _KEYWORDS:
                raise TemplateError(f"`{name}` in a template is not supported yet", start)
            if name in ("true", "false", "nil"):
                raise TemplateError(f"the constant `{name}` in a template is not supported yet", start)
            if name not in FUNCTIONS:
                raise TemplateError(f"the template function `{name}` is unknown or not supported yet", start)
            self.next()
            args: list[_Node] = []
            while self.kind in ("string", "number", "path", "name") or self.text == "(":
                args.append(self.operand())
            if piped is not None:
                args.append(piped)
            least, most, _ = FUNCTIONS[name]
            if not least <= len(args) <= most:
                raise TemplateError(f"wrong number of arguments for {name}: want {least}, got {len(args)}", start)
            return _Call(name, tuple(args))
        if piped is not None:
            raise TemplateError(f"expected a function after `|`, got {self.text!r}", start)
        node = self.operand()
        if self.kind != "end" and self.text not in ("|", ")"):
            raise TemplateError(f"unexpected {self.text!r} in a template action", self.start)
        return node

    def operand(self) -> _Node:
        kind, text, start = self.kind, self.text, self.start
        if kind == "string":
            self.next()
            return _Literal(_unquote(text, start))
        if kind == "number":
            self.next()
            return _Literal(float(text))
        if kind == "path":
            self.next()
            return _resolve(text, start)
        if text == "(" and kind == "mark":
            self.next()
            node = self.pipeline()
            if self.text != ")":
                raise TemplateError("unclosed parenthesis in a template action", start)
            self.next()
            return node
        if kind == "name":
            return self.command_without_arguments()
        raise TemplateError("missing value in a template action" if kind == "end" else f"unexpected {text!r}", start)

    def command_without_arguments(self) -> _Node:
        raise TemplateError(f"put the call of `{self.text}` in parentheses", self.start)


_ROOTS = {
    "$labels": "labels",
    ".Labels": "labels",
    "$.Labels": "labels",
    "$externalLabels": "external_labels",
    ".ExternalLabels": "external_labels",
    "$.ExternalLabels": "external_labels",
    "$value": "value",
    ".Value": "value",
    "$.Value": "value",
    "$externalURL": "external_url",
    ".ExternalURL": "external_url",
    "$.ExternalURL": "external_url",
}


def _resolve(text: str, start: int) -> _Path | _Wrong:
    for root, name in _ROOTS.items():
        if text == root:
            return _Path((name,))
        if text.startswith(root + ".") and name in ("labels", "external_labels"):
            rest = text[len(root) + 1 :]
            if "." in rest:
                return _Wrong(f"a label's value has no field: {text}")
            return _Path((name, rest))
    if text.startswith("$") and not text.startswith("$."):
        raise TemplateError(f'undefined variable "{text.split(".")[0]}"', start)
    return _Wrong(f"`{text}` is not a field of an alert's template")


def _unquote(text: str, start: int) -> str:
    if text[0] == "`":
        return text[1:-1]
    escapes = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\"}
    out: list[str] = []
    at = 1
    while at < len(text) - 1:
        if text[at] == "\\":
            at += 1
            if text[at] not in escapes:
                raise TemplateError(f"the escape \\{text[at]} in a template string is not supported yet", start + at)
            out.append(escapes[text[at]])
        else:
            out.append(text[at])
        at += 1
    return "".join(out)


def _evaluate(node: _Node, context: Context) -> Value:
    if isinstance(node, _Literal):
        return node.value
    if isinstance(node, _Path):
        value: Value = getattr(context, node.names[0])
        return value.get(node.names[1]) if isinstance(value, Labels) and len(node.names) > 1 else value
    if isinstance(node, _Wrong):
        raise TemplateError(node.problem)
    args = [_evaluate(arg, context) for arg in node.args]
    try:
        return FUNCTIONS[node.func][2](args)
    except (ValueError, OverflowError) as err:
        raise TemplateError(f"error calling {node.func}: {err}") from None


def _text(value: Value) -> str:
    if isinstance(value, float):
        return fmt.go_value(value)
    if isinstance(value, Labels):
        return "map[" + " ".join(f"{name}:{text}" for name, text in value) + "]"
    return value


def _number(value: Value) -> float:
    if isinstance(value, float):
        return value
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            raise ValueError(f'strconv.ParseFloat: parsing "{value}": invalid syntax') from None
    raise ValueError("can't convert a map to float")


def _printf(args: list[Value]) -> str:
    """Go's fmt.Sprintf for the verbs d e f g q s v x and %%, with width, precision and flags."""
    rest = iter(args[1:])

    def one(match: re.Match[str]) -> str:
        flags, width, precision, verb = match.groups()
        if verb == "%":
            return "%"
        try:
            value = next(rest)
        except StopIteration:
            return f"%!{verb}(MISSING)"
        if isinstance(value, float) and verb in "efgEG":
            text = fmt.special(value)
            if text is None:
                digits = precision if precision is not None else ("6" if verb in "efE" else None)
                text = fmt.go_value(value)
                if digits is not None:
                    text = f"{value:{'+' if '+' in flags else ''}.{digits}{verb}}"
            return _pad(text, flags, width)
        if isinstance(value, float) and verb == "d":
            return f"%!d(float64={fmt.go_value(value)})"
        if verb in "sv":
            if isinstance(value, float) and verb == "s":
                return f"%!s(float64={fmt.go_value(value)})"
            text = _text(value)
            return _pad(text[: int(precision)] if precision is not None else text, flags, width)
        if verb == "q" and isinstance(value, str):
            return _pad('"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"', flags, width)
        return f"%!{verb}({'float64' if isinstance(value, float) else 'string'}={_text(value)})"

    out = _VERB.sub(one, _text(args[0]))
    extra = [f"{'float64' if isinstance(v, float) else 'string'}={_text(v)}" for v in rest]
    return out + (f"%!(EXTRA {', '.join(extra)})" if extra else "")


def _pad(text: str, flags: str, width: str) -> str:
    if not width:
        return text
    count = min(int(width), 1024)
    if "-" in flags:
        return text.ljust(count)
    return text.zfill(count) if "0" in flags else text.rjust(count)


def _replace_all(args: list[Value]) -> str:
    pattern, replacement, text = (_text(arg) for arg in args)
    out = []
    at, last = 0, -1
    for match in compile_regex(pattern, dot_newline=False).finditer(text):
        start, end = match.span()
        if start == end == last:
            continue  # Go's ReplaceAll ignores an empty match right behind another one
        out += [text[at:start], expand(replacement, match)]
        at = last = end
    return "".join(out) + text[at:]


def _title(args: list[Value]) -> str:
    return re.sub(r"(^|\s)(\S)", lambda m: m.group(1) + m.group(2).upper(), _text(args[0]))


def _strip_port(args: list[Value]) -> str:
    text = _text(args[0])
    match = re.fullmatch(r"\[([^\[\]]*)\]:\d*|([^:\[\]]*):[^:]*", text)
    return text if match is None else match.group(1) if match.group(1) is not None else match.group(2)


def _strip_domain(args: list[Value]) -> str:
    text = _text(args[0])
    host = _strip_port(args)
    port = text[len(host) :] if text.startswith(host) else None
    if port is None or ":" in host or re.fullmatch(r"[\d.]+", host):
        return text
    return host.split(".")[0] + port


def _index(args: list[Value]) -> Value:
    if isinstance(args[0], Labels):
        return args[0].get(_text(args[1]))
    raise ValueError("only $labels and $externalLabels can be indexed")


def _numeric(function: Callable[[float], str]) -> tuple[int, int, Callable[[list[Value]], Value]]:
    return 1, 1, lambda args: function(_number(args[0]))


FUNCTIONS: Mapping[str, tuple[int, int, Callable[[list[Value]], Value]]] = {
    "humanize": _numeric(fmt.humanize),
    "humanize1024": _numeric(fmt.humanize1024),
    "humanizeDuration": _numeric(fmt.humanize_duration),
    "humanizePercentage": _numeric(fmt.humanize_percentage),
    "humanizeTimestamp": _numeric(fmt.humanize_timestamp),
    "index": (2, 2, _index),
    "printf": (1, 100, _printf),
    "reReplaceAll": (3, 3, _replace_all),
    "stripDomain": (1, 1, _strip_domain),
    "stripPort": (1, 1, _strip_port),
    "title": (1, 1, _title),
    "toLower": (1, 1, lambda args: _text(args[0]).lower()),
    "toUpper": (1, 1, lambda args: _text(args[0]).upper()),
}
"""Template functions by name: least and most arguments, implementation."""
