"""Metric and label names for readers of an exposition that don't take all of UTF-8, as the reader asks.

https://prometheus.io/docs/instrumenting/escaping_schemes/
"""

from collections.abc import Iterator
from enum import StrEnum

from common.labels import is_legacy_metric_name

PROTOBUF = "application/vnd.google.protobuf"


class Escaping(StrEnum):
    """What becomes of characters that names could not hold before Prometheus 3."""

    NONE = "allow-utf-8"
    UNDERSCORES = "underscores"
    DOTS = "dots"
    VALUES = "values"


def escape(name: str, scheme: Escaping) -> str:
    """The name as `scheme` has it; one that needs no escaping stays as it is."""
    if scheme is Escaping.NONE or not name or is_legacy_metric_name(name):
        return name
    escaped = "".join(_escaped(name, scheme))
    return f"U__{escaped}" if scheme is Escaping.VALUES else escaped


def _escaped(name: str, scheme: Escaping) -> Iterator[str]:
    for at, letter in enumerate(name):
        # A digit is one of a name's letters only behind another.
        fits = is_legacy_metric_name(f"_{letter}" if at else letter)
        if scheme is Escaping.UNDERSCORES:
            yield letter if fits else "_"
        elif letter == "_":
            yield "__"
        elif fits:
            yield letter
        elif scheme is Escaping.VALUES:
            yield f"_{ord(letter):x}_"
        else:
            yield "_dot_" if letter == "." else "__"


def negotiate(accept: str) -> tuple[bool, Escaping]:
    """Whether an Accept header prefers delimited protobuf to text, and how names are to be escaped.

    The scheme is that of the format chosen or, as in Prometheus, of a format liked better that is not offered.
    """
    clauses = []
    for each in accept.replace(" ", "").split(","):
        kind, *parameters = each.lower().split(";")
        given = dict(parameter.split("=", 1) for parameter in parameters if "=" in parameter)
        try:
            quality = float(given.get("q", "1"))
        except ValueError:
            quality = 0.0
        if quality > 0:
            clauses.append((quality, kind, given))
    scheme = Escaping.UNDERSCORES
    for _, kind, given in sorted(clauses, key=lambda clause: -clause[0]):
        asked = given.get("escaping", "")
        if asked in list(Escaping):
            scheme = Escaping(asked)
        if (
            kind == PROTOBUF
            and given.get("encoding") == "delimited"
            and given.get("proto") == "io.prometheus.client.metricfamily"
        ):
            return True, scheme
        if kind == "text/plain":
            return False, scheme
    return False, scheme
