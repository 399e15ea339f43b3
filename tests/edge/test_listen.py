"""edge/listen.py: sockets, and advice where there is none."""

import socket

import pytest

from edge.config import Address
from edge.listen import StartError, bind


def test_no_host_listens_on_ipv4_and_ipv6_alike() -> None:
    with bind(Address("", 0)) as server:
        port = server.getsockname()[1]
        for host in ("127.0.0.1", "::1") if server.family == socket.AF_INET6 else ("127.0.0.1",):
            socket.create_connection((host, port), timeout=5).close()


def test_a_host_listens_there_alone() -> None:
    with bind(Address("localhost", 0)) as server:
        assert server.getsockname()[0] == "127.0.0.1"


def test_a_port_in_use_is_named_with_two_ways_out() -> None:
    with bind(Address("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"port {port} is in use.*stop that program, or choose another port with"):
            bind(Address("", port))


def test_an_address_of_another_machine_is_explained() -> None:
    with pytest.raises(StartError, match="not an address of this machine"):
        bind(Address("203.0.113.7", 9100))


def test_a_host_that_does_not_exist_is_explained() -> None:
    with pytest.raises(StartError, match=r"cannot listen on no-such-host\.invalid:9100: no such host"):
        bind(Address("no-such-host.invalid", 9100))
