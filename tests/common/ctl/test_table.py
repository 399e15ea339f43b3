"""Tables for terminals."""

import math

from common.ctl.table import number, render


def test_columns_align_and_lines_have_no_trailing_blanks() -> None:
    assert render(("A", "NUM"), [("long one", "1"), ("b", "10")], frozenset({1})) == (
        "A         NUM\nlong one    1\nb          10"
    )


def test_wide_characters_count_two_columns() -> None:
    assert render(("A", "B"), [("温度", "x"), ("abcd", "y")]).splitlines()[1:] == ["温度  x", "abcd  y"]


def test_control_characters_cannot_drive_the_terminal() -> None:
    assert "\x1b" not in render(("A",), [("\x1b[2Jgone",)])


def test_a_missing_or_nan_number_is_a_dash() -> None:
    assert (number(None), number(math.nan), number(1234.56, 1, " %")) == ("–", "–", "1,234.6 %")
