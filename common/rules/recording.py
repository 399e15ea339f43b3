"""Recording rules: a query's vector becomes the rule's series. Pure."""

from collections.abc import Sequence

from common.errors import LimitError, QueryError
from common.histogram import FloatHistogram
from common.labels import NAME, Labels
from common.rules.model import RecordingRule
from common.rules.naming import Naming, distinct

Vector = Sequence[tuple[Labels, float | FloatHistogram]]


def recorded(rule: RecordingRule) -> Naming:
    """The rule's name and labels, set over those of a result."""
    own = {**rule.labels, NAME: rule.record}
    return Naming(lambda labels: labels.merge(own))


def record(
    rule: RecordingRule, vector: Vector, limit: int = 0, naming: Naming | None = None
) -> list[tuple[Labels, float | FloatHistogram]]:
    """The vector under the rule's name and labels; refuses equal label sets and more than `limit` (if not 0) series.

    `naming` is the rule's `recorded`, if it is evaluated again and again.
    """
    names = (naming or recorded(rule)).all_of([labels for labels, _ in vector])
    if not distinct(names):
        raise QueryError("vector contains metrics with the same labelset after applying rule labels")
    if limit and len(names) > limit:
        raise LimitError(f"exceeded limit of {limit} with {len(names)} series")
    return [(labels, value) for labels, (_, value) in zip(names, vector, strict=True)]
