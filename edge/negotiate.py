"""What the client of `/metrics` or `/federate` wants: media types and encodings with their weights. Pure."""

from collections.abc import Iterator
from typing import Literal

from common.frames.model import MEDIA_TYPE, VERSION

MAX_HEADER = 4096

_OPENMETRICS = "application/openmetrics-text"
_OPENMETRICS_VERSIONS = ("", "1.0.0", "0.0.1")


def weighted(header: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Items of an Accept-like header (RFC 9110 section 12.4.2): value, parameters, weight; all in lower case."""
    for item in header[:MAX_HEADER].lower().split(","):
        value, *rest = (part.strip() for part in item.split(";"))
        params = {}
        for part in rest:
            key, _, text = part.partition("=")
            params[key.strip()] = text.strip().strip('"')
        try:
            weight = float(params.pop("q", "1"))
        except ValueError:
            weight = 0.0
        if value:
            yield value, params, weight if 0 <= weight <= 1 else 0.0


def metrics_format(accept: str) -> Literal["text", "openmetrics"]:
    """`openmetrics` only where it is asked for by name, in a version we speak, at least as much as plain text."""
    openmetrics = text = 0.0
    for value, params, weight in weighted(accept):
        if value == _OPENMETRICS and params.get("version", "") in _OPENMETRICS_VERSIONS:
            openmetrics = max(openmetrics, weight)
        elif value == "text/plain":
            text = max(text, weight)
    return "openmetrics" if openmetrics > 0 and openmetrics >= text else "text"


def wants_frames(accept: str) -> bool:
    """Whether Bramble's frames are accepted in the version that this program writes."""
    return any(
        value == MEDIA_TYPE and params.get("version", str(VERSION)) == str(VERSION) and weight > 0
        for value, params, weight in weighted(accept)
    )


def encoding(accept_encoding: str) -> Literal["zstd", "gzip", "identity"]:
    """`zstd` (RFC 8878) where the client names it and likes it as much as `gzip`; else `gzip` where it takes it."""
    weights = {value: weight for value, _, weight in weighted(accept_encoding)}
    gzip = weights.get("gzip", weights.get("*", 0.0))
    if (zstd := weights.get("zstd", 0.0)) > 0 and zstd >= gzip:
        return "zstd"
    return "gzip" if gzip > 0 else "identity"
