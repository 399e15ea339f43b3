"""Who this device is: a random id made at first start, made anew on another board."""

import hashlib
import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from common.edgelog.segment import header_source
from common.files import Files, write_atomic
from common.frames.model import SourceId
from common.logs import EventLog

FILE = "identity.json"
_SERIALS = ("proc/device-tree/serial-number", "sys/firmware/devicetree/base/serial-number")
_log = EventLog("log")


def host_name(procfs: Path) -> str:
    """The name of the machine with this procfs: sys/kernel/hostname (proc(5)), else what this one calls itself."""
    return _read(procfs / "sys" / "kernel" / "hostname") or socket.gethostname()


@dataclass(frozen=True, slots=True)
class Machine:
    """Hashes of the board's serial and of /etc/machine-id (machine-id(5) asks not to store it bare); '' if unknown."""

    serial: str = ""
    machine_id: str = ""

    @classmethod
    def read(cls, root: Path = Path("/")) -> "Machine":
        """What the machine under `root` says of itself."""
        serial = next(filter(None, (_read(root / path) for path in _SERIALS)), "")
        return cls(_hash("serial", serial), _hash("machine-id", _read(root / "etc/machine-id")))

    def same_as(self, other: "Machine") -> bool:
        """False if this is another board: by serial where both know it, else by machine id where both know it."""
        if self.serial and other.serial:
            return self.serial == other.serial
        if self.machine_id and other.machine_id:
            return self.machine_id == other.machine_id
        return True


@dataclass(frozen=True, slots=True)
class Identity:
    """A device's id and the machine it was made on."""

    source: SourceId
    machine: Machine


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("ascii", "replace").strip("\0 \n")
    except OSError:
        return ""


def _hash(kind: str, text: str) -> str:
    return hashlib.blake2b(f"bramble {kind} {text}".encode(), digest_size=16).hexdigest() if text else ""


def read_identity(directory: Path) -> Identity | None:
    """The identity stored in `directory`; None where there is none that can be read."""
    try:
        data = json.loads((directory / FILE).read_text("utf-8"))
        source = bytes.fromhex(data["id"])
        if len(source) == 16:
            return Identity(SourceId(source), Machine(str(data["serial"]), str(data["machine_id"])))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as err:
        _log.warn("identity unreadable", path=directory / FILE, error=err)
    return None


def write_identity(directory: Path, identity: Identity, files: Files) -> None:
    """Store `identity` durably."""
    text = json.dumps(
        {
            "id": identity.source.hex(),
            "serial": identity.machine.serial,
            "machine_id": identity.machine.machine_id,
        },
        indent=1,
    )
    write_atomic(directory / FILE, (text + "\n").encode(), files)


def new_source() -> SourceId:
    """16 random bytes."""
    return SourceId(os.urandom(16))


def identify(directory: Path, files: Files, machine: Machine) -> SourceId:
    """The id stored in `directory`, a new one on another machine; segments of a former id are moved aside."""
    identity = read_identity(directory)
    segments = sorted(directory.glob("*.seg"))
    if identity is None:
        source = next((s for s in map(_source_of, reversed(segments)) if s is not None), None) or new_source()
    elif identity.machine.same_as(machine):
        learned = Machine(identity.machine.serial or machine.serial, identity.machine.machine_id or machine.machine_id)
        if learned != identity.machine:
            write_identity(directory, Identity(identity.source, learned), files)
        return identity.source
    else:
        former = directory / f"former-{identity.source.hex()}"
        files.mkdir(former)
        for path in (*segments, *directory.glob("*.bad")):
            files.replace(path, former / path.name)
        files.sync_dir(former)
        files.sync_dir(directory)
        source = new_source()
        _log.warn(
            "this card was made on another board: a new device id is used",
            former_id=identity.source.hex(), id=source.hex(), former_log=former,
        )  # fmt: skip
    write_identity(directory, Identity(source, machine), files)
    return source


def _source_of(path: Path) -> SourceId | None:
    with path.open("rb") as file:
        return header_source(file.read(64))
