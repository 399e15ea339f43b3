"""edge/announce.py: where the record goes and what it says."""

import pytest

from edge.announce import NetAddress, Plan, plan, service_info

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
