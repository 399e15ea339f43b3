"""The panel shows what fires now."""

import asyncio
import contextlib
from collections.abc import Iterator

import pytest
from gpiozero.pins.mock import MockFactory

from common.labels import Labels
from common.panel.config import DEFAULT_INDICATORS, IndicatorConfig
from common.panel.outputs import GpioOutput, PanelError
from common.panel.patterns import PatternName
from common.panel.service import Panel, Pins
from common.testing import FakeClock

HOT = Labels.of(alertname="Hot")


class Failing:
    """An output whose pin refuses."""

    mock = False
    on = False

    def __init__(self) -> None:
        self.broken = True

    def set(self, on: bool) -> None:
        if self.broken:
            raise PanelError("no such line")

    def history(self) -> list[tuple[float, bool]]:
        return []

    def close(self) -> None:
        pass


@pytest.fixture
def output() -> Iterator[GpioOutput]:
    factory = MockFactory()
    made = GpioOutput(DEFAULT_INDICATORS[0], factory, mock=True)
    yield made
    made.close()
    factory.close()


async def test_the_lamp_blinks_while_an_alert_fires_and_is_dark_after(output: GpioOutput, clock: FakeClock) -> None:
    firing: list[Labels] = []
    panel = Panel([(DEFAULT_INDICATORS[0], output)], lambda: firing, clock)
    task = asyncio.create_task(panel.run())
    await clock.advance(2)
    assert len(output.history()) == 1
    firing.append(HOT)
    await clock.advance(5)
    changes = len(output.history()) - 1
    assert 7 <= changes <= 10
    assert panel.lamps()[0].pattern == "blink_slow"
    assert panel.lamps()[0].reason == "1 firing: Hot"
    firing.clear()
    await clock.advance(2)
    assert not output.on
    assert panel.lamps()[0].pattern == "off"
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_stopping_leaves_every_lamp_off(output: GpioOutput, clock: FakeClock) -> None:
    steady = IndicatorConfig("alerts", 17, firing=PatternName.ON)
    panel = Panel([(steady, output)], lambda: [HOT], clock)
    task = asyncio.create_task(panel.run())
    await clock.advance(1)
    assert output.on
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert not output.on


def test_an_indicator_that_fails_shows_why_and_does_not_stop_the_others(output: GpioOutput, clock: FakeClock) -> None:
    failing = Failing()
    steady = IndicatorConfig("ok", 17, firing=PatternName.ON)
    panel = Panel([(IndicatorConfig("bad", 4), failing), (steady, output)], lambda: [HOT], clock)
    panel.update()
    assert panel.lamps()[0].reason == "no such line"
    assert output.on
    failing.broken = False
    panel.update()
    assert panel.lamps()[0].reason == "1 firing: Hot"


def test_pins_leave_out_an_indicator_whose_pin_is_taken() -> None:
    pins = Pins(MockFactory(), mock=True)
    opened = pins.outputs([IndicatorConfig("a", 4), IndicatorConfig("b", 4)])
    assert [config.name for config, _ in opened] == ["a"]
    for _, each in opened:
        each.close()
    pins.close()
