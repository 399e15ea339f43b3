"""Drivers' own counters and link modes."""

import errno
import struct

import pytest

from common.testing import FakeClock
from edge.collectors.base import NoDataError, Paths
from edge.collectors.ethtool import (
    EthtoolCollector,
    EthtoolOptions,
    describe,
    link_readings,
    metric_name,
    parse_link,
    parse_stats,
)


@pytest.mark.parametrize(
    ("stat", "name"),
    [
        ("rx_queue_0_packets", "node_ethtool_received_queue_0_packets"),
        ("tx-errors", "node_ethtool_transmitted_errors"),
        ("  Late Collisions", "node_ethtool_late_collisions"),
        ("prxq", "node_ethtool_prxq"),
    ],
)
def test_drivers_names_become_metric_names(stat: str, name: str) -> None:
    assert metric_name(stat) == name


def test_common_counters_have_names_of_their_own() -> None:
    assert describe("rx_bytes").name == "node_ethtool_received_bytes_total"


def test_tables_of_names_and_values_belong_together() -> None:
    names = b"a".ljust(32, b"\0") + bytes(32) + b"c".ljust(32, b"\0")
    assert parse_stats(names, struct.pack("=3Q", 1, 2, 3), 3) == {"a": 1, "c": 3}
    assert parse_stats(names, struct.pack("=Q", 1), 3) == {"a": 1}


def test_a_pis_gigabit_port_shows_its_modes() -> None:
    modes = 0b10111111 | 1 << 13
    raw = bytes(11) + b"\1" + bytes(36) + struct.pack("=2I", modes, modes & ~0b10000)
    found = {(d.name, *v[1:]): x for d, v, x in link_readings("eth0", *parse_link(raw, 1))}
    assert found["node_network_autonegotiate",] == 1.0
    assert found["node_network_supported_port_info", "TP"] == 1.0
    assert found["node_network_supported_speed_bytes", "full", "1000baseT"] == 125e6
    assert ("node_network_advertised_speed_bytes", "half", "1000baseT") not in found
    assert found["node_network_pause_supported",] == 1.0


class Broken:
    """A driver that knows its name and fails at the rest."""

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True

    def ask(self, device: str, request: bytes) -> bytes:
        raise AssertionError

    def driver(self, device: str) -> tuple[str, str, str, str, str]:
        return "0000:01:00.0", "e1000e", "", "3.2", "6.6"

    def link(self, device: str) -> tuple[bool, int, int]:
        raise OSError(errno.EOPNOTSUPP, "no")

    def stats(self, device: str) -> dict[str, int]:
        raise OSError(errno.EIO, "broken")


def test_a_driver_that_fails_costs_its_own_series(skipped) -> None:
    collector = EthtoolCollector(Paths(), EthtoolOptions(include="^lo$"), FakeClock())
    broken = Broken()
    collector.open = lambda: broken  # type: ignore[assignment, return-value]
    (reading,) = collector.collect(skipped)
    assert reading[1] == ("0000:01:00.0", "lo", "e1000e", "", "3.2", "6.6")
    assert skipped == ["ethtool lo"]
    assert broken.closed


def test_a_captured_tree_has_no_drivers(tree, skipped) -> None:
    with pytest.raises(NoDataError):
        EthtoolCollector(tree({}), EthtoolOptions(), FakeClock()).collect(skipped)
