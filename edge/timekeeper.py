"""Which time a sample gets before, at and after time synchronisation. Pure but for the Clock it asks."""

from dataclasses import dataclass
from typing import Final

from common.clock import Clock
from common.frames.model import Flags
from common.sample import Millis

STEP_MS: Final = 1_000
"""A wall clock that runs this far from the monotonic one between two stamps was stepped, not slewed."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """The time of one slot; pass `timestamp` and `flags` to `Log.append`."""

    timestamp: Millis
    flags: Flags


class Timekeeper:
    """Stamps slots. Until the first sync a stamp is an estimate: the wall clock, but never before `floor`.

    `floor` is the last time known to have passed, as stored before this start (a Pi without battery wakes in the past).
    """

    def __init__(self, clock: Clock, floor: Millis | None) -> None:
        self._clock = clock
        self._started = self.monotonic_ms()
        self._floor = floor
        self._was_synced = False
        self._lead: int | None = None
        self._estimated_lead = self._estimate() - self._started
        self.steps = 0

    def monotonic_ms(self) -> int:
        """The monotonic clock in ms."""
        return round(self._clock.monotonic() * 1000)

    @property
    def was_synced(self) -> bool:
        """Whether the clock was synchronised at some stamp since the start; it is then trusted until the end."""
        return self._was_synced

    @property
    def offset_ms(self) -> int:
        """Wall clock minus monotonic clock, now."""
        return self._clock.now() - self.monotonic_ms()

    def _estimate(self) -> Millis:
        wall = self._clock.now()
        if self._was_synced or self._floor is None:
            return wall
        return Millis(max(wall, self._floor + self.monotonic_ms() - self._started))

    def stamp(self) -> Stamp:
        """The time of a slot sampled now."""
        synced = self._clock.synced()
        self._was_synced = self._was_synced or synced
        if synced:
            return Stamp(self._clock.now(), Flags.SYNCED)
        timestamp = self._estimate()
        if self._was_synced:
            return Stamp(timestamp, Flags(0))
        self._estimated_lead = timestamp - self.monotonic_ms()
        return Stamp(timestamp, Flags.PROVISIONAL)

    def monotonic_of(self, timestamp: int) -> int:
        """The monotonic ms at which `timestamp`, a provisional stamp or one near it, was now."""
        return timestamp - self._estimated_lead

    def stepped(self) -> bool:
        """Whether time jumped since the last call (the first call: no)."""
        lead = self._estimate() - self.monotonic_ms()
        before, self._lead = self._lead, lead
        jumped = before is not None and abs(lead - before) > STEP_MS
        self.steps += jumped
        return jumped
