"""Patterns over time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.panel.patterns import PATTERNS, PatternName


@pytest.mark.parametrize("name", list(PatternName))
def test_every_name_has_a_pattern(name: PatternName) -> None:
    assert name in PATTERNS


def test_a_slow_blink_is_half_a_second_on_and_half_off() -> None:
    blink = PATTERNS[PatternName.BLINK_SLOW]
    assert [blink.on(t) for t in (0.0, 0.49, 0.51, 0.99, 1.01)] == [True, True, False, False, True]


def test_a_heartbeat_beats_twice_in_its_period() -> None:
    beat = PATTERNS[PatternName.HEARTBEAT]
    levels = [beat.on(t / 100) for t in range(150)]
    rises = sum(1 for a, b in zip([False, *levels], levels, strict=False) if b and not a)
    assert rises == 2
    assert sum(levels) == 20


def test_a_constant_pattern_never_changes() -> None:
    assert PATTERNS[PatternName.ON].on(3.0)
    assert not PATTERNS[PatternName.OFF].on(3.0)
    assert PATTERNS[PatternName.ON].next_change(3.0) is None


@given(st.sampled_from([n for n in PatternName if PATTERNS[n].period]), st.floats(-1e6, 1e6))
def test_the_level_holds_until_the_next_change(name: PatternName, now: float) -> None:
    pattern = PATTERNS[name]
    left = pattern.next_change(now)
    assert left is not None
    assert left > 0
    if left > 1e-6:
        assert pattern.on(now + left * 0.5) == pattern.on(now)
    assert pattern.on(now + left + 1e-6) != pattern.on(now) or pattern.on(now + left + 2e-6) != pattern.on(now)
