"""edge/announce.py: where the record goes and what it says."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

import pytest
from zeroconf import ServiceInfo

from common.testing import FakeClock, settle
from edge import announce
from edge.announce import Announcer, NetAddress, Plan, plan, service_info

LO = [NetAddress("lo", "127.0.0.1"), NetAddress("lo", "::1")]
ETH = [NetAddress("eth0", "192.0.2.2"), NetAddress("eth0", "fd00::2"), NetAddress("eth0", "fe80::1")]
WLAN = [NetAddress("wlan0", "198.51.100.7")]


@pytest.mark.parametrize(
    ("found", "host", "interfaces", "expected"),
    [
        (LO + ETH, "", (), Plan(("127.0.0.1", "192.0.2.2"), ("192.0.2.2", "fd00::2"))),
        (LO + ETH, "::", (), Plan(("127.0.0.1", "192.0.2.2"), ("192.0.2.2", "fd00::2"))),
        (LO + ETH, "0.0.0.0", (), Plan(("127.0.0.1", "192.0.2.2"), ("192.0.2.2",))),
        (LO + ETH, "127.0.0.1", (), Plan(("127.0.0.1",), ("127.0.0.1",))),
        (LO + ETH, "192.0.2.2", (), Plan(("127.0.0.1", "192.0.2.2"), ("192.0.2.2",))),
        (LO, "", (), Plan(("127.0.0.1",), ("127.0.0.1", "::1"))),
        (LO + ETH + WLAN, "", ("wlan0",), Plan(("198.51.100.7",), ("198.51.100.7",))),
        (LO[1:] + ETH[1:], "", (), Plan(("::1", "fd00::2", "fe80::1"), ("fd00::2",), 6)),
        (LO + ETH, "", ("wlan0",), Plan((), ())),
        ([], "", (), Plan((), ())),
    ],
    ids=["all", "any6", "any4", "loopback", "one", "no network", "chosen", "ipv6 alone", "chosen missing", "none"],
)
def test_the_plan_follows_addresses_and_settings(
    found: list[NetAddress], host: str, interfaces: tuple[str, ...], expected: Plan
) -> None:
    assert plan(found, host, interfaces) == expected


def test_the_record_carries_id_version_host_and_port() -> None:
    info = service_info(bytes(range(16)), "pi-4.lan", 9100, ["192.0.2.2"])
    assert info.name == "pi-4-00010203._bramble._tcp.local."
    assert info.server == "bramble-0001020304050607.local."
    assert (info.port, info.parsed_addresses()) == (9100, ["192.0.2.2"])
    assert info.decoded_properties == {"id": bytes(range(16)).hex(), "api": "1", "host": "pi-4.lan"}


@pytest.mark.parametrize("host", ["", "ünï_cödé!", "x" * 80, "..."])
def test_odd_host_names_still_make_a_record(host: str) -> None:
    assert service_info(bytes(16), host, 1, ["127.0.0.1"]).name.endswith("-00000000._bramble._tcp.local.")


class FakeZeroconf:
    """Records what is asked of it; `broken` is raised at the start."""

    made: ClassVar[list["FakeZeroconf"]] = []
    broken: ClassVar[OSError | None] = None

    def __init__(self, interfaces: list[str], ip_version: object) -> None:
        if FakeZeroconf.broken:
            raise FakeZeroconf.broken
        self.interfaces = interfaces
        self.told: list[str] = []
        self.closed = False
        FakeZeroconf.made.append(self)

    async def async_register_service(self, info: ServiceInfo, allow_name_change: bool) -> asyncio.Future[None]:
        assert allow_name_change
        self.told = info.parsed_addresses()
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        sent.set_result(None)
        return sent

    async def async_unregister_all_services(self) -> None:
        self.told = []

    async def async_close(self) -> None:
        self.closed = True


@pytest.fixture
def zeroconf(monkeypatch: pytest.MonkeyPatch) -> type[FakeZeroconf]:
    FakeZeroconf.made = []
    FakeZeroconf.broken = None
    monkeypatch.setattr(announce, "AsyncZeroconf", FakeZeroconf)
    return FakeZeroconf


@asynccontextmanager
async def announcing(clock: FakeClock, found: list[NetAddress]) -> AsyncIterator[Announcer]:
    announcer = Announcer(bytes(16), "pi", 9100, "", (), clock, lambda: list(found))
    task = asyncio.create_task(announcer.run())
    await settle()
    try:
        yield announcer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_record_follows_the_network(zeroconf: type[FakeZeroconf], clock: FakeClock) -> None:
    found = list(LO)
    async with announcing(clock, found) as announcer:
        assert [*announcer.announced] == ["127.0.0.1", "::1"]
        found.extend(WLAN)
        await clock.advance(16)
        assert [*announcer.announced] == [
            "198.51.100.7",
        ]
    assert [z.interfaces for z in zeroconf.made] == [["127.0.0.1"], ["127.0.0.1", "198.51.100.7"]]
    assert all(z.closed and not z.told for z in zeroconf.made)
    assert [*announcer.announced] == []


async def test_an_unchanged_network_is_announced_once(zeroconf: type[FakeZeroconf], clock: FakeClock) -> None:
    async with announcing(clock, LO + ETH):
        await clock.advance(100)
    assert len(zeroconf.made) == 1


async def test_without_multicast_it_warns_once_with_a_way_out_and_tries_again(
    zeroconf: type[FakeZeroconf], clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    zeroconf.broken = OSError(19, "No such device")
    async with announcing(clock, LO + ETH) as announcer:
        await clock.advance(60)
        assert [*announcer.announced] == []
        warnings = [r for r in caplog.records if "not announced by mDNS" in r.getMessage()]
        assert len(warnings) == 1
        assert "bramble.agents" in warnings[0].getMessage()
        zeroconf.broken = None
        await clock.advance(16)
        assert [*announcer.announced] == ["192.0.2.2", "fd00::2"]
