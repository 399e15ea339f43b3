"""The event loop's own pulse: a heartbeat for the watchdog, and how late the loop is for those who wait on it."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Histogram

from common.clock import Clock

INTERVAL_SECONDS = 0.1
BEAT_SECONDS = 30.0
"""The loop is held to be stuck if it does not turn for so long."""
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Pulse:
    """A service that wakes ten times a second and measures how late it was."""

    name = "loop"

    def __init__(
        self,
        clock: Clock,
        registry: CollectorRegistry,
        beat: Callable[[str, float], None] = lambda name, within: None,
    ) -> None:
        self._clock = clock
        self._beat = beat
        self._lag = Histogram(
            "bramble_hub_event_loop_lag_seconds",
            "How late the event loop woke a task that slept, ten times a second.",
            registry=registry,
            buckets=BUCKETS,
        )

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            self._beat(self.name, BEAT_SECONDS)
            due = self._clock.monotonic() + INTERVAL_SECONDS
            await self._clock.sleep(INTERVAL_SECONDS)
            self._lag.observe(max(0.0, self._clock.monotonic() - due))
