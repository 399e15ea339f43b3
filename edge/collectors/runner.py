"""Runs collectors one after another off the caller's thread, so that a hung one costs its deadline and no more."""

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from common.clock import Clock
from common.errors import ConfigError
from common.exposition.model import Desc, Reading
from common.logs import EventLog
from common.sample import MetricType
from edge.collectors.background import BackgroundCollector
from edge.collectors.base import Collector, NoDataError

_log = EventLog("collectors")

DURATION = Desc(
    "node_scrape_collector_duration_seconds",
    MetricType.GAUGE,
    "node_exporter: Duration of a collector scrape.",
    ("collector",),
)
SUCCESS = Desc(
    "node_scrape_collector_success",
    MetricType.GAUGE,
    "node_exporter: Whether a collector succeeded.",
    ("collector",),
)
SKIPPED = Desc(
    "bramble_collector_skipped_readings_total",
    MetricType.COUNTER,
    "Readings that a collector had to leave out because their source failed or made no sense.",
    ("collector",),
)
SCRAPE = "scrape"
"""Name of the last result of every run: how the other collectors fared."""

MAX_SKIPS_REMEMBERED = 1024
"""Subjects a collector's failures are remembered by, for logging on change; beyond, they are only counted."""


class Outcome(StrEnum):
    """How one run of a collector ended."""

    OK = "ok"
    NO_DATA = "no data"
    FAILED = "failed"
    HUNG = "hung"


@dataclass(frozen=True, slots=True)
class CollectorResult:
    """One collector's share of a scrape; `duration` in seconds, `error` empty unless the outcome needs words."""

    name: str
    success: bool
    duration: float
    samples: list[Reading]
    outcome: Outcome = Outcome.OK
    error: str = ""


class _Slot:
    """A collector with what the runner remembers of it."""

    __slots__ = ("busy_since", "collector", "outcome", "previous", "seen", "skipped")

    def __init__(self, collector: Collector) -> None:
        self.collector = collector
        self.busy_since: float | None = None
        self.outcome = Outcome.OK
        self.previous: dict[str, str] = {}
        self.seen: dict[str, str] = {}
        self.skipped = 0

    def skip(self, what: str, error: Exception) -> None:
        """Count a lost reading; the first of its kind will be logged."""
        self.skipped += 1
        if len(self.seen) < MAX_SKIPS_REMEMBERED:
            self.seen[what] = str(error) or type(error).__name__


class _Batch:
    """The collectors of one scrape, worked off in order by one thread."""

    def __init__(self, slots: Sequence[_Slot]) -> None:
        self.slots = slots
        self.results: dict[int, CollectorResult] = {}
        self.next = 0
        self.done = threading.Event()


class _Worker(threading.Thread):
    """Takes batches until told to stop, or until it was abandoned inside a hung collector."""

    def __init__(self, runner: "Runner") -> None:
        super().__init__(name="collectors", daemon=True)
        self.runner = runner
        self.wake = threading.Semaphore(0)
        self.batch: _Batch | None = None
        self.abandoned = threading.Event()
        self.stopping = False

    def run(self) -> None:
        while True:
            self.wake.acquire()
            if self.stopping:
                return
            batch = self.batch
            if batch is not None:
                while self.runner._step(self, batch):
                    pass
                if self.abandoned.is_set():
                    return
                self.batch = None
                batch.done.set()


