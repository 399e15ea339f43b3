"""How far a long command is: a bar on a terminal, now and then a line elsewhere."""

from dataclasses import dataclass
from typing import TextIO

from common.clock import Clock
from common.ctl.table import width
from common.units import format_size

BAR = 20
REDRAW_SECONDS = 0.2
LINE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class State:
    """Work done after `seconds`; `total` bytes are to be read, 0 if nobody knows."""

    done: int
    total: int
    samples: int
    seconds: float


def text(state: State, bar: bool) -> str:
    """One line: share, bytes, samples, samples a second, time left."""
    rate = state.samples / state.seconds if state.seconds > 0 else 0.0
    parts = []
    if state.total:
        share = min(1.0, state.done / state.total)
        if bar:
            parts.append("[" + ("#" * int(share * BAR)).ljust(BAR, ".") + "]")
        parts += [f"{share * 100:.0f} %", f"{format_size(state.done)} of {format_size(state.total)}"]
    else:
        parts.append(format_size(state.done))
    parts += [f"{state.samples:,} samples", f"{rate:,.0f}/s"]
    if state.total and 0 < state.done < state.total and state.seconds > 0:
        parts.append(f"{_clock(state.seconds * (state.total - state.done) / state.done)} left")
    return "  ".join(parts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress:
    """Shows progress on `out`, not more often than is of use."""

    def __init__(self, out: TextIO, clock: Clock, total: int) -> None:
        self._out = out
        self._clock = clock
        self._total = total
        self._screen = out.isatty()
        self._begin = self._last = clock.monotonic()
        self._drawn = 0

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return self._clock.monotonic() - self._begin

    def show(self, done: int, samples: int) -> None:
        """So many bytes were read, so many samples found."""
        now = self._clock.monotonic()
        if now - self._last < (REDRAW_SECONDS if self._screen else LINE_SECONDS):
            return
        self._last = now
        line = text(State(done, self._total, samples, now - self._begin), self._screen)
        if self._screen:
            self._out.write("\r" + line + " " * max(0, self._drawn - width(line)))
            self._drawn = width(line)
        else:
            self._out.write(line + "\n")
        self._out.flush()

    def clear(self) -> None:
        """Make room for other lines."""
        if self._drawn:
            self._out.write("\r" + " " * self._drawn + "\r")
            self._out.flush()
            self._drawn = 0
