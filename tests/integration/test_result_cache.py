"""A dashboard on a hub whose store grows, is late, and loses series: each answer is the one without the cache."""

import random
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from common.labels import Labels
from common.remote import snappy
from common.remote.read import encode_result, encode_series
from tests.integration.programs import Running, Start, hub
from tests.integration.test_hub_from_outside import post

pytestmark = pytest.mark.integration

MINUTE = 60
START = 1_700_000_040
QUERIES = [
    "temp",
    "avg(temp)",
    "sum by (host) (rate(cpu_seconds_total[5m]))",
    "100 - avg by (host) (rate(cpu_seconds_total{mode='idle'}[5m])) * 100",
    "topk(2, rate(cpu_seconds_total[5m]))",
    "max_over_time(temp[10m])",
    "avg_over_time(temp[10m])",
    "temp / on (host) group_left () sum by (host) (temp)",
    "absent(temp{host='c'})",
    "rate(temp[5m])",
    "stddev(temp)",
    "max_over_time(rate(cpu_seconds_total[2m])[10m:1m])",
]
SERIES = [Labels.of(__name__="temp", host=host) for host in "abc"] + [
    Labels.of(__name__="cpu_seconds_total", host=host, mode=mode) for host in "abc" for mode in ("idle", "user")
]
KIND = {"Content_Type": "application/x-protobuf", "Content_Encoding": "snappy"}


def write(program: Running, series: list[tuple[Labels, list[int]]], rng: random.Random) -> None:
    """A sample at each of these seconds."""
    parts = [
        encode_series(labels, np.array(times) * 1000, np.array([round(rng.random() * 100, 2) for _ in times]))
        for labels, times in series
        if times
    ]
    assert post(program, "/api/v1/write", snappy.compress(encode_result(parts)), **KIND)[0] == 204


def answer(program: Running, query: str, start: int, end: int, **more: str) -> bytes:
    form = {"query": query, "start": str(start), "end": str(end), "step": str(MINUTE), **more}
    with urllib.request.urlopen(f"{program.url}/api/v1/query_range?{urllib.parse.urlencode(form)}", timeout=60) as got:
        return bytes(got.read())


def outcomes(program: Running) -> dict[str, float]:
    with urllib.request.urlopen(f"{program.url}/metrics", timeout=60) as got:
        lines = got.read().decode().splitlines()
    name = "bramble_hub_result_cache_requests_total"
    return {line.split('"')[1]: float(line.split()[1]) for line in lines if line.startswith(name)}


def test_every_refresh_shows_what_the_store_holds(start: Start, tmp_path: Path) -> None:
    flags = ("--web.enable-remote-write-receiver", "--web.enable-admin-api", "--no-discovery.mdns")
    program = hub(start, tmp_path, *flags, "--storage.tsdb.retention.time=200y").wait_ready()
    rng = random.Random(7)
    write(program, [(labels, list(range(START, START + 40 * MINUTE, 15))) for labels in SERIES], rng)
    now = START + 40 * MINUTE
    for minute in range(12):
        now += MINUTE
        alive = SERIES[: len(SERIES) - minute // 3]
        write(program, [(labels, list(range(now - MINUTE, now, 15))) for labels in alive], rng)
        if minute % 3 == 1:
            write(program, [(SERIES[0], [now - 17 * MINUTE + 7]), (SERIES[4], [now - 3 * MINUTE + 4])], rng)
        if minute == 5:
            gone = urllib.parse.urlencode({"match[]": 'temp{host="b"}', "end": str(now - 20 * MINUTE)})
            assert post(program, f"/api/v1/admin/tsdb/delete_series?{gone}")[0] == 204
        for query in QUERIES:
            begin = now - 30 * MINUTE
            plain = answer(program, query, begin, now, nocache="1")
            assert b'"values"' in plain or "absent" in query
            assert answer(program, query, begin, now) == plain, (query, minute)
            assert answer(program, query, begin, now) == plain, (query, minute)
    found = outcomes(program)
    local = len(QUERIES) - 2
    assert found["partial"] >= 8 * local
    assert found["hit"] >= 12 * len(QUERIES)
    assert post(program, "/api/v1/admin/bramble/drop_caches")[0] == 204
    answer(program, "temp", now - 30 * MINUTE, now)
    assert outcomes(program)["miss"] == found["miss"] + 1
    assert program.stop() == 0
