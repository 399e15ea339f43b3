"""Results as JSON text: value rows by orjson, joined with precomputed timestamp prefixes."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import compress

import numpy as np
import orjson
from numpy.typing import NDArray

from common.histogram import FloatHistogram
from common.labels import Labels
from common.rules.format import sample_text

_SURROGATE = re.compile("[\ud800-\udfff]")
"""How bytes that are no UTF-8 stand in texts."""


def timestamp(ms: int) -> bytes:
    """Seconds with three digits of fraction, none if whole, as Prometheus prints a sample's time."""
    sign, ms = (b"-", -ms) if ms < 0 else (b"", ms)
    whole, fraction = divmod(ms, 1000)
    return sign + (b"%d.%03d" % (whole, fraction) if fraction else b"%d" % whole)


def seconds(ms: int) -> int | float:
    """Seconds, whole ones without fraction."""
    return ms / 1000 if ms % 1000 else ms // 1000


def text(value: object) -> bytes:
    """JSON of strings, numbers, lists and dicts; bytes of a string that are no UTF-8 become U+FFFD each."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return orjson.dumps(_repair(value))


def _repair(value: object) -> object:
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
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
    packed = orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
    texts = packed.replace(b".0,", b",").removesuffix(b".0").split(b",")
    magnitude = np.abs(row)
    # Between these bounds the shortest texts of orjson and of Go differ only in `.0`; NaN is in neither comparison.
    alike = (magnitude < 1e15) & ((magnitude >= 1e-5) | (row == 0))
    if not alike.all():
        for at in np.flatnonzero(~alike).tolist():
            texts[at] = _go(texts[at]) if texts[at] != b"null" else sample_text(float(row[at])).encode()
    return texts


def _go(text: bytes) -> bytes:
    """A shortest decimal of orjson's in the form of Go's: no exponent from 1e-6 up to 1e21, two digits of it beyond."""
    mantissa, _, power = text.partition(b"e")
    mantissa = mantissa.removesuffix(b".0")
    if not power:
        return mantissa
    exponent = int(power)
    if exponent < -6 or exponent >= 21:
        return b"%be%+03d" % (mantissa, exponent)
    sign = b"-" if mantissa.startswith(b"-") else b""
    digits = mantissa.lstrip(b"-").replace(b".", b"")
    if exponent < 0:
        return sign + b"0." + b"0" * (-exponent - 1) + digits
    return sign + digits.ljust(exponent + 1, b"0")


def sample(ms: int, value: float) -> bytes:
    """`[time,"value"]`."""
    return b'[%b,"%b"]' % (timestamp(ms), sample_text(value).encode())


def separated(items: Iterable[bytes]) -> Iterator[bytes]:
    """A JSON list of JSON texts, in pieces: no result is ever one text until it leaves."""
    separator = b"["
    for item in items:
        yield separator
        yield item
        separator = b","
    yield b"]" if separator == b"," else b"[]"


def vector(
    labels: Sequence[Labels], row: NDArray[np.float64], ms: int, histograms: NDArray[np.object_] | None = None
) -> Iterator[bytes]:
    """The result list of an instant query, in pieces: one value of each series, or its histogram where there is one."""
    prefix = b',"value":[' + timestamp(ms) + b',"'
    instead = [None] * len(labels) if histograms is None else histograms.tolist()
    return separated(
        b'{"metric":%b%b%b"]}' % (metric(each), prefix, value)
        if histogram is None
        else b'{"metric":%b,"histogram":%b}' % (metric(each), _histogram(ms, histogram))
        for each, value, histogram in zip(labels, values(np.ascontiguousarray(row)), instead, strict=True)
    )


def _histogram(ms: int, histogram: FloatHistogram) -> bytes:
    return b"[%b,%b]" % (timestamp(ms), text(histogram.to_api()))


class MatrixEncoder:
    """Encodes rows that share their timestamps."""

    def __init__(self, timestamps: NDArray[np.int64]) -> None:
        seconds, fractions = np.divmod(timestamps, 1000)
        if len(seconds) and seconds[0] >= 0 and (fractions == fractions[0]).all():
            # Steps of whole seconds, as nearly always.
            form = b'"],[%d' + (b".%03d" % int(fractions[0]) if fractions[0] else b"") + b',"'
            self._prefixes = [form % each for each in seconds.tolist()]
        else:
            self._prefixes = [b'"],[%b,"' % timestamp(ms) for ms in timestamps.tolist()]

    def row(self, row: NDArray[np.float64], presence: NDArray[np.bool_] | None) -> bytes:
        """`[[time,"value"],…]` of the slots that are present; `[]` if none is."""
        prefixes = self._prefixes
        if presence is not None and not presence.all():
            prefixes = list(compress(prefixes, presence.tolist()))
            row = row[presence]
        if not prefixes:
            return b"[]"
        pieces: list[bytes] = [b""] * (2 * len(prefixes))
        pieces[::2] = prefixes
        pieces[1::2] = values(np.ascontiguousarray(row))
        return b"[" + b"".join(pieces)[3:] + b'"]]'


def series(
    labels: Labels,
    encoder: MatrixEncoder,
    row: NDArray[np.float64],
    presence: NDArray[np.bool_] | None,
    timestamps: NDArray[np.int64],
    histograms: NDArray[np.object_] | None,
) -> bytes:
    """One series with its floats under `values` and its histograms (object [K], None elsewhere) under `histograms`."""
    if histograms is None:
        return b'{"metric":%b,"values":%b}' % (metric(labels), encoder.row(row, presence))
    there = np.ones(len(row), np.bool_) if presence is None else presence
    native = there & histograms.astype(np.bool_)
    parts = [b'{"metric":' + metric(labels)]
    if (there & ~native).any() or not native.any():
        parts.append(b'"values":' + encoder.row(row, there & ~native))
    if native.any():
        pairs = zip(timestamps[native].tolist(), histograms[native].tolist(), strict=True)
        parts.append(b'"histograms":[' + b",".join(_histogram(ms, each) for ms, each in pairs) + b"]")
    return b",".join(parts) + b"}"


def matrix(
    labels: Sequence[Labels],
    rows: NDArray[np.float64],
    presence: NDArray[np.bool_],
    timestamps: NDArray[np.int64],
    histograms: NDArray[np.object_] | None = None,
) -> Iterator[bytes]:
    """The result list of a range query, in pieces: rows float64 [S, K], presence bool [S, K]; empty rows left out.

    `histograms` object [S, K] holds what stands in place of values, None elsewhere.
    """
    encoder = MatrixEncoder(timestamps)

    def items() -> Iterator[bytes]:
        for i, each in enumerate(labels):
            there = presence[i]
            if there.any():
                native = None if histograms is None else histograms[i]
                yield series(each, encoder, rows[i], there, timestamps, native)

    return separated(items())
