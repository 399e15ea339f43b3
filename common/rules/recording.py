"""Recording rules: a query's vector becomes the rule's series. Pure."""

from collections.abc import Sequence

from common.errors import LimitError, QueryError
from common.histogram import FloatHistogram
from common.labels import NAME, Labels
from common.rules.model import RecordingRule

Vector = Sequence[tuple[Labels, float | FloatHistogram]]


def record(rule: RecordingRule, vector: Vector, limit: int = 0) -> list[tuple[Labels, float | FloatHistogram]]:
    """The vector under the rule's name and labels; refuses equal label sets and more than `limit` (if not 0) series."""
    rows = [(labels.merge({**rule.labels, NAME: rule.record}), value) for labels, value in vector]
    if len({labels for labels, _ in rows}) < len(rows):
        raise QueryError("vector contains metrics with the same labelset after applying rule labels")
    if limit and len(rows) > limit:
        raise LimitError(f"exceeded limit of {limit} with {len(rows)} series")
    return rows
