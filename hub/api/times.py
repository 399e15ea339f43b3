"""Wall times as RFC 3339 text."""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NEVER = "0001-01-01T00:00:00Z"
"""Go's zero time, which Prometheus's API shows for "not yet"."""


def rfc3339(ms: int | None) -> str:
    """UTC with up to three digits of fraction, as Go prints it; NEVER for None or beyond year 9999."""
    if ms is None:
        return NEVER
    try:
        moment = _EPOCH + timedelta(milliseconds=ms)
    except OverflowError:
        return NEVER
    text = moment.strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f".{ms % 1000:03d}".rstrip("0").rstrip(".")
    return f"{moment.year:04d}{text[text.index('-') :]}{fraction}Z"
