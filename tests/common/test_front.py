"""What is answered before the server's protocol sees it, and that all else reaches the protocol as it came."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.front import MAX_BODY, MAX_HEAD, Front, Head, parse_head

POST = b"POST /q HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\na=1&b"
GET = b"GET /q?a=1 HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n"
OTHER = b"POST /other HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab"
REFUSED = b"GET /q?no HTTP/1.1\r\nHost: x\r\n\r\n"


class Connection:
    """A Front before a protocol that keeps what it gets; `log` has both in order."""

    def __init__(self) -> None:
        self.log: list[tuple[str, bytes]] = []
        self.front = Front(self._answer, frozenset({"/q"}), lambda data: self.log.append(("passed", data)))

    def _answer(self, head: Head, body: bytes) -> bytes | None:
        return None if head.query == "no" else b"%b %b %b" % (head.method.encode(), head.query.encode(), body)

    def send(self, data: bytes, ready: bool = True) -> None:
        answer = self.front.take(data, ready)
        if answer is not None:
            self.log.append(("answered", answer))

    @property
    def passed(self) -> bytes:
        return b"".join(data for kind, data in self.log if kind == "passed")

    @property
    def answered(self) -> list[bytes]:
        return [data for kind, data in self.log if kind == "answered"]


def test_whole_requests_are_answered_one_after_the_other() -> None:
    connection = Connection()
    for request in (POST, GET, POST):
        connection.send(request)
    assert connection.log == [("answered", each) for each in (b"POST  a=1&b", b"GET a=1 ", b"POST  a=1&b")]


def test_a_body_that_comes_later_is_waited_for() -> None:
    connection = Connection()
    for part in (POST[:-5], POST[-5:-2], POST[-2:]):
        connection.send(part)
    assert connection.log == [("answered", b"POST  a=1&b")]


def test_a_body_that_does_not_come_is_the_servers_to_wait_for() -> None:
    connection = Connection()
    connection.send(POST[:-3])
    assert not connection.log
    connection.front.release()
    connection.front.release()
    connection.send(POST[-3:])
    assert connection.passed == POST
    assert not connection.answered
    connection.front.answered(True)
    connection.send(GET)
    assert connection.answered == [b"GET a=1 "]


@pytest.mark.parametrize("parts", [(OTHER,), (OTHER[:-1], OTHER[-1:]), (REFUSED,)])
def test_after_a_request_of_the_servers_the_next_is_answered_once_its_answer_has_left(parts: tuple[bytes]) -> None:
    connection = Connection()
    for part in parts:
        connection.send(part)
    connection.front.answered(True)
    connection.send(GET)
    assert connection.log == [*(("passed", part) for part in parts), ("answered", b"GET a=1 ")]


def test_who_does_not_wait_for_the_servers_answer_gets_all_from_the_server() -> None:
    connection = Connection()
    for request in (REFUSED, GET):
        connection.send(request)
    connection.front.answered(True)
    connection.front.answered(True)
    connection.send(GET)
    assert connection.passed == REFUSED + GET + GET
    assert not connection.answered


@pytest.mark.parametrize(
    ("whole", "ready"), [(False, True), (True, False)], ids=["an answer that ended ill", "answers still to be taken"]
)
def test_what_comes_after_goes_to_the_server(whole: bool, ready: bool) -> None:
    connection = Connection()
    connection.send(OTHER)
    connection.front.answered(whole)
    connection.send(GET, ready)
    assert connection.passed == OTHER + GET


def test_an_answer_before_the_body_was_there_ends_it() -> None:
    connection = Connection()
    connection.send(OTHER[:-1])
    connection.front.answered(True)
    connection.send(GET)
    assert connection.passed == OTHER[:-1] + GET


ODD = {
    "two requests": GET + GET,
    "more than the body": POST + b"G",
    "a head in parts": GET[:-1],
    "other methods": GET.replace(b"GET", b"PUT"),
    "HTTP/1.0": GET.replace(b"1.1", b"1.0"),
    "no HTTP": b"\x16\x03\x01" + GET,
    "an empty line before": b"\r\n" + GET,
    "whole URLs": GET.replace(b"/q", b"http://x/q"),
    "a space in the path": GET.replace(b"/q?a", b"/q?a b"),
    "bytes in the path": GET.replace(b"/q?a", b"/q?\xc3\xa9"),
    "no Host": POST.replace(b"Host", b"Most"),
    "the end asked for": GET.replace(b"keep-alive", b"close"),
    "chunks": POST.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    "both lengths": POST.replace(b"Host", b"Transfer-Encoding: chunked\r\nHost"),
    "two lengths": POST.replace(b"Host", b"Content-Length: 5\r\nHost"),
    "a signed length": POST.replace(b": 5", b": +5"),
    "a list as length": POST.replace(b": 5", b": 5, 5"),
    "digits of another script": POST.replace(b": 5", b": \xb2"),
    "a folded line": POST.replace(b"Host: x", b"Host: x\r\n y"),
    "a space before the colon": POST.replace(b"Host:", b"Host :"),
    "a bare line feed": POST.replace(b"Host: x\r\n", b"Host: x\n"),
    "a bare carriage return": POST.replace(b"Host: x", b"Host: x\rA: y"),
    "a zero byte": POST.replace(b"Host: x", b"Host: x\x00"),
    "a compressed body": POST.replace(b"Host", b"Content-Encoding: gzip\r\nHost"),
    "expectations": POST.replace(b"Host", b"Expect: 100-continue\r\nHost"),
    "another protocol": GET.replace(b"keep-alive", b"upgrade").replace(b"Host", b"Upgrade: h2c\r\nHost"),
    "a long head": GET.replace(b"Host", b"A: " + b"b" * MAX_HEAD + b"\r\nHost"),
}


@pytest.mark.parametrize("what", ODD)
def test_what_is_not_plain_ends_it_for_the_connection(what: str) -> None:
    connection = Connection()
    connection.send(ODD[what])
    connection.front.answered(True)
    connection.send(GET)
    assert connection.passed == ODD[what] + GET
    assert not connection.answered


def test_large_bodies_are_not_held() -> None:
    connection = Connection()
    head = b"POST /q HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY + 1)
    connection.send(head)
    assert connection.passed == head


def test_fields_are_found_by_small_letters_and_without_blanks_around() -> None:
    head = parse_head(b"GET /q?a=%20&b HTTP/1.1\r\nHOST: x\r\nOrigin:\t http://a \r\nX-Empty:")
    assert head == Head("GET", "/q", "a=%20&b", {"host": "x", "origin": "http://a", "x-empty": ""}, 0)


@given(st.lists(st.sampled_from([POST, GET, OTHER, REFUSED]), max_size=5), st.lists(st.integers(1, 60)), st.booleans())
def test_nothing_is_lost_or_changed_whatever_the_parts(requests: list[bytes], sizes: list[int], told: bool) -> None:
    sent, seen, passed = b"".join(requests), [b""], []

    def answer(head: Head, body: bytes) -> bytes | None:
        if head.query == "no":
            return None
        seen.append(POST if body else GET)
        return b"answer"

    def pass_on(data: bytes) -> None:
        seen.append(data)
        passed.append(data)

    front = Front(answer, frozenset({"/q"}), pass_on)
    at = 0
    while at < len(sent):
        size = sizes.pop() if sizes else len(sent)
        passed.clear()
        front.take(sent[at : at + size], True)
        if passed and told:
            front.answered(True)
        at += size
    front.release()
    assert b"".join(seen) == sent
