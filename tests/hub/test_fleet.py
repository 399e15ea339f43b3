"""The registry of agents, by table: what happened, and what that makes of a device."""

from dataclasses import dataclass

import pytest

from common.frames.model import Epoch, SourceId
from common.frames.ranges import Have, RangeSet
from common.labels import Labels
from common.sample import Millis
from hub.fleet import Announced, Backlog, Device, Fleet, Ledger, Remembered, State, Success, Via, question

PI = SourceId(b"\x01" * 16)
OTHER = SourceId(b"\x02" * 16)
NOW = Millis(1_700_000_000_000)
E1, E2 = Epoch(1), Epoch(2)
INTERVAL = 15_000
DAY = 86_400_000


def fleet() -> Fleet:
    return Fleet(INTERVAL, DAY)


def seen(source: SourceId = PI, host: str = "pi", *addresses: str, port: int = 9100) -> Announced:
    return Announced(source, host, port, addresses or (f"10.0.0.{source[0]}:{port}",))


def known(registry: Fleet, source: SourceId = PI, host: str = "pi", *addresses: str) -> Device:
    device = registry.announce(seen(source, host, *addresses))
    assert device is not None
    return device


def stored(at: int = NOW, newest: int | None = NOW, samples: int = 100) -> Success:
    return Success(Millis(at), 0.1, {}, {}, samples, None if newest is None else Millis(newest))


@dataclass(frozen=True)
class Case:
    """Seconds since the start at which something happened, and the state afterwards at `look`."""

    ok_at: float | None
    failed_at: float | None
    look: float
    newest_age: float | None
    state: State
    reason: str = ""


