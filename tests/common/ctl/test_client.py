"""The client of the HTTP interfaces, against answers of all kinds."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from common.ctl.client import Client
from common.errors import RemoteError

ANSWERS = {
    "vector": (
        200,
        b'{"status":"success","data":{"resultType":"vector","result":[{"metric":{"a":"b"},"value":[1,"2"]}]}}',
    ),
    "scalar": (200, b'{"status":"success","data":{"resultType":"scalar","result":[1,"+Inf"]}}'),
    "matrix": (200, b'{"status":"success","data":{"resultType":"matrix","result":[]}}'),
    "bad": (400, b'{"status":"error","errorType":"bad_data","error":"1:1: parse error: nope"}'),
    "html": (200, b"<html>"),
    "down": (503, b"<html>"),
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, body = ANSWERS[self.path.rsplit("query=", 1)[-1]]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's word
        pass


@pytest.fixture
def client() -> Iterator[Client]:
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Client(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()


def test_vectors_and_scalars_become_points(client: Client) -> None:
    (point,) = client.instant("vector")
    assert (point.labels, point.value) == ({"a": "b"}, 2.0)
    assert client.instant("scalar")[0].value == float("inf")


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("bad", "bad_data: 1:1: parse error: nope"),
        ("html", "not an answer of a Prometheus API"),
        ("down", "HTTP 503"),
        ("matrix", "got a matrix"),
    ],
)
def test_every_failure_is_a_remote_error_with_its_reason(client: Client, expression: str, reason: str) -> None:
    with pytest.raises(RemoteError, match=reason):
        client.instant(expression)


def test_nobody_there_is_said_so() -> None:
    with pytest.raises(RemoteError, match=r"http://127.0.0.1:9 does not answer: .*refused"):
        Client("http://127.0.0.1:9").instant("up")
