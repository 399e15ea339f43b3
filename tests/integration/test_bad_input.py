"""What nobody should send to a started hub: too large, broken, never ending, or given up half-way."""

import json
import re
import socket
import struct
import time
import urllib.parse
from collections.abc import Iterator

import numpy as np
import pytest

from common.labels import Labels
from common.remote import snappy
from common.remote.read import encode_result, encode_series
from tests.integration.programs import Running, hub, programs, wait_for
from tests.integration.test_hub_from_outside import post

pytestmark = pytest.mark.integration

PROTOBUF = {"Content_Type": "application/x-protobuf", "Content_Encoding": "snappy"}
FLAGS = (
    "--web.enable-remote-write-receiver",
    "--no-discovery.mdns",
    "--web.read-timeout=2s",
    "--web.max-connections=8",
    "--query.max-samples=2000000",
)
HOURS = 10


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A hub with a hundred series from 1970."""
    with programs() as start:
        program = hub(start, tmp_path_factory.mktemp("hub"), *FLAGS).wait_ready()
        times = np.arange(0, HOURS * 3_600_000, 15_000, dtype=np.int64)
        series = [encode_series(Labels.of(__name__="m", i=str(i)), times, times / 1000 + i) for i in range(100)]
        assert post(program, "/api/v1/write", bytes(snappy.compress(encode_result(series))), **PROTOBUF)[0] == 204
        yield program


def ask(program: Running, path: str, **form: str) -> tuple[int, str]:
    """Status and error text of a query that is refused."""
    status, body = post(
        program, path, urllib.parse.urlencode(form).encode(), Content_Type="application/x-www-form-urlencoded"
    )
    return status, json.loads(body).get("error", "")


def metric(program: Running, series: str) -> float:
    """The value of one of the hub's own series, 0 if it is not there."""
    found = re.search(rf"^{re.escape(series)} (\S+)$", program.client.get("/metrics").decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_everything_with_a_tiny_step_is_refused_with_the_name_of_the_limit(running: Running) -> None:
    every = '{__name__=~".+"}'
    status, error = ask(running, "/api/v1/query_range", query=every, start="0", end="36000", step="0.001")
    assert (status, error[:56]) == (400, "exceeded maximum resolution of 11,000 points per timeser")
    status, error = ask(running, "/api/v1/query_range", query=every, start="0", end="36000", step="1s")
    assert status == 400
    status, error = ask(running, "/api/v1/query_range", query=f"{every}[10h]", start="0", end="36000", step="10s")
    assert status == 400
    status, error = ask(running, "/api/v1/query", query=f"max_over_time({every}[10h:100ms])", time="36000")
    assert status == 422
    assert error.endswith("too many samples into memory in query execution (--query.max-samples=2000000)")


@pytest.mark.parametrize("path", ["/api/v1/query", "/api/v1/write", "/api/v1/read"])
def test_bodies_beyond_the_limit_are_413(running: Running, path: str) -> None:
    kind = PROTOBUF if path != "/api/v1/query" else {"Content_Type": "application/x-www-form-urlencoded"}
    assert post(running, path, b"query=" + b"a" * (17 << 20), **kind)[0] == 413


@pytest.mark.parametrize("name", ["no snappy", "cut", "no protobuf", "no UTF-8", "longer than it says"])
def test_a_broken_body_of_remote_write_is_400_and_nothing_of_it_is_stored(running: Running, name: str) -> None:
    good = encode_result([encode_series(Labels.of(__name__="broken"), np.array([1000]), np.array([1.0]))])
    whole = bytes(snappy.compress(good))
    body = {
        "no snappy": good,
        "cut": whole[: len(whole) // 2],
        "no protobuf": bytes(snappy.compress(good + b"\x0a\xff")),
        "no UTF-8": bytes(snappy.compress(good.replace(b"broken", b"brok\xff\xfe"))),
        "longer than it says": bytes(snappy.compress(good[:-1])),
    }[name]
    assert post(running, "/api/v1/write", body, **PROTOBUF)[0] == 400
    assert running.client.api("/api/v1/series", {"match[]": '{__name__=~"bro.*"}'}) == []


def test_clients_that_dribble_or_hold_connections_do_not_keep_others_out(running: Running) -> None:
    held = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(40)]
    for each in held[::2]:
        each.sendall(b"GET /api/v1/query HTTP/1.1\r\nX-Slow: ")
    assert running.client.instant("1")[0].value == 1
    for each in held:
        each.settimeout(20)
        try:
            while each.recv(1000):
                pass
        except ConnectionResetError:
            pass
        each.close()
    assert metric(running, 'bramble_hub_http_connections_cut_total{reason="head"}') > 0
    assert metric(running, 'bramble_hub_http_connections_cut_total{reason="place"}') > 0


def test_a_body_that_is_dribbled_is_given_up(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.port)) as client:
        client.settimeout(20)
        client.sendall(
            b"POST /api/v1/query HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\n\r\nquery="
        )
        answer = b""
        try:
            while more := client.recv(1000):
                answer += more
                client.sendall(b"1")
                time.sleep(0.1)
        except (ConnectionResetError, BrokenPipeError):
            pass
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_head_beyond_the_limit_is_400(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.port)) as client:
        client.settimeout(20)
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 200_000 + b"\r\n\r\n")
        assert b" 400 " in client.recv(100).splitlines()[0]


def test_a_query_ends_when_its_client_goes_away_and_is_counted_as_499(running: Running) -> None:
    series = 'prometheus_http_requests_total{code="499",handler="/api/v1/query"}'
    before = metric(running, series)
    query = urllib.parse.quote("max(max_over_time((sum by (i) (m))[10h:3s]))")
    with socket.create_connection(("127.0.0.1", running.port)) as client:
        client.sendall(f"GET /api/v1/query?time=36000&query={query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        wait_for(lambda: metric(running, "prometheus_engine_queries") > 0, "the query to run")
        # A reset, as of a program that was killed.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_for(lambda: metric(running, series) == before + 1, "the query to be counted")
    wait_for(lambda: metric(running, "prometheus_engine_queries") == 0, "the query to end")
