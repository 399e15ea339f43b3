"""Results as JSON text: value rows by orjson, joined with precomputed timestamp prefixes."""

from collections.abc import Mapping, Sequence
from itertools import chain, compress

import numpy as np
import orjson
from numpy.typing import NDArray

from common.labels import Labels
from common.rules.format import sample_text


def timestamp(ms: int) -> bytes:
    """Seconds with three digits of fraction, none if whole, as Prometheus prints a sample's time."""
    sign, ms = (b"-", -ms) if ms < 0 else (b"", ms)
    whole, fraction = divmod(ms, 1000)
    return sign + (b"%d.%03d" % (whole, fraction) if fraction else b"%d" % whole)


def text(value: object) -> bytes:
    """JSON of strings, numbers, lists and dicts; a string that is not valid Unicode is repaired with `?`."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return orjson.dumps(_repair(value))


def _repair(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, Mapping):
        return {_repair(key): _repair(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_repair(item) for item in value]
    return value


def metric(labels: Labels) -> bytes:
    """A label set as JSON object, sorted by name."""
    return text(labels.to_dict())


def values(row: NDArray[np.float64]) -> list[bytes]:
    """Texts of float64 [K], as Prometheus writes sample values."""
    if not len(row):
        return []
    magnitude = np.abs(row)
    # Between these bounds the shortest texts of orjson and of Go differ only in `.0`.
    plain = (magnitude < 1e15) & ((magnitude >= 1e-4) | (row == 0))
    if plain.all():
        return (
            orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
            .replace(b".0,", b",")
            .removesuffix(b".0")
            .split(b",")
        )
    return [sample_text(value).encode() for value in row.tolist()]


def sample(ms: int, value: float) -> bytes:
    """`[time,"value"]`."""
    return b'[%b,"%b"]' % (timestamp(ms), sample_text(value).encode())


def vector(labels: Sequence[Labels], row: NDArray[np.float64], ms: int) -> bytes:
    """The result list of an instant query: one value of each series."""
    prefix = b',"value":[' + timestamp(ms) + b',"'
    parts = [
        b'{"metric":%b%b%b"]}' % (metric(each), prefix, value)
        for each, value in zip(labels, values(np.ascontiguousarray(row)), strict=True)
    ]
    return b"[" + b",".join(parts) + b"]"


class MatrixEncoder:
    """Encodes rows that share their timestamps."""

    def __init__(self, timestamps: NDArray[np.int64]) -> None:
        self._prefixes = [b'"],[%b,"' % timestamp(ms) for ms in timestamps.tolist()]

    def row(self, row: NDArray[np.float64], presence: NDArray[np.bool_] | None) -> bytes:
        """`[[time,"value"],…]` of the slots that are present; `[]` if none is."""
        prefixes = self._prefixes
        if presence is not None and not presence.all():
            prefixes = list(compress(prefixes, presence.tolist()))
            row = row[presence]
        if not prefixes:
            return b"[]"
        joined = b"".join(chain.from_iterable(zip(prefixes, values(np.ascontiguousarray(row)), strict=True)))
        return b"[" + joined[3:] + b'"]]'


def matrix(
    labels: Sequence[Labels], rows: NDArray[np.float64], presence: NDArray[np.bool_], timestamps: NDArray[np.int64]
) -> bytes:
    """The result list of a range query: float64 [S, K], presence bool [S, K]; series without a value are left out."""
    encoder = MatrixEncoder(timestamps)
    full: list[bool] = [bool(row.all()) for row in presence]
    some: list[bool] = [bool(row.any()) for row in presence]
    parts = [
        b'{"metric":%b,"values":%b}' % (metric(each), encoder.row(rows[i], None if full[i] else presence[i]))
        for i, each in enumerate(labels)
        if some[i]
    ]
    return b"[" + b",".join(parts) + b"]"
