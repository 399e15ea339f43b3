"""Text as Go's fmt and strconv print it, since Prometheus's messages and canonical queries are made of it."""

import math
from decimal import Decimal

_NAMED = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
}


def _escape(char: str, quote: str) -> str:
    if char == quote:
        return "\\" + char
    if named := _NAMED.get(char):
        return named
    if char.isprintable():
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"  # a byte that was not UTF-8 (surrogateescape)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def quote(text: str) -> str:
    """`text` as strconv.Quote and `%q` print it, in double quotes."""
    if text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return '"' + "".join(_escape(char, '"') for char in text) + '"'


def quote_rune(char: str | None) -> str:
    """A character as `%q` prints it, in single quotes; None (the end of the text) prints as U+FFFD."""
    return "'" + _escape(char or "\ufffd", "'") + "'"


def name_rune(char: str) -> str:
    """A character as `%#U` prints it: `U+0078 'x'`."""
    shown = f" '{char}'" if char.isprintable() else ""
    return f"U+{ord(char):04X}{shown}"


def plain_float(value: float) -> str:
    """The shortest decimal text without exponent (FormatFloat 'f' -1): `+Inf`, `NaN`, `0.0000001`."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if value == int(value) and abs(value) < 1e16:
        return "-0" if value == 0 and math.copysign(1, value) < 0 else str(int(value))
    text = format(Decimal(repr(value)), "f")
    return text.removesuffix(".0")


def short_float(value: float) -> str:
    """The shortest text with an exponent where that is usual (`%v`): `1e+06`, `-23`, `+Inf`."""
    if not math.isfinite(value) or value == 0:
        return plain_float(value)
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    assert isinstance(exponent, int)
    power = len(digits) - 1 + exponent
    if -4 <= power < 6:
        return plain_float(value)
    mantissa = "".join(map(str, digits))
    if len(mantissa) > 1:
        mantissa = f"{mantissa[0]}.{mantissa[1:]}"
    return f"{'-' if sign else ''}{mantissa}e{'-' if power < 0 else '+'}{abs(power):02d}"
