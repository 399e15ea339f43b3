"""Numbers as Go's strconv and fmt print them, and Prometheus's humanize functions: pure text from floats."""

import math
from decimal import Decimal

from common.times import rfc3339

_SI = ("k", "M", "G", "T", "P", "E", "Z", "Y")
_SI_SMALL = ("m", "u", "n", "p", "f", "a", "z", "y")
_BINARY = ("ki", "Mi", "Gi", "Ti", "Pi", "Ei", "Zi", "Yi")
_MAX_SECONDS = (2**63 - 1) / 1e9


def special(value: float) -> str | None:
    """`NaN`, `+Inf` or `-Inf`, or None for a finite value."""
    if value != value:
        return "NaN"
    if value == math.inf:
        return "+Inf"
    if value == -math.inf:
        return "-Inf"
    return None


def plain(value: float) -> str:
    """The shortest decimal that reads back as `value`, never with an exponent (strconv 'f', -1)."""
    text = special(value)
    if text is not None:
        return text
    text = repr(value)
    if "e" in text:
        text = format(Decimal(text), "f")
    return text.removesuffix(".0")


def exponent(value: float) -> str:
    """The shortest scientific form (strconv 'e', -1): `1e-07`, `1.5e+21`."""
    text = special(value)
    if text is not None:
        return text
    sign, digits, power = Decimal(repr(value)).normalize().as_tuple()
    assert isinstance(power, int)
    if not any(digits):
        return "-0e+00" if sign else "0e+00"
    scale = power + len(digits) - 1
    fraction = "".join(map(str, digits[1:]))
    return f"{'-' if sign else ''}{digits[0]}{'.' + fraction if fraction else ''}e{scale:+03d}"


def sample_text(value: float) -> str:
    """A sample as Prometheus's JSON API writes it: 'f', but 'e' below 1e-6 and from 1e21 on."""
    magnitude = abs(value)
    if magnitude and (magnitude < 1e-6 or magnitude >= 1e21) and magnitude != math.inf:
        return exponent(value)
    return plain(value)


def go_value(value: float) -> str:
    """Go's `%v` and `%g` of a float64: exponent below 1e-4 and from 1e6 on."""
    magnitude = abs(value)
    if magnitude and (magnitude < 1e-4 or magnitude >= 1e6) and magnitude != math.inf:
        return exponent(value)
    return plain(value)


def significant(value: float, digits: int = 4) -> str:
    """Go's `%.4g`."""
    return special(value) or f"{value:.{digits}g}"


def humanize(value: float) -> str:
    """`value` with an SI prefix and four digits: `1.235M`, `120m`."""
    if value == 0 or not math.isfinite(value):
        return significant(value)
    prefix = ""
    if abs(value) >= 1:
        for each in _SI:
            if abs(value) < 1000:
                break
            prefix, value = each, value / 1000
    else:
        for each in _SI_SMALL:
            if abs(value) >= 1:
                break
            prefix, value = each, value * 1000
    return significant(value) + prefix


def humanize1024(value: float) -> str:
    """`value` with a binary prefix: `1.177Mi`."""
    if abs(value) <= 1 or not math.isfinite(value):
        return significant(value)
    prefix = ""
    for each in _BINARY:
        if abs(value) < 1024:
            break
        prefix, value = each, value / 1024
    return significant(value) + prefix


def humanize_percentage(value: float) -> str:
    """A ratio as percentage: 0.1234567 is `12.35%`."""
    return significant(value * 100) + "%"


def humanize_duration(value: float) -> str:
    """Seconds as `14d 6h 56m 7s`, below a second with an SI prefix."""
    if not math.isfinite(value):
        return significant(value)
    if value == 0:
        return "0s"
    if abs(value) < 1:
        prefix = ""
        for each in _SI_SMALL:
            if abs(value) >= 1:
                break
            prefix, value = each, value * 1000
        return f"{significant(value)}{prefix}s"
    sign, rest = ("-", -value) if value < 0 else ("", value)
    whole = int(rest)
    seconds, minutes, hours, days = whole % 60, whole // 60 % 60, whole // 3600 % 24, whole // 86400
    if days:
        return f"{sign}{days}d {hours}h {minutes}m {seconds}s"
    if hours:
        return f"{sign}{hours}h {minutes}m {seconds}s"
    if minutes:
        return f"{sign}{minutes}m {seconds}s"
    return f"{sign}{significant(rest)}s"


def humanize_timestamp(value: float) -> str:
    """Unix seconds as Go prints a UTC time; ValueError beyond what int64 nanoseconds hold."""
    if not math.isfinite(value):
        return significant(value)
    if abs(value) > _MAX_SECONDS:
        raise ValueError(f"{go_value(value)} cannot be represented as a nanoseconds timestamp since it overflows int64")
    millis = math.floor(value * 1000 + 0.5)
    date, clock = rfc3339(millis).removesuffix("Z").split("T")
    return f"{date} {clock} +0000 UTC"
