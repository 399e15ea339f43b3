"""Announcements: what is taken as an agent and what is not."""

import pytest

from common.frames.model import SourceId
from hub.discovery.mdns import read_record
from hub.fleet import Announced

ID = "0a" * 16


def test_a_record_gives_host_port_and_addresses_in_order_of_use() -> None:
    found = read_record(
        "bramble-0a.local.",
        9100,
        ["127.0.0.1", "fe80::1", "fd00::1", "10.0.0.1", "fe80::1%2", "0.0.0.0"],
        {"id": ID, "host": "pi", "api": "1"},
    )
    assert found == Announced(
        SourceId(bytes.fromhex(ID)),
        "pi",
        9100,
        ("10.0.0.1:9100", "[fd00::1]:9100", "[fe80::1%2]:9100", "127.0.0.1:9100"),
    )


def test_without_a_host_in_the_text_the_server_is_the_host() -> None:
    found = read_record("pi.local.", 9100, ["10.0.0.1"], {"id": ID})
    assert isinstance(found, Announced)
    assert found.host == "pi"


@pytest.mark.parametrize(
    ("server", "port", "addresses", "text", "reason"),
    [
        ("pi.local.", 9100, ["10.0.0.1"], {}, "TXT id is not 32 hex digits: ''"),
        ("pi.local.", 9100, ["10.0.0.1"], {"id": "xyz"}, "TXT id is not 32 hex digits: 'xyz'"),
        ("pi.local.", 9100, ["10.0.0.1"], {"id": ID, "api": "2"}, "it speaks version '2' of the agents' interface"),
        ("pi.local.", 0, ["10.0.0.1"], {"id": ID}, "SRV port is 0"),
        ("pi.local.", None, ["10.0.0.1"], {"id": ID}, "SRV port is None"),
        ("pi.local.", 9100, [], {"id": ID}, "it has no usable address"),
        ("pi.local.", 9100, ["fe80::1", "224.0.0.1", "junk"], {"id": ID}, "it has no usable address"),
        ("pi.local.", 9100, ["10.0.0.1"], {"id": ID, "host": 'a"b'}, "host name is not one"),
        ("pi.local.", 9100, ["10.0.0.1"], {"id": ID, "host": "a" * 300}, "host name is not one"),
    ],
)
def test_a_record_that_is_no_agent_is_refused_with_the_reason(
    server: str, port: int | None, addresses: list[str], text: dict[str, str | None], reason: str
) -> None:
    found = read_record(server, port, addresses, text)
    assert isinstance(found, str)
    assert found.startswith(reason)
