"""Words of the edge's log: its limits, what readers get, its counters."""

from dataclasses import dataclass
from enum import StrEnum

from common.frames.model import Epoch
from common.frames.ranges import RangeSet
from common.sample import Millis


class Overflow(StrEnum):
    """What happens to samples while the disk takes none and `max_memory_bytes` is reached."""

    DROP_OLDEST = "drop_oldest"
    """The oldest frame that isn't on disk goes; counted."""
    REFUSE = "refuse"
    """`append` raises LimitError; counted."""


class Order(StrEnum):
    """In which order frames are read."""

    NEWEST = "newest"
    OLDEST = "oldest"


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Limits of a log; ms, bytes, seconds as named."""

    retention_ms: int = 30 * 86_400_000
    retention_bytes: int = 512 << 20
    segment_bytes: int = 1 << 20
    max_memory_bytes: int = 8 << 20
    overflow: Overflow = Overflow.DROP_OLDEST
    max_slots: int = 480
    setting: str = "log.path"
    """How the key that sets the path is called, for error messages."""


@dataclass(frozen=True, slots=True)
class LogReply:
    """What a reader gets: frames in the order asked for, and everything the log holds (newest epoch first).

    `more` says that frames were left out for `max_bytes`.
    """

    frames: list[bytes]
    available: dict[Epoch, RangeSet]
    more: bool = False


@dataclass(frozen=True, slots=True)
class LogStats:
    """Counters since the start and gauges of now."""

    disk_bytes: int
    memory_bytes: int
    segments: int
    bytes_written: int
    commits: int
    frames_sealed: int
    frames_expired: int
    frames_dropped: int
    slots_refused: int
    frames_lost: int
    frames_recovered: int
    bytes_lost: int
    segments_quarantined: int
    write_errors: int
    paused: bool
    last_error: str
    clock_steps: int
    provisional: bool
    oldest: Millis | None
