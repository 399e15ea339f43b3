"""Announcements: what is taken as an agent and what is not."""

import asyncio

import pytest

from common.frames.model import SourceId
from common.testing import FakeClock
from hub.discovery.mdns import CHECK_SECONDS, MdnsBrowser, read_record
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


async def test_without_an_interface_the_browser_says_so_and_looks_again(clock: FakeClock) -> None:
    asked: list[int] = []

    def none() -> tuple[str, ...]:
        asked.append(1)
        return ()

    browser = MdnsBrowser(lambda found: None, clock, none)
    task = asyncio.create_task(browser.run())
    try:
        for count in (1, 2):
            while len(asked) < count or not browser.problem:
                await clock.advance(CHECK_SECONDS)
        assert browser.problem == "mDNS is not available: no network interface is up"
    finally:
        task.cancel()
        await asyncio.wait([task])
        await asyncio.get_running_loop().shutdown_default_executor()


# zeroconf leaves its listening socket to the garbage collector when it can't bind the others.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_an_interface_that_cannot_be_used_is_a_problem_and_no_crash(clock: FakeClock) -> None:
    browser = MdnsBrowser(lambda found: None, clock, lambda: ("192.0.2.1",))
    task = asyncio.create_task(browser.run())
    try:
        while not browser.problem:
            await clock.advance(CHECK_SECONDS)
        assert browser.problem.startswith("mDNS is not available: ")
    finally:
        task.cancel()
        await asyncio.wait([task])
        await asyncio.get_running_loop().shutdown_default_executor()
