"""Results of queries in the shape of Prometheus's API, and as tables. Pure."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.ctl.table import render
from common.errors import RemoteError
from common.histogram import FloatHistogram
from common.histogram_grid import Grid
from common.labels import Labels
from common.promql.ast import ValueType
from common.promql.engine import Result
from common.rules.format import sample_text
from common.times import rfc3339

Data = dict[str, Any]


def data_of(result: Result) -> Data:
    """The field `data` of an answer of Prometheus's API."""
    match result.type:
        case ValueType.SCALAR:
            return {"resultType": "scalar", "result": _value(result.timestamp, result.scalar)}
        case ValueType.STRING:
            return {"resultType": "string", "result": [_seconds(result.timestamp), result.string]}
        case ValueType.VECTOR:
            assert result.matrix is not None
            cells = result.matrix.histograms
            vector = [
                {"metric": labels.to_dict(), **_point(result.timestamp, float(row[0]), native)}
                for labels, row, native in zip(
                    result.matrix.labels,
                    result.matrix.values,
                    [None] * len(result.matrix.labels) if cells is None else cells[:, 0].tolist(),
                    strict=True,
                )
            ]
            return {"resultType": "vector", "result": vector}
    if result.matrix is None:
        return {
            "resultType": "matrix",
            "result": [_series(each.labels, each.timestamps, each.values, each.histograms) for each in result.series],
        }
    matrix = result.matrix
    series = []
    for row, labels in enumerate(matrix.labels):
        there = matrix.presence[row]
        if there.any():
            native = None if matrix.histograms is None else matrix.histograms[row, there]
            series.append(_series(labels, matrix.timestamps[there], matrix.values[row, there], native))
    return {"resultType": "matrix", "result": series}


def _seconds(ms: int) -> int | float:
    return ms / 1000 if ms % 1000 else ms // 1000


def _value(ms: int, value: float) -> list[object]:
    return [_seconds(ms), sample_text(value)]


def _point(ms: int, value: float, native: FloatHistogram | None) -> Data:
    if native is not None:
        return {"histogram": [_seconds(ms), native.to_api()]}
    return {"value": _value(ms, value)}


def _series(labels: Labels, times: NDArray[np.int64], values: NDArray[np.float64], cells: Grid | None) -> Data:
    out: Data = {"metric": labels.to_dict()}
    natives = [None] * len(times) if cells is None else cells.tolist()
    rows = list(zip(times.tolist(), values.tolist(), natives, strict=True))
    floats = [_value(at, value) for at, value, native in rows if native is None]
    histograms = [[_seconds(at), native.to_api()] for at, _, native in rows if native is not None]
    return out | ({"values": floats} if floats else {}) | ({"histograms": histograms} if histograms else {})


def as_json(data: Data) -> str:
    """A whole answer of the API, on one line."""
    return json.dumps({"status": "success", "data": data}, ensure_ascii=False, separators=(",", ":"))


def as_table(data: Data) -> str:
    """The same for people: series and values, and times where a series has several. RemoteError for another shape."""
    try:
        kind, result = data["resultType"], data["result"]
        if kind in ("scalar", "string"):
            return render(("VALUE",), [(str(result[1]),)])
        if kind == "vector":
            rows = [(_name(each), _text(each.get("value") or each["histogram"])) for each in result]
            return render(("SERIES", "VALUE"), rows, right=frozenset({1})) if rows else "(no series)"
        points = [
            (_name(each), rfc3339(round(float(point[0]) * 1000)), _text(point))
            for each in result
            for point in sorted([*each.get("values", ()), *each.get("histograms", ())], key=lambda p: float(p[0]))
        ]
    except (KeyError, TypeError, ValueError, IndexError) as err:
        raise RemoteError(f"unexpected shape of a query result: {err!r}") from None
    return render(("SERIES", "TIME", "VALUE"), points, right=frozenset({2})) if points else "(no series)"


def _name(each: Data) -> str:
    return str(Labels.of(each["metric"]))


def _text(point: Sequence[Any]) -> str:
    """A value, or of a native histogram its count and sum."""
    if isinstance(point[1], dict):
        return f"count {point[1]['count']}, sum {point[1]['sum']}"
    return str(point[1])
