"""GPIO inputs on gpiozero's mock pins."""

from collections.abc import Iterator
from typing import Any

import pytest

from common.errors import ConfigError
from common.testing import FakeClock
from edge.collectors.base import NoDataError, Paths
from edge.collectors.rpi_gpio import RpiGpioCollector, RpiGpioOptions, parse_input


@pytest.fixture
def factory() -> Iterator[Any]:
    from gpiozero.pins.mock import MockFactory

    pins = MockFactory()
    yield pins
    pins.reset()


def collector(factory: Any, *inputs: str) -> RpiGpioCollector:
    made = RpiGpioCollector(Paths(), RpiGpioOptions(inputs), FakeClock())
    made.factory = factory
    return made


def values(made: RpiGpioCollector, skipped: Any) -> dict[tuple[str, ...], float]:
    return {(desc.name, *labels): value for desc, labels, value in made.collect(skipped)}


def test_a_pressed_button_is_active_and_counted(factory, skipped) -> None:
    made = collector(factory, "door=button:17")
    assert values(made, skipped) == {
        ("rpi_gpio_level", "door", "GPIO17"): 0.0,
        ("rpi_gpio_activations_total", "door", "GPIO17"): 0.0,
    }
    factory.pin(17).drive_low()
    factory.pin(17).drive_high()
    factory.pin(17).drive_low()
    assert values(made, skipped) == {
        ("rpi_gpio_level", "door", "GPIO17"): 1.0,
        ("rpi_gpio_activations_total", "door", "GPIO17"): 2.0,
    }
    made.close()


def test_pulses_of_a_rain_gauge_are_a_counter(factory, skipped) -> None:
    made = collector(factory, "rain=pulse:27:down")
    values(made, skipped)
    for _ in range(3):
        factory.pin(27).drive_high()
        factory.pin(27).drive_low()
    assert values(made, skipped) == {("rpi_gpio_pulses_total", "rain", "GPIO27"): 3.0}
    made.close()


def test_a_pin_in_use_costs_its_own_series(factory, skipped) -> None:
    made = collector(factory, "a=digital_input:4:down", "b=digital_input:4:down")
    assert {key[1] for key in values(made, skipped)} == {"a"}
    assert skipped == ["gpio b"]
    made.close()


def test_no_configured_input_is_no_data(factory, skipped) -> None:
    with pytest.raises(NoDataError):
        collector(factory).collect(skipped)


@pytest.mark.parametrize(
    "text",
    [
        "door",
        "door=button",
        "=button:1",
        "d=lamp:1",
        "d=button:x",
        "d=button:99",
        "d=button:1:sideways",
        "d=distance:1",
    ],
)
def test_an_input_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="NAME=KIND:PIN"):
        parse_input(text)


def test_two_inputs_of_one_name_are_refused(factory) -> None:
    with pytest.raises(ConfigError, match="same name"):
        collector(factory, "a=button:1", "a=button:2")
