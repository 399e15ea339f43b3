"""What schemathesis sends where the document says `format: promql` and so on, and as bodies of remote write and read.

Loaded by schemathesis itself (SCHEMATHESIS_HOOKS).
"""

import time

import numpy as np
import schemathesis
from hypothesis import strategies as st

from common.labels import Labels
from common.remote import snappy
from common.remote.read import encode_result, encode_series

NAMES = ("up", "m", "job", "nope", "é", '"a b"', "__name__", "sum", "by", "NaN", "Inf")
PIECES = (
    *NAMES,
    *"{}()[],@:;-+*/%^<>=!~'\"\\` ",
    "=~",
    "!~",
    ".+",
    ".*",
    "(",
    "5m",
    "1y",
    "0s",
    "1",
    "1e400",
    "0x",
    "\x00",
)
EXPRESSIONS = (
    "up", "m", "1+1", '"text"', "m[5m]", "m[5m:1m]", "sum by (i) (rate(m[5m]))", "topk(3, m)", "m offset -1d",
    "histogram_quantile(0.9, m)", "quantile(2, m)", "absent(nope{a='b'})", "m + on (i) group_left m", "1 / 0",
    "count_values('v', m)", "label_join(m, 'x', ',', 'i')", "vector(NaN)", "m[1000y]", "m[1ms:1ms]", "-m ^ m",
    'label_replace(m, "a", "$1", "i", "(")', "{__name__=~'.+',}", "max_over_time(m[1y])", "m @ 1e300", "time()",
    "sort(m)", "scalar(m)", "m @ end()",
)  # fmt: skip
TIMES = (
    "0", "-1", "1.5", "NaN", "Inf", "-Inf", "1e10", "1e300", "9223372036.854775", "1700000000000", "0x1p4", "1_0", "",
    "now", "2026-07-01T12:00:00Z", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59+14:00", "-292273086-05-16T16:47:06Z",
)  # fmt: skip
DURATIONS = ("15", "1m", "0", "-1", "0.001", "1e-9", "1e300", "NaN", "5y", "300y", "1h30m", "x", "")


def mixed(known: tuple[str, ...]) -> st.SearchStrategy[str]:
    """Mostly what has a meaning, sometimes pieces of it, sometimes any text."""
    pieces = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
    return st.sampled_from(known) | st.sampled_from(known) | pieces | st.text(max_size=20)


def recent() -> st.SearchStrategy[str]:
    """Times of the last hour and other ones."""
    now = int(time.time())  # noqa: TID251 - samples of now are wanted
    return st.integers(now - 3600, now).map(str) | mixed(TIMES)


@st.composite
def written(draw: st.DrawFn) -> bytes:
    """A body of remote write or read: whole, with a byte changed, cut, or any bytes."""
    rows = draw(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(-(2**63), 2**63 - 1), st.floats()), max_size=5))
    series = [
        encode_series(Labels.of(__name__=name, i=str(i)), np.array([at], np.int64), np.array([value]))
        for i, (name, at, value) in enumerate(rows)
    ]
    plain = bytearray(encode_result(series))
    if plain and draw(st.booleans()):
        plain[draw(st.integers(0, len(plain) - 1))] = draw(st.integers(0, 255))
    body = bytes(snappy.compress(bytes(plain)))
    return draw(st.sampled_from((body, body, body[: len(body) // 2], bytes(plain))))


@schemathesis.check
def no_internal_error(ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case) -> None:
    """503 is an answer that the document has; 500 is never one here, as the configuration stays whole."""
    assert response.status_code != 500, f"{case.method} {case.path}: {response.text}"


schemathesis.openapi.format("promql", mixed(EXPRESSIONS))
schemathesis.openapi.format("promql-selector", mixed(("up", "m", '{i="1"}', "{}", "m{", "{__name__=~'.+'}", "1")))
schemathesis.openapi.format("prometheus-time", recent())
schemathesis.openapi.format("prometheus-duration", mixed(DURATIONS))
schemathesis.openapi.media_type("application/x-protobuf", written())
