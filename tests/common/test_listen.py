"""Sockets, and advice where there is none."""

import socket

import pytest

from common.listen import StartError, bind

RIVAL = "X"


def test_no_host_listens_on_ipv4_and_ipv6_alike() -> None:
    with bind("", 0, RIVAL) as server:
        port = server.getsockname()[1]
        for host in ("127.0.0.1", "::1") if server.family == socket.AF_INET6 else ("127.0.0.1",):
            socket.create_connection((host, port), timeout=60).close()


def test_a_host_listens_there_alone() -> None:
    with bind("localhost", 0, RIVAL) as server:
        assert server.getsockname()[0] == "127.0.0.1"


def test_a_port_in_use_is_named_with_two_ways_out() -> None:
    with bind("127.0.0.1", 0, RIVAL) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"port {port} is in use, perhaps by X: stop that program, or"):
            bind("", port, RIVAL)


def test_an_address_of_another_machine_is_explained() -> None:
    with pytest.raises(StartError, match="not an address of this machine"):
        bind("203.0.113.7", 9100, RIVAL)


def test_a_host_that_does_not_exist_is_explained() -> None:
    with pytest.raises(StartError, match=r"cannot listen on no-such-host\.invalid:9100: no such host"):
        bind("no-such-host.invalid", 9100, RIVAL)
