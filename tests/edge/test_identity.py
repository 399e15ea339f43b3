"""What counts as another machine, and where its facts are read."""

import socket
from pathlib import Path

import pytest

from common.files import SYSTEM_FILES
from common.frames.model import SourceId
from edge.identity import FILE, Identity, Machine, host_name, read_identity, write_identity


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (Machine("a", "x"), Machine("a", "y"), True),
        (Machine("a", "x"), Machine("b", "x"), False),
        (Machine("", "x"), Machine("b", "x"), True),
        (Machine("", "x"), Machine("b", "y"), False),
        (Machine("a", ""), Machine("", "y"), True),
    ],
)
def test_the_serial_decides_where_both_are_known(left: Machine, right: Machine, same: bool) -> None:
    assert left.same_as(right) == same


def test_facts_are_read_and_hashed(tmp_path: Path) -> None:
    tree = tmp_path / "proc/device-tree"
    tree.mkdir(parents=True)
    (tree / "serial-number").write_bytes(b"10000000abcdef01\0")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    machine = Machine.read(tmp_path)
    assert len(machine.serial) == len(machine.machine_id) == 32
    assert "abcdef01" not in machine.serial
    assert Machine.read(tmp_path / "nowhere") == Machine("", "")


def test_an_identity_is_kept(tmp_path: Path) -> None:
    identity = Identity(SourceId(b"i" * 16), Machine("a", "b"))
    write_identity(tmp_path, identity, SYSTEM_FILES)
    assert read_identity(tmp_path) == identity


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"id": "zz", "serial": "", "machine_id": ""}', '{"id": "00"}'])
def test_a_damaged_identity_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    assert read_identity(tmp_path) is None


def test_the_host_name_is_that_of_the_machine_whose_procfs_it_is(tmp_path: Path) -> None:
    (tmp_path / "sys" / "kernel").mkdir(parents=True)
    (tmp_path / "sys" / "kernel" / "hostname").write_text("barn-pi4\n")
    assert host_name(tmp_path) == "barn-pi4"
    assert host_name(tmp_path / "nothing") == socket.gethostname()
