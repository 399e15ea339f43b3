"""The hub and a real Prometheus count the samples that a query looks at alike, step by step.

`PROMETHEUS` may name another Prometheus than the one on the path. What version 2 answers otherwise is compared with
version 3 only.
"""

import os
import urllib.request
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

from common.ctl.client import Client
from common.histogram import FloatHistogram, side
from common.labels import Labels
from common.promql.matrix import Floats, Times
from common.remote import snappy
from common.remote.read import encode_result, encode_series
from common.sample import STALE_NAN
from tests.integration.programs import hub, needs, programs
from tests.ports import free_port

pytestmark = pytest.mark.integration

FEATURES = "--enable-feature=promql-experimental-functions,native-histograms,promql-per-step-stats"
END = 1_700_000_000
STEP = 15


class Pair(NamedTuple):
    """Both servers, and the peer's major version."""

    peer: Client
    ours: Client
    version: int


def written() -> bytes:
    """An hour: series of several phases, with a gap, with a staleness marker, with native histograms, and mixed."""
    times = np.arange(END - 240 * STEP, END, STEP, dtype=np.int64) * 1000
    count = np.arange(len(times), dtype=np.float64)
    none = np.empty(0, np.int64), np.empty(0)
    series: list[tuple[Labels, Times, Floats, tuple[tuple[int, FloatHistogram], ...]]] = [
        (Labels.of(__name__="m", job=job, instance=str(i)), times + 1000 * i, count * (i + 1), ())
        for i in range(7)
        for job in "ab"
    ]
    gap = (count < 100) | (count > 150)
    series.append((Labels.of(__name__="gap", job="a"), times[gap], count[gap], ()))
    series.append((Labels.of(__name__="ends", job="a"), times[:121], np.append(count[:120], STALE_NAN), ()))
    series.append((Labels.of(__name__="c_total", job="a"), times, count * 3, ()))
    series += [
        (Labels.of(__name__="h_bucket", le=le, job="a"), times, count * len(le), ()) for le in ("0.1", "1", "+Inf")
    ]
    small = [FloatHistogram(0, n + 3, 5.0 * n, 1.0, 0.001, side(0, [n + 1.0, 1.0])) for n in count]
    large = [
        FloatHistogram(1, 4 * n + 19, 5.0, 0.0, 0.001, side(-3, [n + 1.0] * 4), side(9, [1.0] * 15)) for n in count
    ]
    at = times.tolist()
    series.append((Labels.of(__name__="nh", job="a"), *none, tuple(zip(at, small, strict=True))))
    series.append((Labels.of(__name__="nh", job="b"), *none, tuple(zip(at, large, strict=True))))
    series.append(
        (Labels.of(__name__="mix", job="a"), times[:120], count[:120], tuple(zip(at, small, strict=True))[120:])
    )
    series.append((Labels.of(__name__="target_info", job="a", instance="1", version="x"), times, count * 0 + 1, ()))
    series.sort(key=lambda each: each[0].pairs)
    encoded = [encode_series(labels, stamps, values, cells) for labels, stamps, values, cells in series]
    return bytes(snappy.compress(encode_result(encoded)))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Both programs with the same samples."""
    folder = tmp_path_factory.mktemp("stats")
    program = os.environ.get("PROMETHEUS") or needs("prometheus")
    file = folder / "prometheus.yml"
    file.write_text("global: {}\nstorage: {tsdb: {out_of_order_time_window: 100y}}\n")
    with programs() as start:
        flags = ["--web.enable-remote-write-receiver", FEATURES]
        ours = hub(start, folder / "ours", "--no-discovery.mdns", *flags)
        port = free_port()
        command = [program, f"--config.file={file}", *flags, f"--web.listen-address=127.0.0.1:{port}"]
        peer = start([*command, f"--storage.tsdb.path={folder / 'data'}"], folder / "peer.log", port)
        body = written()
        for each in (ours, peer):
            each.wait_ready()
            headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy"}
            request = urllib.request.Request(f"{each.url}/api/v1/write", body, headers, method="POST")
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert answer.status in (200, 204)
        version = peer.client.api("/api/v1/status/buildinfo")["version"]
        yield Pair(peer.client, ours.client, int(version.partition(".")[0]))


EXPRESSIONS = (
    "m", 'm{job="a"}', "m offset 10m", "m @ 1699999002", "m @ end()", "m offset -1m", "gap", "ends", "nope", "1",
    "time()", "vector(1)", "-m", "m > 3", "m + m", "m and on (job) m", "m unless nope", "nope or m",
    "m * on (job) group_left gap", "m + 1", "scalar(c_total)", "c_total * scalar(c_total)",
    "vector(scalar(c_total))", "absent(nope)", "absent(m)", "absent_over_time(nope[5m])",
    "absent_over_time(gap[5m])", "sum(m)", "avg by (job) (m)", "topk(2, m)", "quantile(0.5, m)",
    "quantile(scalar(c_total) / 1000, m)", 'count_values("v", m)', "stddev(m) / count(m)", "rate(m[5m])",
    "rate(m[1m])", "rate(m[5m] offset 7m)", "rate(m[5m] @ 1699999002)", "sum(rate(c_total[5m])) by (job)",
    "max_over_time(gap[10m])", "count_over_time(ends[20m])", "quantile_over_time(0.5, m[3m])", "irate(m[5m])",
    "last_over_time(m[2m])", "predict_linear(m[5m], 60)",
    "deriv(ends[10m])", "max_over_time(m[10m:1m])", "max_over_time(rate(m[5m])[10m:1m])",
    "sum_over_time(sum(m)[5m:30s] offset 3m)", "sum_over_time(m[5m:])",
    "sum_over_time((m @ 1699999002)[5m:1m])",
    "max_over_time(m[10m:1m] @ 1699999002)", "timestamp(m)", "timestamp(m @ 1699999002)", "timestamp(-m)", "hour(m)",
    "histogram_quantile(0.9, h_bucket)", "histogram_quantile(0.9, rate(h_bucket[5m]))",
    "label_replace(m, 'a', 'b', '', '')", "sort(m)", "round(m)", "clamp_max(m, scalar(c_total))", "(m)",
    "sum(m @ start())", "sum(m) + on () group_right m",
)  # fmt: skip
# Not among them: where only count and sum of a histogram matter, Prometheus 3.5 counts no buckets, but sees that for
# the first selector alone, and not right below the outermost call. Here a histogram always counts whole.
SINCE_3 = (
    "predict_linear(m[5m] @ 1699999002, 60)", "limitk(2, m)", "nh", "sum(nh)", "rate(nh[5m])", "histogram_count(nh)",
    "histogram_quantile(0.9, rate(nh[5m]))", "avg_over_time(max_over_time(m[2m:1m])[6m:2m])",
    "timestamp(nh)", "histogram_sum(rate(nh[5m]))", "histogram_count(sum(rate(nh[5m])))", "count_over_time(nh[3m])",
    "mix", "count_over_time(mix[10m])", "last_over_time(nh[2m:1m])", "info(m)", "m > bool 3 or nh", "nh offset 5m",
)  # fmt: skip
INSTANTS = (
    "m[5m]", "m[5m] offset 3m", "m[5m] @ 1699999002", "ends[30m]", "m[10m:1m]", "rate(m[5m])[5m:1m]", '"x"',
)  # fmt: skip
INSTANTS_SINCE_3 = (
    "nh[2m]", "mix[40m]",
)  # fmt: skip
AWAY = 7
"""Seconds to each side of which there is no sample, so that it is the same whether windows are closed at the left."""
RANGE: dict[str, Any] = {"start": END - 1800 + AWAY, "end": END + 600 + AWAY, "step": 60}


def counted(client: Client, path: str, form: dict[str, Any]) -> dict[str, Any]:
    """What the server says of the samples of a query, except what it held at its peak: engines differ in that."""
    data = client.api(path, {name: str(value) for name, value in form.items()})
    samples = dict(data["stats"]["samples"])
    assert samples.pop("peakSamples") >= 0
    return samples


def differences(pair: Pair, path: str, queries: Iterable[str], **form: Any) -> str:
    """Queries that are not counted alike, with what both say, line by line."""
    found = []
    for query in queries:
        theirs, own = (counted(each, path, {"query": query, "stats": "all", **form}) for each in pair[:2])
        assert len(own["totalQueryableSamplesPerStep"]) == (1 if "time" in form else 41)
        if own != theirs:
            found.append(f"{query}: {theirs} {own}")
    return "\n".join(found)


def test_samples_of_an_instant_query_are_counted_alike(pair: Pair) -> None:
    queries = [*EXPRESSIONS, *INSTANTS]
    assert differences(pair, "/api/v1/query", queries, time=END - 900 + AWAY) == ""
    if pair.version >= 3:
        queries += (*SINCE_3, *INSTANTS_SINCE_3)
        assert differences(pair, "/api/v1/query", queries, time=END - 900) == ""


def test_samples_of_a_range_query_are_counted_alike_at_every_step(pair: Pair) -> None:
    assert differences(pair, "/api/v1/query_range", EXPRESSIONS, **RANGE) == ""
    if pair.version >= 3:
        aligned = {**RANGE, "start": END - 1800, "end": END + 600}
        assert differences(pair, "/api/v1/query_range", (*EXPRESSIONS, *SINCE_3), **aligned) == ""


def test_limit_ratio_picks_the_same_series(pair: Pair) -> None:
    if pair.version < 3:
        assert len(pair.ours.instant("limit_ratio(1, m)", END - 900)) == 14
        return
    for query in (
        "limit_ratio(0.5, m)",
        "limit_ratio(-0.3, m)",
        "limit_ratio(0.4, rate(m[5m]))",
        "limit_ratio(0.9, nh)",
    ):
        form = {"query": query, "time": str(END - 900)}
        answers = (each.api("/api/v1/query", form)["result"] for each in pair[:2])
        theirs, own = ({str(sorted(item["metric"].items())) for item in answer} for answer in answers)
        assert own == theirs, query


def test_without_all_samples_are_not_told_by_step(pair: Pair) -> None:
    form = {"query": "sum(m)", "time": str(END - 900), "stats": "true"}
    theirs, own = (each.api("/api/v1/query", form)["stats"] for each in pair[:2])
    assert own["samples"].keys() == theirs["samples"].keys()
    assert own["timings"].keys() == theirs["timings"].keys()
    assert own["timings"]["execTotalTime"] >= own["timings"]["evalTotalTime"] >= own["timings"]["innerEvalTime"] > 0
