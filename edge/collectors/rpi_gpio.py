"""Inputs on the GPIO header that the settings name, by gpiozero, which is imported only if there are any."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from common.errors import ConfigError
from edge.collectors.base import COUNTER, GAUGE, Collector, Desc, NoDataError, Reading, Skip, flag

_LABELS = ("name", "line")
LEVEL = Desc("rpi_gpio_level", GAUGE, "Whether the input is active (pressed, closed, motion seen).", _LABELS)
ACTIVATIONS = Desc("rpi_gpio_activations_total", COUNTER, "How often the input became active.", _LABELS)
PULSES = Desc("rpi_gpio_pulses_total", COUNTER, "Pulses of a rain gauge, flow meter or the like.", _LABELS)
DISTANCE = Desc("rpi_gpio_distance_meters", GAUGE, "Distance by an ultrasonic sensor.", _LABELS)

KINDS = ("button", "digital_input", "motion", "pulse", "distance")
PULLS = ("up", "down", "none")
MAX_INPUTS = 64


@dataclass(frozen=True, slots=True)
class Input:
    """One input: `pins` are BCM numbers (echo and trigger of a distance sensor), debounce is seconds."""

    name: str
    kind: str
    pins: tuple[int, ...]
    pull: str
    debounce: float | None


def parse_input(text: str) -> Input:
    """Input of a flag value `NAME=KIND:PIN[:PULL[:DEBOUNCE_MS]]` (distance: `PIN/PIN`), else a ConfigError."""
    usage = f"--collector.rpi_gpio.input {text!r}: expected NAME=KIND:PIN[:PULL[:DEBOUNCE_MS]]"
    name, equals, rest = text.partition("=")
    kind, *more = rest.split(":")
    if not equals or not name or len(more) not in (1, 2, 3):
        raise ConfigError(f"{usage}, as door=button:17:up")
    if kind not in KINDS:
        raise ConfigError(f"{usage}; {kind!r} is not one of {', '.join(KINDS)}")
    pull = more[1] if len(more) > 1 else "up"
    if pull not in PULLS:
        raise ConfigError(f"{usage}; {pull!r} is not one of {', '.join(PULLS)}")
    try:
        pins = tuple(int(pin) for pin in more[0].split("/"))
        debounce = int(more[2]) / 1000.0 if len(more) > 2 else None
    except ValueError:
        raise ConfigError(f"{usage}; pins and the debounce time are whole numbers") from None
    if len(pins) != (2 if kind == "distance" else 1) or not all(0 <= pin <= 53 for pin in pins):
        raise ConfigError(f"{usage}; a distance sensor has two pins (ECHO/TRIGGER), all others one, from 0 to 53")
    return Input(name, kind, pins, pull, debounce)


class Device(Protocol):
    """What is used of gpiozero's input devices."""

    @property
    def is_active(self) -> bool: ...
    def close(self) -> None: ...


@dataclass(slots=True)
class _Watched:
    """An input with its device and how often it became active."""

    given: Input
    device: Any
    lock: threading.Lock = field(default_factory=threading.Lock)
    activations: int = 0

    def activated(self) -> None:
        """Called by gpiozero on its own thread."""
        with self.lock:
            self.activations += 1


@dataclass(frozen=True, slots=True)
class RpiGpioOptions:
    """Flags of the rpi_gpio collector."""

    inputs: tuple[str, ...] = flag(
        "collector.rpi_gpio.input",
        (),
        "GPIO input NAME=KIND:PIN[:PULL[:DEBOUNCE_MS]], pins by BCM number; kinds: button, digital_input, motion,"
        " pulse, distance (PIN/PIN); pulls: up, down, none. (repeatable)",
    )


class RpiGpioCollector(Collector):
    """rpi_gpio_*"""

    name = "rpi_gpio"
    silent_without_data = True
    options_type = RpiGpioOptions
    descs = (LEVEL, ACTIVATIONS, PULSES, DISTANCE)
    options: RpiGpioOptions

    def _prepare(self) -> None:
        self._inputs = [parse_input(text) for text in self.options.inputs]
        if len(self._inputs) > MAX_INPUTS:
            raise ConfigError(f"--collector.rpi_gpio.input: at most {MAX_INPUTS} inputs, got {len(self._inputs)}")
        names = [given.name for given in self._inputs]
        if len(set(names)) != len(names):
            raise ConfigError("--collector.rpi_gpio.input: two inputs have the same name")
        self._watched: dict[str, _Watched] = {}
        self.factory: Any = None
        """Pin factory of gpiozero; None: the machine's."""

    def close(self) -> None:
        for watched in self._watched.values():
            watched.device.close()
        self._watched.clear()

    def collect(self, skip: Skip) -> list[Reading]:
        if not self._inputs:
            raise NoDataError("no GPIO input is configured")
        readings: list[Reading] = []
        for given in self._inputs:
            line = "/".join(f"GPIO{pin}" for pin in given.pins)
            watched = self._watched.get(given.name) or self._claim(given, skip)
            if watched is None:
                continue
            labels = (given.name, line)
            try:
                if given.kind == "distance":
                    readings.append((DISTANCE, labels, float(watched.device.distance)))
                elif given.kind == "pulse":
                    readings.append((PULSES, labels, float(watched.activations)))
                else:
                    readings.append((LEVEL, labels, 1.0 if watched.device.is_active else 0.0))
                    readings.append((ACTIVATIONS, labels, float(watched.activations)))
            except Exception as err:  # noqa: BLE001 - gpiozero's backends raise errors of their own kinds
                skip(f"gpio {given.name}", err)
        return readings

    def _claim(self, given: Input, skip: Skip) -> _Watched | None:
        try:
            watched = _Watched(given, make_device(given, self.factory))
        except Exception as err:  # noqa: BLE001 - a line in use, no pins at all, a missing backend: each has its error
            skip(f"gpio {given.name}", err)
            return None
        if given.kind != "distance":
            watched.device.when_activated = watched.activated
        self._watched[given.name] = watched
        return watched


def make_device(given: Input, factory: Any) -> Any:
    """gpiozero's device for an input."""
    import gpiozero

    pull: bool | None = {"up": True, "down": False, "none": None}[given.pull]
    active: bool | None = True if pull is None else None
    common: dict[str, Any] = {"pin_factory": factory}
    makers: dict[str, Callable[[], Any]] = {
        "button": lambda: gpiozero.Button(
            given.pins[0], pull_up=pull, active_state=active, bounce_time=given.debounce, **common
        ),
        "digital_input": lambda: gpiozero.DigitalInputDevice(
            given.pins[0], pull_up=pull, active_state=active, bounce_time=given.debounce, **common
        ),
        "pulse": lambda: gpiozero.DigitalInputDevice(
            given.pins[0], pull_up=pull, active_state=active, bounce_time=given.debounce, **common
        ),
        "motion": lambda: gpiozero.MotionSensor(given.pins[0], pull_up=None, active_state=True, **common),
        "distance": lambda: gpiozero.DistanceSensor(echo=given.pins[0], trigger=given.pins[1], **common),
    }
    return makers[given.kind]()
