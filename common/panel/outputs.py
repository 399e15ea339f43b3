"""Outputs that carry a level to a pin: gpiozero devices on real pins, or on its mock pins where there are none."""

import os
from pathlib import Path
from typing import Protocol

from common.errors import BrambleError
from common.logs import EventLog
from common.panel.config import IndicatorConfig

_log = EventLog("panel")

MAX_HISTORY = 1_000
"""Changes of level that a mock pin remembers."""


class PanelError(BrambleError, OSError):
    """A pin that can't be driven; the text names the indicator, the pin and the reason."""


class Output(Protocol):
    """One indicator's level. `set` and `close` may raise PanelError; `close` switches off and may be called twice."""

    @property
    def mock(self) -> bool:
        """Whether no real pin is behind it."""
        ...

    @property
    def on(self) -> bool:
        """The level last set."""
        ...

    def set(self, on: bool) -> None:
        """Switch the indicator."""
        ...

    def history(self) -> list[tuple[float, bool]]:
        """The last changes of a mock pin as (seconds since the change before, on); empty for a real one."""
        ...

    def close(self) -> None:
        """Switch off and give the pin back."""
        ...


class PinFactory(Protocol):
    """gpiozero.pins.Factory, as far as it is used here."""

    def close(self) -> None:
        """Release all pins."""
        ...


def open_factory(work_dir: Path | None = None, devices: Path = Path("/dev")) -> tuple[PinFactory, bool, str]:
    """A pin factory, whether it is gpiozero's mock, and why.

    The mock is used when GPIOZERO_PIN_FACTORY=mock asks for it, when `devices` has no gpiochip, or when the pins
    can't be opened. `work_dir` is where lgpio may write its notification pipe (gpiozero#1106).
    """
    try:
        from gpiozero.pins.mock import MockFactory
    except ImportError:
        raise PanelError("indicators need gpiozero: install bramble-fleet[hub]") from None
    if os.environ.get("GPIOZERO_PIN_FACTORY") == "mock":
        return MockFactory(), True, "GPIOZERO_PIN_FACTORY=mock"
    if not any(devices.glob("gpiochip*")):
        return MockFactory(), True, f"no GPIO chip in {devices}"
    if work_dir is not None:
        os.environ.setdefault("LG_WD", str(work_dir))
    problem = ""
    # The Pi 5's header moved from gpiochip4 to gpiochip0 with the kernel (gpiozero#1166): first the library's guess.
    for chip in (None, 0):
        try:
            from gpiozero.pins.lgpio import LGPIOFactory

            return (LGPIOFactory() if chip is None else LGPIOFactory(chip=chip)), False, "lgpio"
        except ImportError:
            problem = "lgpio is not installed"
            break
        except Exception as err:  # noqa: BLE001 - lgpio raises its own untyped errors; the lamp must not stop the hub
            problem = f"{type(err).__name__}: {err}"
    return MockFactory(), True, f"the GPIO pins can't be opened: {problem}"


class GpioOutput:
    """An LED or buzzer on a gpiozero pin; off when made."""

    def __init__(self, config: IndicatorConfig, factory: PinFactory, mock: bool) -> None:
        from gpiozero import DigitalOutputDevice, GPIOZeroError

        self._error = GPIOZeroError
        self._config = config
        self._mock = mock
        try:
            self._device = DigitalOutputDevice(
                config.pin, active_high=config.active_high, initial_value=False, pin_factory=factory
            )
        except (GPIOZeroError, OSError) as err:
            raise PanelError(f'indicator "{config.name}" on GPIO{config.pin}: {err}') from None
        self._on = False

    @property
    def mock(self) -> bool:
        """See Output."""
        return self._mock

    @property
    def on(self) -> bool:
        """See Output."""
        return self._on

    def set(self, on: bool) -> None:
        """See Output; a level that is already there is not written again."""
        if on == self._on:
            return
        try:
            if on:
                self._device.on()
            else:
                self._device.off()
        except (self._error, OSError) as err:
            raise PanelError(f'indicator "{self._config.name}" on GPIO{self._config.pin}: {err}') from None
        self._on = on
        if self._mock and len(self._device.pin.states) > 2 * MAX_HISTORY:
            del self._device.pin.states[:-MAX_HISTORY]

    def history(self) -> list[tuple[float, bool]]:
        """See Output."""
        if not self._mock or self._device.closed:
            return []
        high = self._config.active_high
        return [(state.timestamp, bool(state.state) == high) for state in self._device.pin.states[-MAX_HISTORY:]]

    def close(self) -> None:
        """See Output."""
        if self._device.closed:
            return
        try:
            self.set(False)
        finally:
            self._device.close()
