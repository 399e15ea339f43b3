"""Results as JSON text: value rows by orjson, joined with precomputed timestamp prefixes."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import compress

import numpy as np
import orjson
from numpy.typing import NDArray

from common.histogram import FloatHistogram, Side
from common.histogram_grid import Columns, Grid, Kind, Spread
from common.labels import Labels
from common.promql.gotext import plain_float
from common.rules.format import sample_text
from hub.api.decimals import SCALE, DecimalRows

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
    return _texts(row, np.flatnonzero(~_alike(row))) if len(row) else []


def _alike(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where the shortest texts of orjson and of Go differ only in `.0`; NaN is in neither comparison."""
    magnitude = np.abs(values)
    alike: NDArray[np.bool_] = (magnitude < 1e15) & ((magnitude >= 1e-5) | (values == 0))
    return alike


def _texts(row: NDArray[np.float64], others: NDArray[np.intp], whole: bool = True) -> list[bytes]:
    """Texts of float64 [K], K > 0; `others` are those that are not `_alike`, `whole` is False if no value is whole."""
    packed = orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
    texts = (packed.replace(b".0,", b",").removesuffix(b".0") if whole else packed).split(b",")
    for at in others.tolist():
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
    """`[time,"value"]` of a scalar, which unlike other values has never an exponent."""
    return b'[%b,"%b"]' % (timestamp(ms), plain_float(value).encode())


def separated(items: Iterable[bytes]) -> Iterator[bytes]:
    """A JSON list of JSON texts, in pieces: no result is ever one text until it leaves."""
    separator = b"["
    for item in items:
        yield separator
        yield item
        separator = b","
    yield b"]" if separator == b"," else b"[]"


def vector(
    labels: Sequence[Labels], row: NDArray[np.float64], ms: int, histograms: Grid | None = None
) -> Iterator[bytes]:
    """The result list of an instant query, in pieces: one value of each series, or its histogram where there is one."""
    found = values(np.ascontiguousarray(row))
    if histograms is None:
        # In blocks, each one call of orjson's.
        at = orjson.Fragment(timestamp(ms))
        for begin in range(0, len(labels), _BLOCK_ROWS):
            part = slice(begin, begin + _BLOCK_ROWS)
            items = [
                {"metric": each.to_dict(), "value": (at, value.decode())}
                for each, value in zip(labels[part], found[part], strict=True)
            ]
            yield (b"," if begin else b"[") + text(items)[1:-1]
        yield b"]" if labels else b"[]"
        return
    prefix = b',"value":[' + timestamp(ms) + b',"'
    natives = iter(histogram_texts(histograms))
    before = b',"histogram":[' + timestamp(ms) + b","
    yield from separated(
        b'{"metric":%b%b%b]}' % (metric(each), before, next(natives))
        if native
        else b'{"metric":%b%b%b"]}' % (metric(each), prefix, value)
        for each, value, native in zip(labels, found, histograms.there.tolist(), strict=True)
    )


def histogram_texts(grid: Grid) -> list[bytes]:
    """Texts of the histograms of a grid, in its order, as FloatHistogram.to_api has them; none for empty places."""
    out: list[bytes] = [b""] * grid.places.size
    for block, where, rows in grid.parts():
        if isinstance(block, Columns):
            found = _of_columns(block.take(rows))
        else:
            found = [text(each.to_api()) for each in block[rows]]
        for at, each in zip(where.tolist(), found, strict=True):
            out[at] = each
    return [each for each in out if each]


def _of_columns(columns: Columns) -> list[bytes]:
    counts = columns.upwards()
    before = _bounds(columns.kind, columns.spread)
    shown = counts != 0
    texts = values(counts[shown])
    rows, at = np.nonzero(shown)
    heads = before[at].tolist()
    pieces = [head + each for head, each in zip(heads, texts, strict=True)]
    ends = np.searchsorted(rows, np.arange(1, len(columns) + 1)).tolist()
    out = []
    begin = 0
    numbers = zip(values(columns.numbers[:, 0].copy()), values(columns.numbers[:, 1].copy()), ends, strict=True)
    for count, total, end in numbers:
        if begin == end:
            out.append(b'{"count":"%b","sum":"%b"}' % (count, total))
        else:
            buckets = b'"],'.join(pieces[begin:end])
            out.append(b'{"count":"%b","sum":"%b","buckets":[%b"]]}' % (count, total, buckets))
        begin = end
    return out


