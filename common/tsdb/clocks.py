"""Samples stamped before their device knew the time, and the corrections that move them. Pure.

See `common/frames/FORMAT.md`, sections PROVISIONAL and CORRECTION.
"""

import dataclasses
import struct
from typing import Final

from common.errors import FrameError
from common.frames.codec import Frame
from common.frames.model import Correction, Provisional

MAX_BOOTS: Final = 256
MAX_WAITING: Final = 10_000
"""Frames of one source that may wait for a correction; beyond, its oldest boot keeps its estimates."""
_RECORD = struct.Struct("<16sq")


@dataclasses.dataclass(frozen=True, slots=True)
class Waiting:
    """Slots taken with estimated times, the first at `first`: `slots` of them, arrived from number `arrival` on."""

    provisional: Provisional
    arrival: int
    slots: int
    first: int


class SourceClock:
    """What is known of one source's boots: corrections, and slots that wait for theirs."""

    def __init__(self) -> None:
        self.corrections: dict[bytes, Correction] = {}
        self._waiting: dict[bytes, list[Waiting]] = {}

    def correct(self, frame: Frame) -> tuple[Frame, bytes]:
        """The frame at its corrected times, or as it is; then the boot whose correction it waits for, b"" for none."""
        provisional = frame.provisional
        if provisional is None or not len(frame.timestamps):
            return frame, b""
        correction = self.corrections.get(provisional.boot_id)
        if correction is None:
            return frame, provisional.boot_id
        shift = correction.shift(provisional, int(frame.timestamps[0]))
        return dataclasses.replace(frame, timestamps=frame.timestamps + shift) if shift else frame, b""

    def wait(self, provisional: Provisional, arrival: int, slots: int, first: int) -> None:
        """Remember slots that were taken with estimated times."""
        self._waiting.setdefault(provisional.boot_id, []).append(Waiting(provisional, arrival, slots, first))

    def surplus(self) -> bytes | None:
        """The boot that has waited longest, if more frames wait than may."""
        if sum(map(len, self._waiting.values())) <= MAX_WAITING:
            return None
        return next(iter(self._waiting))

    def give_up(self, boot: bytes) -> int:
        """Forget what waited for a boot's correction; how many slots."""
        return sum(each.slots for each in self._waiting.pop(boot, ()))

    @property
    def waiting(self) -> int:
        """Slots that wait."""
        return sum(each.slots for frames in self._waiting.values() for each in frames)

    def learn(self, correction: Correction) -> list[tuple[Waiting, int]]:
        """Take a correction; the slots that waited for it, each with the milliseconds to move by."""
        self.corrections[correction.boot_id] = correction
        while len(self.corrections) > MAX_BOOTS:
            del self.corrections[next(iter(self.corrections))]
        waited = self._waiting.pop(correction.boot_id, ())
        moves = [(each, correction.shift(each.provisional, each.first)) for each in waited]
        return [(each, shift) for each, shift in moves if shift is not None]


def encode_correction(correction: Correction) -> bytes:
    """24 bytes."""
    return _RECORD.pack(correction.boot_id, correction.offset_ms)


def decode_correction(data: bytes) -> Correction:
    """The inverse of `encode_correction`."""
    try:
        return Correction(*_RECORD.unpack(data))
    except struct.error as err:
        raise FrameError(f"damaged correction: {err}") from None
