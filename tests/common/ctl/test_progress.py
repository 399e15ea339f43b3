"""Progress is a bar that redraws itself on a terminal, and a line now and then elsewhere."""

import io

from common.ctl.progress import Progress, State, text
from common.testing import FakeClock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_line_has_share_bytes_samples_rate_and_time_left() -> None:
    state = State(3 << 20, 4 << 20, 600_000, 6.0)
    assert text(state, bar=True) == (
        "[###############.....]  75 %  3.0 MiB of 4.0 MiB  600,000 samples  100,000/s  0:02 left"
    )
    assert text(State(3 << 20, 0, 10, 0.0), bar=True) == "3.0 MiB  10 samples  0/s"
    assert text(State(1, 8000, 10, 1.0), bar=False).endswith("2:13:19 left")


async def test_a_terminal_is_redrawn_and_cleared() -> None:
    out, clock = Terminal(), FakeClock()
    progress = Progress(out, clock, 100)
    progress.show(1, 1)
    assert out.getvalue() == ""
    await clock.advance(1)
    progress.show(50, 1000)
    await clock.advance(1)
    progress.show(90, 1)
    first, second = out.getvalue().split("\r")[1:]
    assert len(second) == len(first)
    progress.clear()
    assert out.getvalue().endswith("\r" + " " * len(second.rstrip()) + "\r")


async def test_elsewhere_a_line_comes_every_ten_seconds() -> None:
    out, clock = io.StringIO(), FakeClock()
    progress = Progress(out, clock, 0)
    for _ in range(25):
        await clock.advance(1)
        progress.show(1 << 20, 10)
    progress.clear()
    assert out.getvalue().splitlines() == ["1.0 MiB  10 samples  1/s", "1.0 MiB  10 samples  0/s"]
