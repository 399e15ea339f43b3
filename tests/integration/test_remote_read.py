"""A real Prometheus without samples of its own answers from the hub's, read as chunks and as samples."""

import os
import urllib.request
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

from common.ctl.client import Client
from common.histogram import FloatHistogram, side
from common.labels import Labels
from common.remote import snappy
from common.remote.read import encode_result, encode_series
from common.sample import STALE_NAN
from tests.integration.programs import Running, hub, needs, programs
from tests.ports import free_port

pytestmark = pytest.mark.integration

END = 1_700_000_000
COUNT = 1_000


class Pair(NamedTuple):
    """The hub, and a Prometheus of this major version that reads from it."""

    ours: Running
    reader: Client
    version: int


def series() -> dict[Labels, tuple[Any, Any]]:
    """Times and values of all kinds, with more samples than a chunk has."""
    steady = np.arange(COUNT, dtype=np.int64) * 5_000
    rng = np.random.default_rng(7)
    jumpy = np.cumsum(rng.choice([1, 900, 15_000, 8_192, 70_000, 600_000], COUNT)).astype(np.int64)
    jumpy += END * 1000 - int(jumpy[-1])
    steady += END * 1000 - int(steady[-1])
    return {
        Labels.of(__name__="even"): (steady, np.arange(COUNT, dtype=np.float64)),
        Labels.of(__name__="even", text='é"\\'): (steady, np.ones(COUNT)),
        Labels.of(__name__="wild", kind="bits"): (jumpy, rng.integers(0, 2**62, COUNT).view(np.float64)),
        Labels.of(__name__="wild", kind="special"): (
            steady,
            rng.choice([0.0, -0.0, np.inf, -np.inf, np.nan, STALE_NAN, 5e-324, 0.1, 0.2], COUNT),
        ),
        Labels.of(__name__="wild", kind="walk"): (jumpy, np.cumsum(rng.normal(size=COUNT))),
        Labels.of(__name__="one"): (steady[-1:], np.array([42.0])),
    }


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Both programs, the samples in the hub."""
    folder = tmp_path_factory.mktemp("read")
    with programs() as start:
        ours = hub(start, folder / "hub", "--no-discovery.mdns", "--web.enable-remote-write-receiver").wait_ready()
        shown = [encode_series(labels, times, values) for labels, (times, values) in sorted(series().items())]
        cells = [(END * 1000 - 1000 * n, FloatHistogram(0, n + 1, 1.0, positive=side(0, [n + 1.0]))) for n in range(9)]
        none = np.empty(0, np.int64), np.empty(0)
        shown.append(encode_series(Labels.of(__name__="native"), *none, cells[::-1], integers=True))
        body = snappy.compress(encode_result(shown))
        headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy"}
        made = urllib.request.Request(f"{ours.url}/api/v1/write", body, headers, method="POST")
        with urllib.request.urlopen(made, timeout=20) as answer:
            assert answer.status == 204
        port = free_port()
        config = folder / "prometheus.yml"
        config.write_text(f"remote_read: [{{url: '{ours.url}/api/v1/read', read_recent: true}}]\n")
        program = os.environ.get("PROMETHEUS") or needs("prometheus")
        command = [program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
        command += [f"--web.listen-address=127.0.0.1:{port}", "--enable-feature=native-histograms"]
        reader = start(command, folder / "peer.log", port).wait_ready().client
        version = reader.api("/api/v1/status/buildinfo")["version"]
        yield Pair(ours, reader, int(version.partition(".")[0]))


@pytest.mark.parametrize(
    "query", ["even[2h]", "wild[30d]", '{__name__=~"even|wild|one"}[1d]', "one", 'wild{kind="bits"}[1h]']
)
def test_prometheus_finds_every_sample(pair: Pair, query: str) -> None:
    form = {"query": query, "time": str(END)}
    theirs, own = (each.api("/api/v1/query", form) for each in (pair.reader, pair.ours.client))
    assert sum(len(each.get("values", "1")) for each in own["result"]) >= 1
    assert theirs == own


@pytest.mark.parametrize(
    "query", ["sum(even)", "deriv(wild[10m])", "count_over_time(even[5m])", "max by (kind) (wild)"]
)
def test_prometheus_computes_the_same_of_them(pair: Pair, query: str) -> None:
    # No sample is at the edge of a window, where version 2 counts it twice.
    form = {"query": query, "start": str(END - 3600 + 0.5), "end": str(END), "step": "60"}
    theirs, own = (each.api("/api/v1/query_range", form)["result"] for each in (pair.reader, pair.ours.client))
    assert own
    assert [each["metric"] for each in theirs] == [each["metric"] for each in own]
    for left, right in zip(theirs, own, strict=True):
        assert [at for at, _ in left["values"]] == [at for at, _ in right["values"]]
        first, second = ([float(value) for _, value in each["values"]] for each in (left, right))
        assert np.allclose(first, second, rtol=1e-12, equal_nan=True)


def test_native_histograms_come_as_samples(pair: Pair) -> None:
    if pair.version < 3:
        # It reads no histograms, but what else there is.
        assert pair.reader.instant("one", END)[0].value == 42
        return
    form = {"query": '{__name__=~"native|one"}', "time": str(END)}
    theirs, own = (each.api("/api/v1/query", form)["result"] for each in (pair.reader, pair.ours.client))
    assert len(own) == 2
    assert sorted(map(str, theirs)) == sorted(map(str, own))


def test_prometheus_got_what_it_prefers_where_it_could(pair: Pair) -> None:
    for query in ("one", "native"):
        pair.reader.api("/api/v1/query", {"query": query, "time": str(END)})
    lines = pair.reader.get("/metrics").decode().splitlines()
    kinds = {kind for kind in ("chunked", "sampled") for line in lines if f'response_type="{kind}"' in line}
    # Version 2 does not tell.
    assert kinds == ({"chunked", "sampled"} if pair.version >= 3 else set())
