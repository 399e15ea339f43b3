"""Writes the protobuf exposition: floats of no known type, and native histograms, which text has no words for."""

from collections.abc import Iterable, Iterator
from itertools import groupby

from common.histogram import FloatHistogram, ResetHint
from common.histogram_spans import to_spans
from common.labels import NAME
from common.wire import write_bytes, write_double, write_int, write_text, write_varint

CONTENT_TYPE = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
_UNTYPED, _HISTOGRAM, _GAUGE_HISTOGRAM = 3, 4, 5

Shown = tuple[str, Iterable[tuple[str, str]], int, float | FloatHistogram]
"""Name, labels without it, ms, value."""


def exposition(samples: Iterable[Shown]) -> Iterator[bytes]:
    """Length-delimited `io.prometheus.client.MetricFamily` messages of samples sorted by name, each with its time.

    Histograms with custom buckets are left out: the format has no place for their bounds.
    """
    kept = (each for each in samples if not (isinstance(each[3], FloatHistogram) and each[3].is_custom))
    for (name, kind), group in groupby(kept, lambda each: (each[0], _type(each[3]))):
        body = write_text(1, name) + write_int(3, kind)
        body += b"".join(write_bytes(4, _metric(labels, ms, value)) for _, labels, ms, value in group)
        yield write_varint(len(body)) + body


def _type(value: float | FloatHistogram) -> int:
    if isinstance(value, FloatHistogram):
        return _GAUGE_HISTOGRAM if value.hint is ResetHint.GAUGE else _HISTOGRAM
    return _UNTYPED


def _metric(labels: Iterable[tuple[str, str]], ms: int, value: float | FloatHistogram) -> bytes:
    pairs = b"".join(write_bytes(1, write_text(1, name) + write_text(2, text)) for name, text in labels if name != NAME)
    if isinstance(value, FloatHistogram):
        return pairs + write_bytes(7, _histogram(value)) + write_int(6, ms)
    return pairs + write_bytes(5, write_double(1, value)) + write_int(6, ms)


def _histogram(histogram: FloatHistogram) -> bytes:
    parts = [
        write_double(2, histogram.sum),
        write_double(4, histogram.count),
        write_int(5, histogram.schema << 1 ^ histogram.schema >> 31),
        write_double(6, histogram.zero_threshold),
        write_double(8, histogram.zero_count),
    ]
    for number, side in ((9, histogram.negative), (12, histogram.positive)):
        spans, counts = to_spans(side)
        for offset, length in spans:
            parts.append(write_bytes(number, write_int(1, offset << 1 ^ offset >> 63) + write_int(2, length)))
        parts += [write_double(number + 2, count) for count in counts]
    if not (histogram.zero_threshold or histogram.zero_count or len(histogram.positive.counts)):
        # One without any bucket is told from a classic one by a span of no length.
        parts.append(write_bytes(12, write_int(1, 0) + write_int(2, 0)))
    return b"".join(parts)
