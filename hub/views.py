"""What the API and the page see of targets, agents and indicators: read from the running parts, on the event loop."""

from collections.abc import Sequence
from itertools import chain, islice

from common.clock import Clock
from common.labels import Labels
from common.sample import MetricMeta
from common.tsdb.querier import Querier
from hub.api.state import ActiveTarget, DroppedTarget, FleetRow, Health
from hub.discovery.mdns import SERVICE, MdnsBrowser
from hub.discovery.static import ADDRESS
from hub.fleet import JOB, Device, Fleet, State
from hub.intake.scrape import ScrapeManager

POOL = "bramble"
DISCOVERY_POOL = "bramble-discovery"
MAX_DROPPED = 10_000


def _health(ok: bool | None) -> Health:
    return Health.UNKNOWN if ok is None else Health.UP if ok else Health.DOWN


class Targets:
    """Scraped targets and agents, as `/api/v1/targets` has them."""

    def __init__(
        self,
        fleet: Fleet,
        scrapes: ScrapeManager,
        browser: MdnsBrowser | None,
        querier: Querier,
        clock: Clock,
        timeout_ms: int,
    ) -> None:
        self._fleet = fleet
        self._scrapes = scrapes
        self._browser = browser
        self._querier = querier
        self._clock = clock
        self._timeout = timeout_ms

    def active(self) -> Sequence[ActiveTarget]:
        """See TargetsView; mDNS is listed when it does not work."""
        found = [
            ActiveTarget(
                discovered_labels=state.target.discovered.to_dict(),
                labels=state.target.labels,
                scrape_pool=state.target.job.job_name,
                scrape_url=state.target.url,
                health=_health(state.ok),
                interval_ms=state.target.interval,
                timeout_ms=state.target.timeout,
                last_error=state.error,
                last_scrape=state.last_scrape,
                last_duration=state.last_duration,
            )
            for state in self._scrapes.states()
        ]
        found.extend(map(self._device, sorted(self._fleet.devices.values(), key=lambda d: d.instance)))
        found.extend(
            ActiveTarget(
                discovered_labels={ADDRESS: stranger.address, "job": JOB},
                labels=Labels.of(job=JOB, instance=stranger.address),
                scrape_pool=POOL,
                scrape_url=f"http://{stranger.address}/federate",
                health=_health(stranger.ok),
                interval_ms=self._fleet.interval_ms,
                timeout_ms=self._timeout,
                last_error=stranger.error,
                last_scrape=stranger.last_attempt,
                last_duration=stranger.last_duration,
            )
            for stranger in list(self._fleet.strangers.values())
        )
        if self._browser is not None and self._browser.problem:
            found.append(
                ActiveTarget(
                    discovered_labels={ADDRESS: SERVICE},
                    labels=Labels.of(job=DISCOVERY_POOL),
                    scrape_pool=DISCOVERY_POOL,
                    scrape_url=f"mdns://{SERVICE}",
                    health=Health.DOWN,
                    interval_ms=self._fleet.interval_ms,
                    timeout_ms=self._timeout,
                    last_error=f"{self._browser.problem}; only agents listed in bramble.agents are found",
                )
            )
        return found

    def _device(self, device: Device) -> ActiveTarget:
        return ActiveTarget(
            discovered_labels={
                ADDRESS: device.address,
                "job": JOB,
                "__meta_bramble_id": device.key,
                "__meta_bramble_host": device.host,
                "__meta_bramble_found_by": device.via,
            },
            labels=device.labels,
            scrape_pool=POOL,
            scrape_url=f"http://{device.address}/federate",
            health=_health(device.ok),
            interval_ms=self._fleet.interval_ms,
            timeout_ms=self._timeout,
            last_error=device.error,
            last_scrape=device.last_attempt,
            last_duration=device.last_duration,
        )

    def dropped(self) -> Sequence[DroppedTarget]:
        """See TargetsView."""
        found = islice(self._scrapes.dropped(), MAX_DROPPED)
        return [DroppedTarget(discovered_labels=labels.to_dict(), scrape_pool=job) for job, labels in found]

    def pools(self) -> Sequence[str]:
        """See TargetsView."""
        agents = self._browser is not None or self._fleet.devices or self._fleet.strangers
        return [*self._scrapes.jobs(), *((POOL,) if agents else ())]

    def metadata(self, labels: Labels) -> Sequence[MetricMeta]:
        """See TargetsView."""
        for state in self._scrapes.states():
            if state.target.labels == labels:
                return state.meta
        if any(device.labels == labels for device in self._fleet.devices.values()):
            return list(chain.from_iterable(self._querier.metadata().values()))
        return ()


class FleetRows:
    """The agents, as the page and `/api/v1/bramble/fleet` have them."""

    def __init__(self, fleet: Fleet, clock: Clock) -> None:
        self._fleet = fleet
        self._clock = clock

    def rows(self) -> Sequence[FleetRow]:
        """See FleetView."""
        wall, now = self._clock.now(), self._clock.monotonic()
        rows = []
        for device in self._fleet.devices.values():
            status = self._fleet.status(device, wall, now)
            rows.append(
                FleetRow(
                    source=device.key,
                    instance=device.instance,
                    url=f"http://{device.address}",
                    state=status.state.value,
                    reason=status.reason,
                    labels=device.labels,
                    discovered_by=device.via,
                    last_sample=device.newest,
                    last_contact=device.last_contact,
                    lag_ms=status.lag_ms,
                    series=device.series,
                    samples_per_second=device.rate,
                    pending=device.backlog.pending,
                    gone=device.backlog.gone,
                )
            )
        return sorted(rows, key=lambda row: row.instance)

    def by_state(self) -> dict[State, int]:
        """How many devices are in each state; may be asked by any thread."""
        wall, now = self._clock.now(), self._clock.monotonic()
        counts = dict.fromkeys(State, 0)
        for device in list(self._fleet.devices.values()):
            counts[self._fleet.status(device, wall, now).state] += 1
        return counts