class Runner:
    """Runs collectors; `collect` blocks and may be called from several threads (they take turns)."""

    def __init__(self, collectors: Sequence[Collector], clock: Clock, deadline: float = 3.0) -> None:
        """`deadline`: seconds after which a collector is reported as hung and left alone until it returns."""
        self._clock = clock
        self._deadline = deadline
        self._slots = {collector.name: _Slot(collector) for collector in collectors}
        self._turn = threading.Lock()
        self._state = threading.Lock()
        self._worker: _Worker | None = None
        self._closed = False
        for collector in collectors:
            collector.start()

    @property
    def names(self) -> list[str]:
        """Names of all collectors, in their order."""
        return list(self._slots)

    @property
    def descs(self) -> list[Desc]:
        """All metric families known beforehand, the runner's own included."""
        return [*(d for slot in self._slots.values() for d in slot.collector.descs), DURATION, SUCCESS, SKIPPED]

    def select(self, collect: Sequence[str], exclude: Sequence[str]) -> list[str]:
        """Names for `?collect[]=` and `?exclude[]=`; ConfigError for an unknown name or for both at once."""
        if collect and exclude:
            raise ConfigError("Combined collect and exclude queries are not allowed.")
        for name in (*collect, *exclude):
            if name not in self._slots:
                raise ConfigError(f"missing or disabled collector: {name}")
        if collect:
            return [name for name in self._slots if name in collect]
        return [name for name in self._slots if name not in exclude]

    def background(self) -> list[BackgroundCollector]:
        """The collectors that read on a thread of their own: each is a lane, its rounds come by `latest()`."""
        return [s.collector for s in self._slots.values() if isinstance(s.collector, BackgroundCollector)]

    def outcomes(self) -> dict[str, Outcome]:
        """How each collector's last run ended."""
        return {name: slot.outcome for name, slot in self._slots.items()}

    def collect(self, names: Collection[str] | None = None) -> list[CollectorResult]:
        """Run the named collectors (None: all) and return their results in order, `SCRAPE` last."""
        with self._turn:
            if self._closed:
                return []
            slots = [slot for name, slot in self._slots.items() if names is None or name in names]
            batch = _Batch(slots)
            if slots:
                self._drive(batch)
            results = [batch.results[i] for i in range(len(slots))]
            for slot, result in zip(slots, results, strict=True):
                self._note(slot, result)
            shown = [
                (slot, result)
                for slot, result in zip(slots, results, strict=True)
                if not (slot.collector.silent_without_data and result.outcome is Outcome.NO_DATA)
            ]
            samples: list[Reading] = [
                *((DURATION, (result.name,), result.duration) for _, result in shown),
                *((SUCCESS, (result.name,), 1.0 if result.success else 0.0) for _, result in shown),
                *((SKIPPED, (result.name,), float(slot.skipped)) for slot, result in shown),
            ]
            results.append(CollectorResult(SCRAPE, True, sum(r.duration for r in results), samples))
            return results

    def close(self) -> None:
        """Stop the thread and close the collectors; one that hangs now is left behind as a daemon thread."""
        with self._turn:
            if self._closed:
                return
            self._closed = True
            worker, self._worker = self._worker, None
            if worker is not None:
                worker.stopping = True
                worker.wake.release()
                worker.join(self._deadline)
            for slot in self._slots.values():
                if slot.busy_since is None:
                    slot.collector.close()

    def _drive(self, batch: _Batch) -> None:
        while True:
            worker = self._worker
            if worker is None:
                worker = self._worker = _Worker(self)
                worker.start()
            worker.batch = batch
            worker.wake.release()
            wait = self._deadline
            while not batch.done.wait(wait):
                with self._state:
                    if batch.done.is_set():
                        break
                    index = batch.next - 1
                    slot = batch.slots[max(index, 0)]
                    since = slot.busy_since
                    if index < 0 or since is None:
                        wait = self._deadline
                        continue
                    wait = since + self._deadline - self._clock.monotonic()
                    if wait > 0:
                        continue
                    worker.abandoned.set()
                    self._worker = None
                    batch.results[index] = CollectorResult(
                        slot.collector.name, False, self._deadline, [], Outcome.HUNG, "no answer within the deadline"
                    )
                break
            if batch.done.is_set():
                return

    def _step(self, worker: _Worker, batch: _Batch) -> bool:
        """Run the batch's next collector in the calling worker; False when there is none or it was abandoned."""
        with self._state:
            index = batch.next
            if worker.abandoned.is_set() or index >= len(batch.slots):
                return False
            batch.next += 1
            slot = batch.slots[index]
            began = self._clock.monotonic()
            if slot.busy_since is not None:
                error = f"still busy since {began - slot.busy_since:.0f} s"
                batch.results[index] = CollectorResult(slot.collector.name, False, 0.0, [], Outcome.HUNG, error)
                return True
            slot.busy_since = began
        samples: list[Reading] = []
        outcome, error = Outcome.OK, ""
        try:
            samples = slot.collector.collect(slot.skip)
        except NoDataError as err:
            outcome, error = Outcome.NO_DATA, str(err)
        except Exception as err:  # noqa: BLE001 - one broken collector must not cost the others
            outcome, error = Outcome.FAILED, f"{type(err).__name__}: {err}"
        with self._state:
            slot.busy_since = None
            if worker.abandoned.is_set():
                return False
            batch.results[index] = CollectorResult(
                slot.collector.name,
                outcome is Outcome.OK,
                self._clock.monotonic() - began,
                samples,
                outcome,
                error,
            )
        return True

    def _note(self, slot: _Slot, result: CollectorResult) -> None:
        """Log what changed since the collector's last run, once per change."""
        name = slot.collector.name
        if result.outcome is not slot.outcome:
            if result.outcome in (Outcome.FAILED, Outcome.HUNG):
                _log.error("collector failed", collector=name, outcome=result.outcome, error=result.error)
            elif result.outcome is Outcome.NO_DATA:
                _log.debug("collector has no data", collector=name, reason=result.error)
            elif slot.outcome is not Outcome.NO_DATA:
                _log.info("collector works again", collector=name)
            slot.outcome = result.outcome
        if result.outcome is Outcome.HUNG:
            return
        for what, error in slot.seen.items():
            if slot.previous.get(what) != error:
                _log.warn("reading skipped", collector=name, what=what, error=error)
        slot.previous, slot.seen = slot.seen, {}
