"""Configuration of indicators (`bramble.indicators`), and which pattern the alerts call for: pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from common.config import FieldError, option
from common.labels import Labels
from common.panel.patterns import PatternName

MAX_PIN = 27
MAX_INDICATORS = 28


class IndicatorKind(StrEnum):
    """What hangs on the pin."""

    LED = "led"
    BUZZER = "buzzer"


@dataclass(frozen=True, slots=True)
class IndicatorConfig:
    """One lamp or buzzer and the alerts it shows."""

    name: str = field(metadata=option("name, shown on the page and by the API"))
    pin: int = field(metadata=option("GPIO number as the SoC counts (BCM), 0 to 27"))
    kind: IndicatorKind = field(default=IndicatorKind.LED, metadata=option("led or buzzer"))
    active_high: bool = field(default=True, metadata=option("false where the pin's low level switches on"))
    labels: dict[str, str] = field(
        default_factory=dict, metadata=option("labels an alert must have to be shown here; none: all alerts")
    )
    severities: dict[str, PatternName] = field(
        default_factory=lambda: {"critical": PatternName.BLINK_FAST},
        metadata=option("pattern while an alert with this `severity` label fires; the first that applies wins"),
    )
    firing: PatternName = field(default=PatternName.BLINK_SLOW, metadata=option("pattern while any other alert fires"))
    idle: PatternName = field(default=PatternName.OFF, metadata=option("pattern while no alert fires"))

    def __post_init__(self) -> None:
        """A name and a pin of the 40-pin header."""
        if not self.name:
            raise FieldError("name", "expected a name")
        if not 0 <= self.pin <= MAX_PIN:
            raise FieldError("pin", f"expected a GPIO number from 0 to {MAX_PIN}, got {self.pin}")


DEFAULT_INDICATORS: tuple[IndicatorConfig, ...] = (IndicatorConfig(name="alerts", pin=17),)
"""Without configuration: one lamp on GPIO17 (pin 11 of the header), blinking while anything fires."""


def check_indicators(indicators: Sequence[IndicatorConfig]) -> None:
    """ValueError if two indicators share a name or a pin, or there are more than pins."""
    if len(indicators) > MAX_INDICATORS:
        raise ValueError(f"more than {MAX_INDICATORS} indicators")
    names: set[str] = set()
    pins: dict[int, str] = {}
    for each in indicators:
        if each.name in names:
            raise ValueError(f'two indicators are named "{each.name}"')
        if each.pin in pins:
            raise ValueError(f'indicators "{pins[each.pin]}" and "{each.name}" share GPIO{each.pin}')
        names.add(each.name)
        pins[each.pin] = each.name


def choose(indicator: IndicatorConfig, firing: Sequence[Labels]) -> tuple[PatternName, str]:
    """The pattern that these firing alerts call for, and why in words (`2 firing: HostDown, CpuBusy`)."""
    shown = [labels for labels in firing if _applies(indicator.labels, labels)]
    if not shown:
        return indicator.idle, ""
    names = sorted({labels.get("alertname") for labels in shown})
    listed = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    reason = f"{len(shown)} firing: {listed}"
    severities = {labels.get("severity") for labels in shown}
    for severity, pattern in indicator.severities.items():
        if severity in severities:
            return pattern, reason
    return indicator.firing, reason


def _applies(wanted: Mapping[str, str], labels: Labels) -> bool:
    return all(labels.get(name) == value for name, value in wanted.items())
