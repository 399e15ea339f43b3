"""Samples stamped before their device knew the time, and the corrections that move them. Pure.

See `common/frames/FORMAT.md`, sections PROVISIONAL and CORRECTION.
"""

import dataclasses
import struct
from collections import deque
from typing import Final

from common.errors import FrameError
from common.frames.codec import Frame
from common.frames.model import Correction, Provisional

MAX_BOOTS: Final = 256
MAX_WAITING: Final = 10_000
_RECORD = struct.Struct("<16sq")


@dataclasses.dataclass(frozen=True, slots=True)
class Waiting:
    """Slots taken with estimated times, the first at `first`: `slots` of them, arrived from number `arrival` on."""

    provisional: Provisional
    arrival: int
    slots: int
    first: int


class SourceClock:
    """What is known of one source's boots: corrections, and slots that wait for theirs (the oldest are given up)."""

    def __init__(self) -> None:
        self.corrections: dict[bytes, Correction] = {}
        self._waiting: deque[Waiting] = deque(maxlen=MAX_WAITING)

    def correct(self, frame: Frame) -> Frame:
        """The frame at its corrected times, or as it is where no correction is known or needed."""
        shift = self._shift(frame.provisional, int(frame.timestamps[0])) if len(frame.timestamps) else None
        return frame if not shift else dataclasses.replace(frame, timestamps=frame.timestamps + shift)

    def _shift(self, provisional: Provisional | None, first: int) -> int | None:
        if provisional is None:
            return None
        correction = self.corrections.get(provisional.boot_id)
        return None if correction is None else correction.shift(provisional, first)

    def wait(self, provisional: Provisional, arrival: int, slots: int, first: int) -> None:
        """Remember slots that were taken with estimated times."""
        self._waiting.append(Waiting(provisional, arrival, slots, first))

    def learn(self, correction: Correction) -> list[tuple[Waiting, int]]:
        """Take a correction; the slots that waited for it, each with the milliseconds to move by."""
        self.corrections[correction.boot_id] = correction
        while len(self.corrections) > MAX_BOOTS:
            del self.corrections[next(iter(self.corrections))]
        moves = [(each, correction.shift(each.provisional, each.first)) for each in self._waiting]
        kept = [each for each, shift in moves if shift is None]
        self._waiting = deque(kept, maxlen=MAX_WAITING)
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
