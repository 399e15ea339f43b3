"""Software RAID (/proc/mdstat, md(4); sysfs attributes by kernel: Documentation/admin-guide/md.rst)."""

import re
from dataclasses import dataclass

from common.errors import FormatError
from edge.collectors.base import GAUGE, Collector, Desc, NoDataError, Reading, Skip
from edge.collectors.files import integer, list_dir, optional_int, read_text

_DEVICE = ("device",)
STATE = Desc("node_md_state", GAUGE, "Indicates the state of md-device.", ("device", "state"))
DISKS = Desc("node_md_disks", GAUGE, "Number of active/failed/spare disks of device.", ("device", "state"))
REQUIRED = Desc("node_md_disks_required", GAUGE, "Total number of disks of device.", _DEVICE)
BLOCKS = Desc("node_md_blocks", GAUGE, "Total number of blocks on device.", _DEVICE)
SYNCED = Desc("node_md_blocks_synced", GAUGE, "Number of blocks synced on device.", _DEVICE)
RAID_DISKS = Desc("node_md_raid_disks", GAUGE, "Number of raid disks on device.", _DEVICE)
DEGRADED = Desc("node_md_degraded", GAUGE, "Number of degraded disks on device.", _DEVICE)

STATES = ("active", "inactive", "recovering", "resync", "check")
ACTIVITIES = {"recovery": "recovering", "resync": "resync", "check": "check", "reshape": "reshaping"}

_STATUS = re.compile(r"(\d+) blocks")
_DISKS = re.compile(r"\[(\d+)/(\d+)\] +\[[U_]+\]")
_SYNC = re.compile(r"(recovery|resync|check|reshape) *= *[\d.]+% *\((\d+)/\d+\)")
_WAITING = re.compile(r"(recovery|resync|check|reshape) *= *(DELAYED|PENDING|REMOTE)")


@dataclass(frozen=True, slots=True)
class Array:
    """One array of /proc/mdstat; `state` is one of STATES or a newer activity."""

    name: str
    state: str
    active: int
    total: int
    failed: int
    spare: int
    blocks: int
    synced: int


def parse_mdstat(text: str, skip: Skip) -> list[Array]:
    """All arrays; one whose block makes no sense is skipped."""
    arrays: list[Array] = []
    for block in re.split(r"\n(?=\S)", text):
        head, *rest = block.split("\n")
        name, colon, what = head.partition(" : ")
        if not colon or name == "Personalities" or name.startswith("unused devices"):
            continue
        try:
            arrays.append(_parse_array(name.strip(), what.split(), "\n".join(rest)))
        except (FormatError, ValueError) as err:
            skip(f"mdstat {name[:40]}", err)
    return arrays


def _parse_array(name: str, words: list[str], body: str) -> Array:
    status = _STATUS.search(body)
    if not words or status is None:
        raise FormatError("expected a state and a line with a number of blocks")
    state = words[0]
    members = [word for word in words if re.search(r"\[\d+\]", word)]
    failed = sum("(F)" in word for word in members)
    spare = sum("(S)" in word for word in members)
    disks = _DISKS.search(body)
    blocks = synced = integer(status[1])
    if disks is not None:
        total, active = integer(disks[1]), integer(disks[2])
    else:
        # raid0 and linear arrays have no map of disks: all their members are needed.
        active = total = len(members) - failed - spare
    if state == "inactive":
        active = total = 0
    sync = _SYNC.search(body)
    waiting = _WAITING.search(body)
    if sync is not None:
        state, synced = ACTIVITIES[sync[1]], integer(sync[2])
    elif waiting is not None:
        state = ACTIVITIES[waiting[1]]
        synced = 0
    return Array(name, state, active, total, failed, spare, blocks, synced)


def array_readings(array: Array) -> list[Reading]:
    """Readings of one array."""
    name = array.name
    states = STATES if array.state in STATES else (*STATES, array.state)
    return [
        *((STATE, (name, state), 1.0 if state == array.state else 0.0) for state in states),
        (DISKS, (name, "active"), float(array.active)),
        (DISKS, (name, "failed"), float(array.failed)),
        (DISKS, (name, "spare"), float(array.spare)),
        (REQUIRED, (name,), float(array.total)),
        (BLOCKS, (name,), float(array.blocks)),
        (SYNCED, (name,), float(array.synced)),
    ]


class MdadmCollector(Collector):
    """node_md_*"""

    name = "mdadm"
    descs = (STATE, DISKS, REQUIRED, BLOCKS, SYNCED, RAID_DISKS, DEGRADED)

    def collect(self, skip: Skip) -> list[Reading]:
        try:
            arrays = parse_mdstat(read_text(self.paths.proc("mdstat")), skip)
        except FileNotFoundError:
            raise NoDataError("software RAID is not loaded") from None
        readings = [reading for array in arrays for reading in array_readings(array)]
        base = self.paths.sys("block")
        try:
            names = [name for name in list_dir(base) if name.startswith("md")]
        except FileNotFoundError:
            return readings
        for name in names:
            for desc, file in ((RAID_DISKS, "raid_disks"), (DEGRADED, "degraded")):
                value = optional_int(f"{base}/{name}/md/{file}", skip)
                if value is not None:
                    readings.append((desc, (name,), float(value)))
        return readings
