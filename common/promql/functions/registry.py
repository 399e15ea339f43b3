"""Which handler evaluates which function."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from common.promql.ast import Call
from common.promql.evaluator import Evaluator, Handler, Steps
from common.promql.functions import elementwise, histograms, info, labels, ranges, scalars
from common.promql.matrix import Matrix, empty


def _absent_over_time(ev: Evaluator, node: Call, steps: Steps) -> Iterator[Matrix]:
    """One where no series has a sample in its window."""
    there = np.zeros(steps.count, dtype=np.bool_)
    for part in ranges.call(ev, node, steps):
        there |= part.presence.any(axis=0)
    if there.all():
        yield empty(steps.times)
        return
    result = Matrix([labels.fixed_labels(node.args[0])], np.ones((1, steps.count)), ~there[None, :], steps.times)
    yield replace(ev.drop_names(result), histograms=None)


HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(ranges.RANGE_FUNCTIONS, ranges.call),
    **dict.fromkeys(elementwise.UNARY, elementwise.unary),
    **dict.fromkeys(elementwise.DATES, elementwise.date),
    **dict.fromkeys(("clamp", "clamp_min", "clamp_max"), elementwise.clamp),
    **dict.fromkeys(("sort", "sort_desc"), labels.sort_by_value),
    **dict.fromkeys(("sort_by_label", "sort_by_label_desc"), labels.sort_by_label),
    **dict.fromkeys(histograms.OF_NATIVE, histograms.of_native),
    **dict.fromkeys(("pi", "start", "end", "step", "range"), scalars.constant),
    **dict.fromkeys(("min_of", "max_of"), scalars.extreme_of),
    "absent": elementwise.absent,
    "absent_over_time": _absent_over_time,
    "histogram_fraction": histograms.fraction,
    "histogram_quantile": histograms.quantile,
    "histogram_quantiles": histograms.quantiles,
    "info": info.info,
    "label_join": labels.label_join,
    "label_replace": labels.label_replace,
    "round": elementwise.round_to,
    "scalar": scalars.to_scalar,
    "start_timestamp": elementwise.start_timestamp,
    "time": scalars.time,
    "timestamp": elementwise.timestamp,
    "vector": scalars.vector,
}
