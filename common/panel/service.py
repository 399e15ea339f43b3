"""Shows the state of alerts on indicators: what fires now, not what happened."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.clock import Clock
from common.labels import Labels
from common.logs import EventLog
from common.panel.config import IndicatorConfig, choose
from common.panel.outputs import GpioOutput, Output, PanelError, PinFactory, open_factory
from common.panel.patterns import PATTERNS, PatternName

_log = EventLog("panel")

LOOK_AGAIN_SECONDS = 1.0
"""How long a change of the alerts may stay unseen."""


@dataclass(frozen=True, slots=True)
class Lamp:
    """One indicator: `pin` is BCM, `pattern` the name of what it shows, `on` its level now, `mock`: no real pin."""

    name: str
    pin: int
    pattern: str
    on: bool
    mock: bool
    reason: str = ""


@dataclass(slots=True)
class _Channel:
    config: IndicatorConfig
    output: Output
    pattern: PatternName
    reason: str = ""
    broken: str = ""


class Panel:
    """A service that drives indicators from `firing`, which answers the labels of all firing alerts at once."""

    name = "panel"

    def __init__(
        self,
        indicators: Sequence[tuple[IndicatorConfig, Output]],
        firing: Callable[[], Sequence[Labels]],
        clock: Clock,
    ) -> None:
        self._channels = [_Channel(config, output, config.idle) for config, output in indicators]
        self._firing = firing
        self._clock = clock

    def lamps(self) -> list[Lamp]:
        """What each indicator shows now."""
        return [
            Lamp(
                name=each.config.name,
                pin=each.config.pin,
                pattern=each.pattern.value,
                on=each.output.on,
                mock=each.output.mock,
                reason=each.broken or each.reason,
            )
            for each in self._channels
        ]

    def update(self) -> float:
        """Choose patterns, set levels; seconds until the next call is due."""
        firing = self._firing()
        now = self._clock.monotonic()
        wait = LOOK_AGAIN_SECONDS
        for each in self._channels:
            pattern, each.reason = choose(each.config, firing)
            if pattern is not each.pattern:
                _log.info("indicator changes", indicator=each.config.name, pattern=pattern.value, why=each.reason)
                each.pattern = pattern
            shape = PATTERNS[pattern]
            self._drive(each, shape.on(now))
            change = shape.next_change(now)
            if change is not None:
                wait = min(wait, change)
        # Rounding must not wake us just before the change, over and over.
        return wait + 0.001

    def _drive(self, channel: _Channel, on: bool) -> None:
        try:
            channel.output.set(on)
        except PanelError as err:
            if not channel.broken:
                _log.error("indicator failed", error=err)
            channel.broken = str(err)
        else:
            if channel.broken:
                _log.info("indicator works again", indicator=channel.config.name)
            channel.broken = ""

    async def run(self) -> None:
        """Drive the indicators until cancelled, then switch all off."""
        try:
            while True:
                await self._clock.sleep(self.update())
        finally:
            self.off()

    def off(self) -> None:
        """All indicators to their safe state, off; errors are logged."""
        for each in self._channels:
            self._drive(each, False)

    def close(self) -> None:
        """Switch off and give the pins back."""
        for each in self._channels:
            try:
                each.output.close()
            except PanelError as err:
                _log.error("indicator failed", error=err)


class Pins:
    """The pins of this machine, or gpiozero's mock of them; closing is idempotent."""

    def __init__(self, factory: PinFactory, mock: bool) -> None:
        self._factory = factory
        self.mock = mock

    @classmethod
    def open(cls, work_dir: Path | None = None) -> "Pins":
        """Real pins where there are any; the log says why not. lgpio may write into `work_dir`."""
        factory, mock, why = open_factory(work_dir)
        _log.info("indicators use mock pins" if mock else "indicators use GPIO pins", why=why)
        return cls(factory, mock)

    def outputs(self, indicators: Sequence[IndicatorConfig]) -> list[tuple[IndicatorConfig, Output]]:
        """An output for each indicator; one whose pin can't be had is left out and logged."""
        opened: list[tuple[IndicatorConfig, Output]] = []
        for config in indicators:
            try:
                opened.append((config, GpioOutput(config, self._factory, self.mock)))
            except PanelError as err:
                _log.error("indicator left out", error=err)
        return opened

    def close(self) -> None:
        """Release the pins."""
        self._factory.close()