@lru_cache(maxsize=64)
def _bounds(kind: Kind, spread: Spread) -> NDArray[np.object_]:
    """What stands before the count of each bucket, in the order of Columns.upwards."""
    low, high = spread.positive
    far, near = spread.negative
    whole = FloatHistogram(
        kind.schema,
        zero_count=1.0,
        zero_threshold=kind.zero_threshold,
        positive=Side(low, np.ones(high - low)),
        negative=Side(far, np.ones(near - far)),
        custom=kind.custom,
    )
    shown = whole.to_api()["buckets"]
    assert isinstance(shown, list)
    out = np.empty(len(shown), dtype=object)
    out[:] = [b'[%d,"%b","%b","' % (rule, lower.encode(), upper.encode()) for rule, lower, upper, _ in shown]
    return out


class _Axis:
    """What stands before the values at some timestamps; never changed."""

    def __init__(self, timestamps: NDArray[np.int64]) -> None:
        seconds, fractions = np.divmod(timestamps, 1000)
        if len(seconds) and seconds[0] >= 0 and (fractions == fractions[0]).all():
            # Steps of whole seconds, as nearly always.
            form = b'"],[%d' + (b".%03d" % int(fractions[0]) if fractions[0] else b"") + b',"'
            self.prefixes = [form % each for each in seconds.tolist()]
        else:
            self.prefixes = [b'"],[%b,"' % timestamp(ms) for ms in timestamps.tolist()]

    @cached_property
    def decimals(self) -> DecimalRows:
        """Writes rows of decimals."""
        return DecimalRows(self.prefixes)


@lru_cache(maxsize=16)
def _remembered(timestamps: bytes) -> _Axis:
    """The panels of a dashboard share their timestamps."""
    return _Axis(np.frombuffer(timestamps, np.int64))


