"""The D-Bus client against the real dbus-daemon."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.collectors.dbus import Connection, DBusError

pytestmark = pytest.mark.integration

BUS = "org.freedesktop.DBus"
OBJECT = "/org/freedesktop/DBus"


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Connection]:
    program = shutil.which("dbus-daemon")
    if program is None:
        pytest.skip("dbus-daemon is not installed: apt-get install dbus-daemon")
    argv = [program, "--session", f"--address=unix:path={tmp_path}/bus", "--nofork", "--nopidfile", "--print-address=1"]
    daemon = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert daemon.stdout is not None
    daemon.stdout.readline()
    connection = Connection(str(tmp_path / "bus"))
    yield connection
    connection.close()
    daemon.terminate()
    daemon.wait(60)
    daemon.stdout.close()


def test_the_real_bus_answers_calls_properties_and_errors(bus: Connection) -> None:
    assert BUS in bus.call(BUS, OBJECT, BUS, "ListNames")[0]
    assert isinstance(bus.property(BUS, OBJECT, BUS, "Features"), list)
    credentials = bus.call(BUS, OBJECT, BUS, "GetConnectionCredentials", BUS)[0]
    assert credentials["ProcessID"] > 1
    with pytest.raises(DBusError, match="Error"):
        bus.call(BUS, OBJECT, BUS, "NoSuchMethod")
    assert BUS in bus.call(BUS, OBJECT, BUS, "ListNames")[0]
