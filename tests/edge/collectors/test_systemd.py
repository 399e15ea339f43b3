"""systemd's units over a socket that speaks D-Bus; the real dbus-daemon judges the client in tests/integration."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError
from common.testing import FakeClock
from edge.collectors.base import NoDataError, Paths
from edge.collectors.dbus import Connection, DBusError, Reader, encode_call, split_types
from edge.collectors.systemd import BUS, SystemdCollector, SystemdOptions

FORMS = {"u": ("I", 4), "t": ("Q", 8), "y": ("B", 1)}


def put(data: bytearray, kind: str, value: Any) -> None:
    """Marshal one value, little-endian."""

    def pad(to: int) -> None:
        data.extend(bytes(-len(data) % to))

    if kind[0] in FORMS:
        form, size = FORMS[kind[0]]
        pad(size)
        data += struct.pack("<" + form, value)
    elif kind[0] in "so":
        pad(4)
        data += struct.pack("<I", len(value.encode())) + value.encode() + b"\0"
    elif kind[0] == "g":
        data += bytes([len(value)]) + value.encode() + b"\0"
    elif kind[0] == "v":
        put(data, "g", value[0])
        put(data, *value)
    elif kind[0] == "(":
        pad(8)
        for inner, item in zip(split_types(kind[1:-1]), value, strict=True):
            put(data, inner, item)
    else:
        assert kind[0] == "a"
        pad(4)
        at = len(data)
        data += bytes(4)
        pad(8 if kind[1] in "({" else 4)
        begin = len(data)
        for item in value:
            put(data, kind[1:], item)
        struct.pack_into("<I", data, at, len(data) - begin)


def reply(serial: int, signature: str, value: Any, kind: int = 2, error: str = "") -> bytes:
    body = bytearray()
    put(body, signature, value)
    fields: list[tuple[int, tuple[str, Any]]] = [(5, ("u", serial)), (8, ("g", signature))]
    if error:
        fields.append((4, ("s", error)))
    head = bytearray(struct.pack("<cBBBII", b"l", kind, 0, 1, len(body), 99))
    put(head, "a(yv)", fields)
    head.extend(bytes(-len(head) % 8))
    return bytes(head + body)


UNITS = [
    ("ssh.service", "", "loaded", "active", "running", "", "/u/ssh", 0, "", "/"),
    ("gone.service", "", "not-found", "inactive", "dead", "", "/u/gone", 0, "", "/"),
    ("home.mount", "", "loaded", "active", "mounted", "", "/u/home", 0, "", "/"),
    ("apt.timer", "", "loaded", "active", "waiting", "", "/u/apt", 0, "", "/"),
    ("dbus.socket", "", "loaded", "failed", "failed", "", "/u/dbus", 0, "", "/"),
    ("odd.service", "", "loaded", "active", "running", "", "/u/odd", 0, "", "/"),
]
PROPERTIES: dict[tuple[str, str], tuple[str, Any]] = {
    ("/org/freedesktop/systemd1", "Version"): ("s", "252.38-1~deb12u1"),
    ("/org/freedesktop/systemd1", "Virtualization"): ("s", ""),
    ("/org/freedesktop/systemd1", "SystemState"): ("s", "degraded"),
    ("/u/ssh", "Type"): ("s", "notify"),
    ("/u/ssh", "NRestarts"): ("u", 3),
    ("/u/ssh", "TasksCurrent"): ("t", 5),
    ("/u/ssh", "TasksMax"): ("t", (1 << 64) - 1),
    ("/u/ssh", "ActiveEnterTimestamp"): ("t", 1_700_000_000_000_000),
    ("/u/apt", "LastTriggerUSec"): ("t", 1_600_000_000_500_000),
    ("/u/apt", "ActiveEnterTimestamp"): ("t", 1),
    ("/u/dbus", "NAccepted"): ("u", 1),
    ("/u/dbus", "NConnections"): ("u", 2),
    ("/u/dbus", "NRefused"): ("u", 0),
}


def answer(serial: int, path: str, member: str, arguments: list[str]) -> bytes:
    if member == "Hello":
        return reply(serial, "s", ":1.5")
    if member == "ListUnits":
        return reply(serial + 7, "s", "not for you") + reply(serial, "a(ssssssouso)", UNITS)
    found = PROPERTIES.get((path, arguments[1]))
    if found is None:
        return reply(serial, "s", "no such thing", 3, "org.freedesktop.DBus.Error.UnknownProperty")
    return reply(serial, "v", found)


Answer = Callable[[int, str, str, list[str]], bytes]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Answer], Paths]]:
    """Serve D-Bus on the bus's socket below a root; the Paths for that root."""
    stop: list[Callable[[], None]] = []

    def start(respond: Answer) -> Paths:
        address = tmp_path / BUS
        address.parent.mkdir(parents=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(address))
        listener.listen()

        def run() -> None:
            client, _ = listener.accept()
            with client, client.makefile("rb") as stream, contextlib.suppress(ConnectionError):
                stream.read(1)
                stream.readline()
                client.sendall(b"OK 1234\r\n")
                stream.readline()
                while head := stream.read(16):
                    size, serial, count = struct.unpack("<III", head[4:])
                    rest = stream.read((count + 7) // 8 * 8 + size)
                    fields = dict(Reader(head + rest[:count], True, at=12).value("a(yv)"))
                    body = rest[(count + 7) // 8 * 8 :]
                    arguments = Reader(body, True).values(fields.get(8, ""))
                    client.sendall(respond(serial, fields[1], fields[3], arguments))

        thread = threading.Thread(target=run)
        thread.start()
        stop.extend([thread.join, listener.close])
        return Paths(rootfs=str(tmp_path))

    yield start
    for action in stop:
        action()


def collect(paths: Paths, skipped: Any, **options: Any) -> dict[tuple[str, ...], float]:
    collector = SystemdCollector(paths, SystemdOptions(**options), FakeClock())
    return {(desc.name, *labels): value for desc, labels, value in collector.collect(skipped)}


def test_units_are_reported_as_node_exporter_reports_them(serve, skipped) -> None:
    found = collect(serve(answer), skipped)
    assert found["node_systemd_version", "252.38-1~deb12u1"] == 252.38
    assert found["node_systemd_virtualization_info", "none"] == 1.0
    assert found["node_systemd_system_running",] == 0.0
    assert found["node_systemd_unit_state", "ssh.service", "active", "notify"] == 1.0
    assert found["node_systemd_unit_state", "ssh.service", "failed", "notify"] == 0.0
    assert found["node_systemd_units", "active"] == 4.0
    assert found["node_systemd_units", "activating"] == 0.0
    assert found["node_systemd_timer_last_trigger_seconds", "apt.timer"] == 1_600_000_000.5
    assert found["node_systemd_socket_current_connections", "dbus.socket"] == 2.0


def test_units_that_are_not_loaded_or_excluded_are_left_out(serve, skipped) -> None:
    names = {key[1] for key in collect(serve(answer), skipped) if key[0] == "node_systemd_unit_state"}
    assert names == {"ssh.service", "apt.timer", "dbus.socket"}


def test_one_unit_that_cannot_be_asked_costs_its_own_series(serve, skipped) -> None:
    collect(serve(answer), skipped)
    assert skipped == ["odd.service"]


def test_optional_metrics_come_when_asked_for(serve, skipped) -> None:
    found = collect(serve(answer), skipped, include="(ssh|apt).*", tasks=True, restarts=True, starts=True)
    assert found["node_systemd_service_restart_total", "ssh.service"] == 3.0
    assert found["node_systemd_unit_tasks_current", "ssh.service"] == 5.0
    assert ("node_systemd_unit_tasks_max", "ssh.service") not in found  # no limit is no number
    assert found["node_systemd_unit_start_time_seconds", "ssh.service"] == 1_700_000_000.0


def test_a_bus_that_answers_rubbish_is_a_clear_failure(serve, skipped) -> None:
    with pytest.raises(DBusError, match="not a D-Bus message"):
        collect(serve(lambda *_: b"HTTP/1.1 400 Bad Request\r\n\r\n"), skipped)


def test_a_machine_without_a_bus_has_no_data(tmp_path: Path, skipped) -> None:
    with pytest.raises(NoDataError):
        collect(Paths(rootfs=str(tmp_path)), skipped)


def test_a_bad_pattern_names_its_flag() -> None:
    with pytest.raises(ConfigError, match="unit-include"):
        SystemdCollector(Paths(), SystemdOptions(include="("), FakeClock())


def test_a_service_that_listens_elsewhere_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        Connection(str(tmp_path / "nothing"))


@given(data=st.binary(max_size=200), signature=st.text(st.sampled_from("aysgovuxt(){}bd"), max_size=12))
def test_garbage_is_never_more_than_a_dbus_error(data: bytes, signature: str) -> None:
    for little in (True, False):
        try:
            Reader(data, little).values(signature)
        except (DBusError, TypeError, ValueError) as err:
            # A dict needs pairs and hashable keys: what is no signature may not give them.
            assert isinstance(err, DBusError) or "{" in signature


def test_a_call_is_marshalled_as_the_specification_says() -> None:
    raw = encode_call(1, "a.b", "/", "c.d", "E", ("x",))
    fields = dict(Reader(raw, True, at=12).value("a(yv)"))
    assert fields == {1: "/", 2: "c.d", 3: "E", 6: "a.b", 8: "s"}
    assert raw[-6:] == b"\1\0\0\0x\0"