class MatrixEncoder:
    """Encodes rows that share their timestamps."""

    def __init__(self, timestamps: NDArray[np.int64]) -> None:
        short = len(timestamps) <= _MAX_REMEMBERED
        self._axis = _remembered(timestamps.tobytes()) if short else _Axis(timestamps)
        self._prefixes = self._axis.prefixes
        self._constants: dict[int, bytes] = {}

    def rows(self, rows: NDArray[np.float64], presence: NDArray[np.bool_] | None) -> Iterator[bytes]:
        """`[time,"value"],…` of each row's slots that are present: rows float64 [S, K], presence bool [S, K]."""
        size = max(1, _BLOCK_CELLS // max(1, len(self._prefixes)))
        for at in range(0, len(rows), size):
            part = np.ascontiguousarray(rows[at : at + size])
            there = None if presence is None else presence[at : at + size]
            if there is not None and there.all():
                there = None
            texts: list[bytes | None] = [None] * len(part)
            if part.size >= _FEW_CELLS:
                self._constant_rows(part, there, texts)
            if part.size >= _FEW_DECIMALS:
                self._decimal_rows(part, there, texts)
            self._other_rows(part, there, texts)
            for text in texts:
                assert text is not None
                yield text[_BEFORE:] + b'"]' if text else text

    def _constant_rows(
        self, rows: NDArray[np.float64], presence: NDArray[np.bool_] | None, texts: list[bytes | None]
    ) -> None:
        """Rows of one value: many of a fleet's are, and many of them of the same."""
        bits = rows.view(np.int64)
        same = (bits == bits[:, :1]).all(axis=1)
        if presence is not None:
            same &= presence.all(axis=1)
        for row in np.flatnonzero(same).tolist():
            value = int(bits[row, 0])
            text = self._constants.get(value)
            if text is None:
                (one,) = values(rows[row, :1])
                text = one.join([*self._prefixes, b""])
                if len(self._constants) >= _MAX_CONSTANTS:
                    self._constants.clear()
                self._constants[value] = text
            texts[row] = text

    def _decimal_rows(
        self, rows: NDArray[np.float64], presence: NDArray[np.bool_] | None, texts: list[bytes | None]
    ) -> None:
        # What a row begins with tells mostly what it consists of.
        begins = rows[:, 0].tolist()
        left = [row for row in _left(texts) if round(begins[row] * SCALE, 0) / SCALE == begins[row]]
        if not left:
            return
        if len(left) < len(rows):
            rows, presence = rows[left], None if presence is None else presence[left]
        for row, text in zip(left, self._axis.decimals.texts(rows, presence), strict=True):
            texts[row] = text

    def _other_rows(
        self, rows: NDArray[np.float64], presence: NDArray[np.bool_] | None, texts: list[bytes | None]
    ) -> None:
        left = _left(texts)
        if not left:
            return
        if len(left) < len(rows):
            rows, presence = rows[left], None if presence is None else presence[left]
        alike = _alike(rows)
        plain = _flags(np.logical_and.reduce(alike, axis=1))
        with np.errstate(invalid="ignore"):
            whole = _flags(np.logical_or.reduce(np.rint(rows) == rows, axis=1))
        every = [True] * len(left) if presence is None else _flags(np.logical_and.reduce(presence, axis=1))
        pieces: list[bytes] = [b""] * (2 * len(self._prefixes))
        pieces[::2] = self._prefixes
        for i, number in enumerate(left):
            row, others, prefixes = rows[i], _NONE, self._prefixes
            if presence is not None and not every[i]:
                prefixes = list(compress(prefixes, presence[i].tolist()))
                row = row[presence[i]]
            if not len(row):
                texts[number] = b""
                continue
            if not plain[i]:
                others = np.flatnonzero(~(alike[i] if every[i] or presence is None else alike[i][presence[i]]))
            found = _texts(row, others, whole[i])
            if every[i]:
                pieces[1::2] = found
                texts[number] = b"".join(pieces)
            else:
                some: list[bytes] = [b""] * (2 * len(prefixes))
                some[::2], some[1::2] = prefixes, found
                texts[number] = b"".join(some)


_BLOCK_ROWS = 1 << 10
"""Rows of an instant query are encoded in blocks of so many, between which it can be given up."""
_BLOCK_CELLS = 1 << 14
"""Rows are encoded in blocks of about this many cells, whose arrays stay in the cache."""
_FEW_CELLS = 64
_FEW_DECIMALS = 400
"""Below these numbers of cells array calls cost more than what they save."""
_MAX_REMEMBERED = 2000
"""Longest axis that is kept for others."""
_MAX_CONSTANTS = 16
"""Texts of constant rows that an encoder keeps."""
_BEFORE = len(b'"],')
"""What of a prefix stands behind the point before."""
_NONE = np.empty(0, np.intp)


def _flags(rows: NDArray[np.bool_]) -> list[bool]:
    flags: list[bool] = rows.tolist()
    return flags


def _left(texts: list[bytes | None]) -> list[int]:
    return [row for row, text in enumerate(texts) if text is None]


def series(
    labels: Labels,
    encoder: MatrixEncoder,
    row: NDArray[np.float64],
    presence: NDArray[np.bool_] | None,
    timestamps: NDArray[np.int64],
    histograms: Grid | None,
) -> bytes:
    """One series with its floats under `values` and its histograms ([K], None elsewhere) under `histograms`."""
    if histograms is None:
        (text,) = encoder.rows(row[None], None if presence is None else presence[None])
        return b'{"metric":%b,"values":[%b]}' % (metric(labels), text)
    there = np.ones(len(row), np.bool_) if presence is None else presence
    native = there & histograms.there
    parts = [b'{"metric":' + metric(labels)]
    if (there & ~native).any() or not native.any():
        (text,) = encoder.rows(row[None], (there & ~native)[None])
        parts.append(b'"values":[%b]' % text)
    if native.any():
        pairs = zip(timestamps[native].tolist(), histogram_texts(histograms[native]), strict=True)
        parts.append(b'"histograms":[' + b",".join(b"[%b,%b]" % (timestamp(ms), each) for ms, each in pairs) + b"]")
    return b",".join(parts) + b"}"


def matrix(
    labels: Sequence[Labels],
    rows: NDArray[np.float64],
    presence: NDArray[np.bool_],
    timestamps: NDArray[np.int64],
    histograms: Grid | None = None,
) -> Iterator[bytes]:
    """The result list of a range query, in pieces: rows float64 [S, K], presence bool [S, K]; empty rows left out.

    `histograms` [S, K] holds what stands in place of values, None elsewhere.
    """
    encoder = MatrixEncoder(timestamps)
    if histograms is not None:
        native = histograms

        def items() -> Iterator[bytes]:
            for i, each in enumerate(labels):
                if presence[i].any():
                    yield series(each, encoder, rows[i], presence[i], timestamps, native[i])

        yield from separated(items())
        return
    separator = b'[{"metric":'
    for each, text in zip(labels, encoder.rows(rows, presence), strict=True):
        if text:
            yield separator + metric(each) + b',"values":['
            yield text
            separator = b']},{"metric":'
    yield b"[]" if separator.startswith(b"[") else b"]}]"
