"""Compression of answers."""

import gzip
import json
import zlib
from collections.abc import Callable

import pytest
import zstandard

from common.labels import Labels
from hub.api.body import CHUNK_BYTES, choose
from tests.hub.api.conftest import Api


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        ("", ""),
        ("gzip", "gzip"),
        ("gzip, deflate, zstd", "zstd"),
        ("gzip;q=1.0, zstd;q=0.5", "gzip"),
        ("gzip;q=0", ""),
        ("identity", ""),
        ("*", "zstd"),
        ("*;q=0", ""),
        ("br, deflate", "deflate"),
        ("gzip;q=x", ""),
        ("GZIP", "gzip"),
    ],
)
def test_the_best_coding_that_the_client_takes_is_chosen(accept: str, coding: str) -> None:
    assert choose(accept) == coding


@pytest.mark.parametrize("series", [20, 2_000])
@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
async def test_a_large_answer_is_compressed_and_reads_back(api: Api, coding: str, series: int) -> None:
    for i in range(series):
        api.store.add(Labels.of(__name__="up", instance=f"host-{i}"), api.clock.now(), 1.0)
    client = await api.client()
    plain = await client.get("/api/v1/query?query=up", headers={"Accept-Encoding": "identity"})
    packed = await client.get("/api/v1/query?query=up", headers={"Accept-Encoding": coding}, auto_decompress=False)
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == coding
    assert packed.headers["Vary"] == "Accept-Encoding"
    unpack: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.decompress,
        "deflate": zlib.decompress,
        "zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
    }
    body = await plain.read()
    assert (len(body) > CHUNK_BYTES) == (series > 1_000)
    assert unpack[coding](await packed.read()) == body


async def test_a_small_answer_is_sent_as_it_is(api: Api) -> None:
    response = await (await api.client()).get("/api/v1/query?query=1", headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in response.headers


async def test_one_large_text_is_compressed_too(api: Api) -> None:
    api.configure(flags=lambda: {f"flag-{i}": "x" * 100 for i in range(1_000)})
    client = await api.client()
    packed = await client.get("/api/v1/status/flags", headers={"Accept-Encoding": "gzip"}, auto_decompress=False)
    assert packed.headers["Content-Encoding"] == "gzip"
    assert len(json.loads(gzip.decompress(await packed.read()))["data"]) == 1_000
