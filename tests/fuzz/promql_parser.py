"""Coverage-guided fuzzing of the PromQL parser with atheris: `make fuzz` (FUZZ_SECONDS, default 60).

Whatever the bytes, parsing gives an expression or a ParseError; what parses prints, and its print is a fixed point.
"""

import sys

import atheris

with atheris.instrument_imports(include=["common.promql"]):
    from common.promql.errors import ParseError
    from common.promql.parser import parse
    from common.promql.printer import to_text
    from common.promql.signatures import FEATURES

SEEDS = (
    'sum by (job) (rate(http_requests_total{code=~"5..", path!="/"}[5m] offset -1h @ end()))',
    "quantile_over_time(0.9, (a + on (x) group_left (y) b)[1h:5m]) >= bool 0x1F",
    '{"utf-8 näme", "label"="value"} atan2 -1_000.5e-3 unless foo / 1h30m',
)


def one(data: bytes) -> None:
    """One input; anything but the two outcomes is a finding."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        expression = parse(text, FEATURES)
    except ParseError:
        return
    printed = to_text(expression)
    again = to_text(parse(printed, FEATURES))
    if printed != again:
        raise AssertionError(f"{text!r} prints as {printed!r}, which prints as {again!r}")


def main() -> None:
    """Fuzz until libFuzzer's own limits (`-max_total_time=…`) end it."""
    atheris.Setup(sys.argv, one)
    for seed in SEEDS:
        one(seed.encode())
    atheris.Fuzz()


if __name__ == "__main__":
    main()
