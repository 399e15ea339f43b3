"""Remote write and remote read over HTTP, on the real store."""

import io
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient
from prometheus_client import CollectorRegistry

from common.errors import LimitError, StorageError
from common.histogram import CUSTOM_SCHEMA, FloatHistogram, ResetHint, side
from common.labels import Labels, Matcher, MatchType
from common.remote import snappy
from common.remote.chunks import chunked_series
from common.remote.read import ReadQuery, ResponseType, encode_histogram, encode_series, write_request
from common.remote.write import Decoder
from common.sample import STALE_NAN, STALE_NAN_BITS, Millis
from common.tsdb.options import StoreOptions
from common.tsdb.querier import SelectHints
from common.tsdb.store import Store
from common.wire import fields, write_bytes, write_double, write_int, write_text, write_varint
from hub.intake.remote_write import MAX_BODY_BYTES, MAX_FUTURE_MS, Receiver, Version
from tests.hub.api.conftest import T0, Api

PROTOBUF = {"Content-Type": "application/x-protobuf"}
UP = {"__name__": "up", "job": "node"}


@dataclass
class Remote:
    """A client of a hub that takes remote write."""

    client: TestClient
    store: Store | None
    api: Api

    async def write(self, data: bytes, **headers: str):
        sent = {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy", **headers}
        return await self.client.post("/api/v1/write", data=snappy.compress(data), headers=sent)

    async def read(self, *queries: ReadQuery) -> list[dict[Labels, list[tuple[int, float]]]]:
        response = await self.client.post("/api/v1/read", data=snappy.compress(write_request(queries)))
        assert response.status == 200, await response.text()
        assert response.headers["Content-Encoding"] == "snappy"
        data = snappy.decompress(await response.read(), 1 << 30)
        found = []
        for _, _, length, at in fields(data, 0, len(data)):
            request = Decoder().decode_v1(data[at : at + length])
            found.append(
                {
                    labels: list(zip(request.timestamps[a:b].tolist(), request.values[a:b].tolist(), strict=True))
                    for labels, a, b in zip(request.series, request.bounds, request.bounds[1:], strict=False)
                }
            )
        return found


@pytest_asyncio.fixture
async def remote(api: Api, tmp_path: Path) -> AsyncIterator[Remote]:
    store = Store.open(tmp_path / "data", StoreOptions(retention_ms=0), api.clock)
    executor = ThreadPoolExecutor(1)
    receiver = Receiver(store, StoreOptions(), executor, api.clock, CollectorRegistry())
    api.configure(receiver=receiver, querier=store)
    yield Remote(await api.client(), store, api)
    executor.shutdown()
    store.close()


def series(labels, *samples):
    body = b"".join(write_bytes(1, write_text(1, name) + write_text(2, value)) for name, value in labels.items())
    for time, value in samples:
        body += write_bytes(2, write_double(1, value) + write_int(2, time))
    return write_bytes(1, body)


def everything(*matchers):
    chosen = matchers or (Matcher(MatchType.RE, "__name__", ".+"),)
    return ReadQuery(Millis(0), Millis(2**60), chosen, SelectHints())


async def test_written_samples_are_read_back_at_once(remote: Remote):
    data = series(UP, (0, 1.0), (15_000, 0.0)) + series({"__name__": "b"}, (T0, 2.5))
    assert (await remote.write(data)).status == 204
    assert await remote.read(everything()) == [
        {Labels.of(UP): [(0, 1.0), (15_000, 0.0)], Labels.of(__name__="b"): [(T0, 2.5)]}
    ]


async def test_a_later_request_may_begin_at_time_0_again(remote: Remote):
    await remote.write(series(UP, (3_600_000, 1.0)))
    assert (await remote.write(series({"__name__": "b"}, (0, 1.0), (60_000, 2.0)))).status == 204
    (found,) = await remote.read(everything())
    assert found[Labels.of(__name__="b")] == [(0, 1.0), (60_000, 2.0)]


async def test_the_staleness_marker_comes_back_as_it_is(remote: Remote):
    await remote.write(series(UP, (0, 1.0), (15_000, STALE_NAN)))
    (found,) = await remote.read(everything())
    assert np.array([found[Labels.of(UP)][1][1]]).view(np.uint64)[0] == STALE_NAN_BITS


async def test_queries_see_written_samples(remote: Remote):
    await remote.write(series(UP, (60_000, 7.0)))
    data = await remote.api.data("/api/v1/query", query="up", time="61")
    assert data["result"][0]["value"] == [61, "7"]


async def test_each_query_of_a_read_has_its_own_result(remote: Remote):
    await remote.write(series(UP, (0, 1.0)) + series({"__name__": "b"}, (0, 2.0)))
    first, second = await remote.read(
        everything(Matcher(MatchType.EQ, "__name__", "b")), everything(Matcher(MatchType.EQ, "job", "node"))
    )
    assert (list(first), list(second)) == ([Labels.of(__name__="b")], [Labels.of(UP)])


async def test_version_2_is_taken_and_says_how_much(remote: Remote):
    symbols = b"".join(write_bytes(4, text) for text in (b"", b"__name__", b"up"))
    sample = write_bytes(2, write_double(1, 3.0) + write_int(2, 1000))
    data = symbols + write_bytes(5, write_bytes(1, write_varint(1) + write_varint(2)) + sample)
    response = await remote.write(data, **{"Content-Type": f"application/x-protobuf;proto={Version.V2}"})
    assert response.status == 204
    assert response.headers["X-Prometheus-Remote-Write-Samples-Written"] == "1"
    assert await remote.read(everything()) == [{Labels.of(__name__="up"): [(1000, 3.0)]}]


async def test_a_large_answer_to_a_read_is_packed_once(remote: Remote):
    body = b"".join(series({**UP, "instance": f"host-{i * 7919}"}, (0, float(i))) for i in range(200))
    assert (await remote.write(body)).status == 204
    request = snappy.compress(write_request([everything()]))
    response = await remote.client.post("/api/v1/read", data=request, headers={"Accept-Encoding": "gzip"})
    assert response.headers["Content-Encoding"] == "snappy"
    packed = await response.read()
    assert len(packed) > 1024
    assert b"host-7919" in snappy.decompress(packed, 1 << 20)


async def test_of_a_broken_request_of_version_2_it_says_that_nothing_is_written(remote: Remote):
    response = await remote.write(b"\xff", **{"Content-Type": f"application/x-protobuf;proto={Version.V2}"})
    assert response.status == 400
    assert response.headers["X-Prometheus-Remote-Write-Samples-Written"] == "0"


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Encoding": ""},
        {"Content-Encoding": "SNAPPY"},
        {"Content-Type": 'application/x-protobuf; proto="prometheus.WriteRequest"'},
        {"Content-Type": "Application/X-Protobuf;charset=utf-8"},
    ],
)
async def test_headers_may_be_spelled_otherwise(remote: Remote, headers: dict[str, str]):
    assert (await remote.write(series(UP, (0, 1.0)), **headers)).status == 204


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "application/json"}, 415),
        ({"Content-Type": "application/x-protobuf;proto=some.other.Message"}, 415),
        ({"Content-Encoding": "zstd"}, 415),
    ],
)
async def test_other_formats_are_refused(remote: Remote, headers: dict[str, str], status: int):
    sent = {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy", **headers}
    response = await remote.client.post("/api/v1/write", data=b"\0", headers=sent)
    assert response.status in (status, 400)  # aiohttp itself refuses codings that it can't unpack
    assert await remote.read(everything()) == [{}]


@pytest.mark.parametrize("cut", [1, 5, 20])
async def test_of_a_broken_request_nothing_is_stored(remote: Remote, cut: int):
    data = series(UP, (0, 1.0)) + series({"__name__": "b"}, (0, 2.0))
    response = await remote.write(data[:-cut])
    assert response.status == 400
    assert await remote.read(everything()) == [{}]


async def test_a_broken_block_is_refused(remote: Remote):
    response = await remote.client.post(
        "/api/v1/write", data=b"\xff" * 20, headers={"Content-Type": "application/x-protobuf"}
    )
    assert response.status == 400
    assert "not a Snappy block" in await response.text()


async def test_too_large_a_body_is_refused(remote: Remote):
    response = await remote.client.post("/api/v1/write", data=io.BytesIO(bytes(MAX_BODY_BYTES + 1)), headers=PROTOBUF)
    assert response.status == 413


async def test_more_bodies_than_there_is_room_for_are_put_off(remote: Remote, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("hub.api.remote.MAX_RECEIVING_BYTES", 100)
    response = await remote.client.post("/api/v1/write", data=bytes(101), headers=PROTOBUF)
    assert (response.status, response.headers["Retry-After"]) == (503, "5")
    assert (await remote.write(series(UP, (0, 1.0)))).status == 204


async def test_a_block_that_unpacks_to_too_much_is_refused(remote: Remote):
    response = await remote.client.post("/api/v1/write", data=b"\xff\xff\xff\xff\x0f" + b"x", headers=PROTOBUF)
    assert response.status == 413


async def test_a_sample_from_the_future_is_refused_and_the_rest_taken(remote: Remote):
    late = T0 + MAX_FUTURE_MS + 1000
    response = await remote.write(series(UP, (T0, 1.0), (late, 2.0)))
    assert response.status == 400
    assert "out of bounds: 1 samples" in await response.text()
    assert await remote.read(everything()) == [{Labels.of(UP): [(T0, 1.0)]}]


async def test_a_series_with_bad_labels_is_refused_and_the_rest_taken(remote: Remote):
    response = await remote.write(series({"job": "x"}, (0, 1.0)) + series(UP, (0, 1.0)))
    assert response.status == 400
    assert "no metric name" in await response.text()
    assert await remote.read(everything()) == [{Labels.of(UP): [(0, 1.0)]}]


async def test_a_label_longer_than_the_store_takes_is_refused(remote: Remote):
    response = await remote.write(series({**UP, "x": "y" * 100_000}, (0, 1.0)))
    assert response.status == 400
    assert "longer than the store takes" in await response.text()


async def test_without_the_flag_there_is_no_receiver(api: Api):
    response = await (await api.client()).post("/api/v1/write", data=b"")
    assert response.status == 404
    assert "--web.enable-remote-write-receiver" in await response.text()


@pytest.mark.parametrize(("error", "status"), [(LimitError("full"), 429), (StorageError("disk"), 503)])
async def test_a_store_that_refuses_makes_the_sender_try_again(api: Api, error: Exception, status: int):
    class Refusing:
        def add_metadata(self, metas):
            pass

        def commit(self):
            pass

        def append_columns(self, labels, rows, times, values):
            raise error

        def append_histograms(self, samples):
            raise error

    executor = ThreadPoolExecutor(1)
    api.configure(receiver=Receiver(Refusing(), StoreOptions(), executor, api.clock, CollectorRegistry()))
    client = await api.client()
    response = await client.post("/api/v1/write", data=snappy.compress(series(UP, (0, 1.0))), headers=PROTOBUF)
    assert response.status == status
    executor.shutdown()


async def test_external_labels_are_matched_and_added_by_read(api: Api):
    api.fill()
    api.configure(external_labels=Labels.of(site="garden"))
    remote = Remote(await api.client(), None, api)
    (found,) = await remote.read(
        everything(Matcher(MatchType.EQ, "site", "garden"), Matcher(MatchType.EQ, "__name__", "up"))
    )
    assert found
    assert {labels.get("site") for labels in found} == {"garden"}


CHUNKS, SAMPLES = ResponseType.STREAMED_XOR_CHUNKS, ResponseType.SAMPLES


async def test_who_prefers_chunks_gets_a_frame_for_each_series_in_order(remote: Remote):
    series = [Labels.of(__name__="m", i=str(i)) for i in range(12)]
    times = np.arange(200, dtype=np.int64) * 1000
    values = {each: np.asarray(times * (row + 0.5), np.float64) for row, each in enumerate(series)}
    data = [write_bytes(1, encode_series(each, times, values[each])) for each in series]
    assert (await remote.write(b"".join(data))).status == 204
    asked = snappy.compress(write_request([everything(), everything()], [CHUNKS, SAMPLES]))
    response = await remote.client.post("/api/v1/read", data=asked)
    assert response.headers["Content-Type"] == "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse"
    expected = [chunked_series(each, times, values[each], number) for number in (0, 1) for each in sorted(series)]
    assert await response.read() == b"".join(expected)


async def test_native_histograms_are_answered_as_samples_to_who_accepts_these(remote: Remote):
    histogram = FloatHistogram(1, 6.0, 12.0, positive=side(-1, [2.0, 0.0, 4.0]))
    body = encode_series(Labels.of(UP), np.array([1000]), np.array([1.0]), [(2000, histogram)])
    assert (await remote.write(write_bytes(1, body))).status == 204
    for accepted in ([CHUNKS, SAMPLES], [SAMPLES, CHUNKS], [SAMPLES], []):
        data = snappy.compress(write_request([everything()], accepted))
        response = await remote.client.post("/api/v1/read", data=data)
        assert (response.status, response.headers["Content-Encoding"]) == (200, "snappy")
    response = await remote.client.post("/api/v1/read", data=snappy.compress(write_request([everything()], [CHUNKS])))
    assert response.status == 400
    assert "accept SAMPLES, too" in await response.text()


async def test_a_bad_read_request_is_refused(remote: Remote):
    response = await remote.client.post("/api/v1/read", data=snappy.compress(b"\x0a\x05"))
    assert response.status == 400


async def test_native_histograms_are_written_and_read_back_with_floats_of_the_same_series(remote: Remote):
    histogram = FloatHistogram(1, 7.5, 12.0, 1.5, 0.001, side(-1, [2.0, 0.0, 4.0]), hint=ResetHint.GAUGE)
    custom = FloatHistogram(CUSTOM_SCHEMA, 3, 4.0, positive=side(1, [3.0]), custom=(0.5, 1.0))
    none = np.empty(0, np.int64)
    both = encode_series(Labels.of(UP), np.array([1000]), np.array([1.0]), [(2000, histogram), (3000, None)])
    alone = encode_series(Labels.of(__name__="h"), none, np.empty(0), [(1000, custom)])
    assert (await remote.write(write_bytes(1, both) + write_bytes(1, alone))).status == 204
    query = snappy.compress(write_request([everything()]))
    response = await remote.client.post("/api/v1/read", data=query)
    data = snappy.decompress(await response.read(), 1 << 20)
    ((_, _, length, at),) = fields(data, 0, len(data))
    found = Decoder().decode_v1(data[at : at + length])
    assert found.series == [Labels.of(__name__="h"), Labels.of(UP)]
    assert found.timestamps.tolist() == [1000]
    shown = {row: [(each.timestamp, each.histogram()) for each in rows] for row, rows in found.histograms.items()}
    assert [time for time, _ in shown[1]] == [2000, 3000]
    assert shown[0][0][1] is not None
    assert shown[0][0][1].equals(custom)
    first, second = (each for _, each in shown[1])
    assert first is not None
    assert (first.equals(histogram), first.hint, second) == (True, ResetHint.GAUGE, None)


async def test_version_2_is_told_how_many_histograms_were_written(remote: Remote):
    symbols = b"".join(write_bytes(4, text) for text in (b"", b"__name__", b"up"))
    good = write_bytes(3, encode_histogram(5, FloatHistogram(0, 1, 1.0, positive=side(0, [1.0]))) + write_int(17, 3))
    bad = write_bytes(3, encode_histogram(6, FloatHistogram(schema=-7)))
    data = symbols + write_bytes(5, write_bytes(1, write_varint(1) + write_varint(2)) + good + bad)
    response = await remote.write(data, **{"Content-Type": f"application/x-protobuf;proto={Version.V2}"})
    assert response.status == 400
    assert "invalid histogram of up at 6: histogram has an invalid schema: -7" in await response.text()
    assert response.headers["X-Prometheus-Remote-Write-Samples-Written"] == "0"
    assert response.headers["X-Prometheus-Remote-Write-Histograms-Written"] == "1"
    assert remote.store is not None
    (batch,) = remote.store.select([], Millis(0), Millis(1000))
    assert batch.starts is not None
    assert batch.starts.tolist() == [[3]]
