"""What an indicator does over time: pure functions of monotonic seconds."""

import math
from dataclasses import dataclass
from enum import StrEnum


class PatternName(StrEnum):
    """Patterns by the name used in configuration and shown by the API."""

    OFF = "off"
    ON = "on"
    BLINK_SLOW = "blink_slow"
    BLINK_FAST = "blink_fast"
    HEARTBEAT = "heartbeat"


@dataclass(frozen=True, slots=True)
class Pattern:
    """A repeating sequence: on for `steps[0]` seconds, off for `steps[1]`, and so on; no steps: always `rest`."""

    steps: tuple[float, ...] = ()
    rest: bool = False

    @property
    def period(self) -> float:
        """Seconds after which the pattern repeats; 0 for a constant one."""
        return sum(self.steps)

    def on(self, now: float) -> bool:
        """Whether the indicator is on at `now`; all indicators of a program blink in step."""
        return self._at(now)[0]

    def next_change(self, now: float) -> float | None:
        """Seconds until the level changes, always above 0; None for a constant pattern."""
        return self._at(now)[1]

    def _at(self, now: float) -> tuple[bool, float | None]:
        if not self.steps:
            return self.rest, None
        phase = math.fmod(now, self.period)
        if phase < 0:
            phase += self.period
        end = 0.0
        for index, step in enumerate(self.steps):
            end += step
            if phase < end:
                return index % 2 == 0, end - phase
        return True, self.steps[0]


PATTERNS: dict[PatternName, Pattern] = {
    PatternName.OFF: Pattern(),
    PatternName.ON: Pattern(rest=True),
    PatternName.BLINK_SLOW: Pattern((0.5, 0.5)),
    PatternName.BLINK_FAST: Pattern((0.125, 0.125)),
    # Two short beats a second and a half: alive, at a glance different from blinking.
    PatternName.HEARTBEAT: Pattern((0.1, 0.15, 0.1, 1.15)),
}
"""The patterns themselves."""
