"""Structured logs as logfmt."""

import io
import logging
from collections.abc import Iterator

import pytest

from common.logs import EventLog, setup


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What the root logger writes, restored afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    out = io.StringIO()
    setup("info", out)
    yield out
    root.handlers[:] = handlers
    root.setLevel(level)


def test_an_event_is_one_line_of_keys_and_values(stream: io.StringIO) -> None:
    EventLog("hub.pull").warn("source is late", instance="pi:9100", reason='said "no"\nand left', by=1.5)
    line = stream.getvalue()
    assert line.startswith("ts=20")
    assert line.endswith(
        'level=warn component=hub.pull msg="source is late" instance=pi:9100 reason="said \\"no\\"\\nand left" by=1.5\n'
    )


def test_events_below_the_level_are_dropped(stream: io.StringIO) -> None:
    EventLog("x").debug("quiet")
    assert stream.getvalue() == ""


def test_control_characters_are_escaped(stream: io.StringIO) -> None:
    EventLog("x").info("a", v="\x1b[2J")
    assert 'v="\\x1b[2J"' in stream.getvalue()


def test_an_error_carries_its_traceback_in_one_line(stream: io.StringIO) -> None:
    try:
        raise ValueError("bad")
    except ValueError as err:
        EventLog("x").error("failed", exc=err)
    assert stream.getvalue().count("\n") == 1
    assert "ValueError: bad" in stream.getvalue()
