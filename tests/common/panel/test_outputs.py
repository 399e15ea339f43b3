"""Outputs on gpiozero's mock pins."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from gpiozero.pins.mock import MockFactory

from common.panel.config import IndicatorConfig
from common.panel.outputs import GpioOutput, PanelError, open_factory


@pytest.fixture
def factory() -> Iterator[MockFactory]:
    made = MockFactory()
    yield made
    made.close()


def test_a_machine_without_gpio_chips_gets_mock_pins_and_the_reason(tmp_path: Path) -> None:
    factory, mock, why = open_factory(devices=tmp_path)
    factory.close()
    assert mock
    assert why == f"no GPIO chip in {tmp_path}"


def test_the_environment_can_ask_for_mock_pins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "gpiochip0").touch()
    monkeypatch.setenv("GPIOZERO_PIN_FACTORY", "mock")
    factory, mock, why = open_factory(devices=tmp_path)
    factory.close()
    assert (mock, why) == (True, "GPIOZERO_PIN_FACTORY=mock")


def test_chips_that_cannot_be_opened_give_mock_pins_and_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "gpiochip0").touch()
    monkeypatch.delenv("GPIOZERO_PIN_FACTORY", raising=False)
    factory, mock, why = open_factory(devices=tmp_path)
    factory.close()
    if not mock:
        pytest.skip("this machine has GPIO pins")
    assert "can't be opened" in why


def test_switching_drives_the_pin_and_is_recorded(factory: MockFactory) -> None:
    output = GpioOutput(IndicatorConfig("x", 17), factory, mock=True)
    output.set(True)
    assert factory.pin(17).state == 1
    output.set(True)
    output.set(False)
    assert [on for _, on in output.history()] == [False, True, False]
    output.close()


def test_an_active_low_indicator_is_off_at_high_level(factory: MockFactory) -> None:
    output = GpioOutput(IndicatorConfig("x", 17, active_high=False), factory, mock=True)
    assert factory.pin(17).state == 1
    output.set(True)
    assert factory.pin(17).state == 0
    assert output.history()[-1][1]
    output.close()


def test_closing_switches_off_and_may_be_done_twice(factory: MockFactory) -> None:
    output = GpioOutput(IndicatorConfig("x", 17), factory, mock=True)
    pin = factory.pin(17)
    output.set(True)
    output.close()
    output.close()
    assert [bool(state.state) for state in pin.states][-1] is False
    assert not output.on


def test_a_pin_in_use_is_an_error_that_names_indicator_and_pin(factory: MockFactory) -> None:
    first = GpioOutput(IndicatorConfig("x", 17), factory, mock=True)
    with pytest.raises(PanelError, match='indicator "y" on GPIO17'):
        GpioOutput(IndicatorConfig("y", 17), factory, mock=True)
    first.close()


def test_the_history_of_a_mock_pin_is_bounded(factory: MockFactory) -> None:
    output = GpioOutput(IndicatorConfig("x", 17), factory, mock=True)
    for _ in range(2_600):
        output.set(True)
        output.set(False)
    assert len(output.history()) == 1_000
    assert len(factory.pin(17).states) <= 2_001
    output.close()