CASES = [
    Case(None, None, 0, None, State.UNKNOWN, "not asked yet"),
    Case(0, None, 1, 2, State.ONLINE),
    Case(0, None, 40, 42, State.ONLINE),
    Case(0, None, 1, -3600, State.ONLINE, "its clock is 1h ahead of the hub's"),
    Case(0, None, 1, 47, State.LATE, "newest sample is 47s old"),
    Case(0, None, 1, None, State.LATE, "it answers, but has sent no sample yet"),
    Case(0, None, 61, 62, State.UNREACHABLE, "no pull was finished for 1m1s"),
    Case(0, 15, 16, 17, State.UNREACHABLE, "connection refused"),
    Case(None, 0, 1, None, State.UNREACHABLE, "connection refused"),
    Case(None, 0, 86_401, None, State.LOST, "connection refused"),
    Case(0, 86_400, 86_401, 86_402, State.LOST, "connection refused"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.state}-{c.look}")
def test_the_state_of_a_device_follows_from_its_pulls(case: Case) -> None:
    registry = fleet()
    device = known(registry)
    wall = NOW + int(case.look * 1000)
    if case.ok_at is not None:
        newest = None if case.newest_age is None else int(wall - case.newest_age * 1000)
        registry.succeeded(device, device.address, stored(newest=newest), case.ok_at)
    if case.failed_at is not None:
        registry.failed(device, device.address, "connection refused", NOW, 0.1, case.failed_at)
    status = registry.status(device, Millis(wall), case.look)
    assert (status.state, status.reason) == (case.state, case.reason)


def test_a_device_that_is_behind_says_how_much_is_to_come() -> None:
    registry = fleet()
    device = known(registry)
    result = Success(NOW, 0.1, {E1: RangeSet.of(9)}, {E1: RangeSet([(0, 9)])}, 10, Millis(NOW - 60_000), True)
    registry.succeeded(device, device.address, result, 0.0)
    assert registry.status(device, NOW, 1.0).reason == "newest sample is 1m old, 9 frames are still to come"


def test_recovery_clears_the_reason() -> None:
    registry = fleet()
    device = known(registry)
    registry.failed(device, device.address, "HTTP status 500", NOW, 0.1, 0.0)
    registry.succeeded(device, device.address, stored(), 15.0)
    assert registry.status(device, NOW, 16.0).state is State.ONLINE
    assert device.error == ""


def test_an_agent_is_named_like_a_node_exporter() -> None:
    assert known(fleet()).labels == Labels.of(job="node", instance="pi:9100")


def test_a_second_device_of_the_same_name_gets_its_id_in_the_instance_and_a_warning() -> None:
    registry = fleet()
    known(registry)
    second = known(registry, OTHER)
    assert second.instance == "pi-0202:9100"
    assert second.warning == "pi:9100 is device 01010101 already: this one is pi-0202:9100"


def test_mdns_adds_addresses_and_keeps_the_state() -> None:
    registry = fleet()
    device = known(registry)
    registry.succeeded(device, device.address, stored(), 0.0)
    known(registry, PI, "pi", "10.0.0.1:9100", "[fd00::1]:9100")
    assert list(device.addresses) == ["10.0.0.1:9100", "[fd00::1]:9100"]
    assert registry.status(device, NOW, 1.0).state is State.ONLINE


def test_a_failed_address_goes_behind_the_others() -> None:
    registry = fleet()
    device = known(registry, PI, "pi", "a:1", "b:1")
    registry.failed(device, "a:1", "no route", NOW, 0.1, 0.0)
    assert device.address == "b:1"
    registry.succeeded(device, "b:1", stored(), 1.0)
    assert list(device.addresses) == ["b:1", "a:1"]


def test_a_static_address_becomes_a_device_when_it_tells_its_id() -> None:
    registry = fleet()
    registry.set_static(["10.0.0.9:9100"])
    device = registry.identify("10.0.0.9:9100", PI, "10.0.0.9", 9100)
    assert device is not None
    assert (device.instance, device.via, registry.strangers) == ("10.0.0.9:9100", "static", {})


def test_a_static_address_of_a_known_device_is_one_more_address() -> None:
    registry = fleet()
    device = known(registry)
    registry.set_static(["pi.lan:9100"])
    assert registry.identify("pi.lan:9100", PI, "pi.lan", 9100) is device
    assert device.addresses == {"10.0.0.1:9100": Via.MDNS, "pi.lan:9100": Via.STATIC}
    assert device.instance == "pi:9100"


def test_mdns_does_not_rename_a_device_that_a_static_address_found_first() -> None:
    registry = fleet()
    registry.identify("10.0.0.1:9100", PI, "10.0.0.1", 9100)
    assert known(registry).instance == "10.0.0.1:9100"


def test_a_renamed_host_renames_the_instance() -> None:
    registry = fleet()
    device = known(registry)
    registry.announce(seen(PI, "kitchen"))
    assert device.instance == "kitchen:9100"


def test_an_address_answered_by_another_device_is_given_up() -> None:
    registry = fleet()
    device = registry.identify("10.0.0.9:9100", PI, "10.0.0.9", 9100)
    assert device is not None
    registry.disown(device, "10.0.0.9:9100", OTHER)
    assert device.addresses == {}
    assert list(registry.strangers) == ["10.0.0.9:9100"]
    assert "another device (02020202)" in device.error


def test_a_remembered_device_keeps_its_instance_and_is_lost_after_a_day_of_silence() -> None:
    registry = fleet()
    first = known(registry)
    second = known(registry, OTHER)
    registry.succeeded(first, first.address, stored(), 0.0)
    again = fleet()
    again.restore(registry.remember())
    assert again.devices[OTHER].instance == second.instance
    assert again.status(again.devices[PI], Millis(NOW + DAY + 60_000), 0.0).state is State.LOST
    assert again.status(again.devices[PI], Millis(NOW + 1), 0.0).state is State.UNKNOWN


def test_more_devices_than_the_limit_are_refused_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.fleet.MAX_DEVICES", 1)
    registry = fleet()
    known(registry)
    assert registry.announce(seen(OTHER)) is None
    registry.restore([Remembered(OTHER, "x", 1, "", "x:1", ())])
    assert (registry.refused, len(registry.devices)) == (1, 1)


def test_addresses_of_a_device_are_bounded_and_static_ones_stay() -> None:
    registry = fleet()
    registry.identify("mine:1", PI, "mine", 1)
    for n in range(40):
        registry.announce(seen(PI, "pi", f"10.0.0.{n}:1"))
    device = registry.devices[PI]
    assert len(device.addresses) == 16
    assert device.addresses["mine:1"] is Via.STATIC


Answers = list[tuple[Have, Have, bool]]
GAPS: list[tuple[Answers, Backlog]] = [
    ([({}, {}, True)], Backlog(0, 0)),
    ([({}, {E1: RangeSet([(0, 9)])}, True)], Backlog(10, 0)),
    ([({E1: RangeSet([(5, 9)])}, {E1: RangeSet([(3, 9)])}, True)], Backlog(2, 3)),
    ([({E1: RangeSet([(0, 4)])}, {E1: RangeSet([(3, 9)])}, True)], Backlog(5, 0)),
    (
        [
            ({E1: RangeSet([(0, 4)])}, {E1: RangeSet([(3, 9)])}, True),
            ({E1: RangeSet([(0, 4)])}, {E2: RangeSet([(0, 1)])}, True),
            ({E1: RangeSet([(0, 4)])}, {E2: RangeSet([(0, 1)])}, True),
        ],
        Backlog(2, 5),
    ),
    (
        [
            ({E1: RangeSet([(0, 4)])}, {E1: RangeSet([(3, 9)])}, True),
            ({E1: RangeSet([(0, 4)])}, {E2: RangeSet([(0, 1)])}, False),
        ],
        Backlog(2, 0),
    ),
    (
        [
            ({E1: RangeSet([(0, 9)])}, {E1: RangeSet([(3, 9)])}, True),
            ({E1: RangeSet([(0, 9)])}, {E2: RangeSet([(0, 1)])}, True),
        ],
        Backlog(2, 0),
    ),
]


@pytest.mark.parametrize(("answers", "expected"), GAPS)
def test_the_gap_map_tells_what_will_come_from_what_never_will(answers: Answers, expected: Backlog) -> None:
    ledger = Ledger()
    for have, available, complete in answers:
        found = ledger.account(have, available, complete)
    assert found == expected


def test_an_agent_is_told_of_its_own_epochs_newest_first() -> None:
    have = {E1: RangeSet.of(1), E2: RangeSet.of(2), Epoch(3): RangeSet.of(3)}
    assert list(question(have, {E2: RangeSet.of(0), E1: RangeSet.of(0)})) == [E2, E1]


def test_an_agent_that_said_nothing_yet_is_told_everything() -> None:
    assert question({E1: RangeSet.of(1)}, {}) == {E1: RangeSet.of(1)}


def test_static_addresses_no_longer_listed_are_forgotten() -> None:
    registry = fleet()
    registry.set_static(["a:1", "b:1", "c:1"])
    device = registry.identify("a:1", PI, "a", 1)
    assert device is not None
    registry.announce(seen(PI, "a", "10.0.0.1:1"))
    registry.set_static(["b:1"])
    assert list(registry.strangers) == ["b:1"]
    assert list(device.addresses) == ["10.0.0.1:1"]


def test_a_static_address_that_mdns_found_already_is_no_stranger() -> None:
    registry = fleet()
    device = known(registry, PI, "pi", "a:1")
    registry.set_static(["a:1"])
    assert (registry.strangers, device.addresses) == ({}, {"a:1": Via.STATIC})
