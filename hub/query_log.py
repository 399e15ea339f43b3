"""The query log (`global.query_log_file`): every query of the API and of rules as one JSON line, as Prometheus's.

Lines are appended where the queries run, off the event loop. A file that was moved away is opened anew by its name with
the next query. What the disk refuses is counted and said once, and costs no query anything.
"""

import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge

from common.clock import Clock
from common.errors import StorageError
from common.logs import EventLog
from common.promql.engine import Took
from common.sample import Millis
from common.times import rfc3339_millis

NOTHING = Took()
MAX_QUERY_BYTES = 1 << 20
"""Longer queries are cut in the log."""

_log = EventLog("query_log")


@dataclass(frozen=True, slots=True)
class Logged:
    """What the log says of one query: times in ms (step 0 at one instant), seconds queued and evaluating, samples.

    `origin` is where it came from: `httpRequest` or `ruleGroup` with their fields.
    """

    query: str
    start: int
    end: int
    step: int
    queued: float
    spent: float
    samples: int
    peak: int
    origin: Mapping[str, object]
    error: str = ""
    took: Took = NOTHING


def timings(queued: float, spent: float, took: Took) -> dict[str, object]:
    """Prometheus's timings of a query, in seconds: `spent` of the whole evaluation, `took` of its parts."""
    return {
        "evalTotalTime": spent,
        "resultSortTime": took.sorting,
        "queryPreparationTime": took.preparing,
        "innerEvalTime": took.evaluating,
        "execQueueTime": queued,
        "execTotalTime": queued + spent,
    }


def line(entry: Logged, now: Millis) -> bytes:
    """One line of the log."""
    fields: dict[str, object] = {
        "time": rfc3339_millis(now),
        "level": "INFO",
        "source": "query_log.py",
        "msg": "promql query logged",
        "params": {
            "end": rfc3339_millis(entry.end),
            "query": _text(entry.query, MAX_QUERY_BYTES),
            "start": rfc3339_millis(entry.start),
            "step": entry.step // 1000,
        },
    }
    if entry.error:
        fields["error"] = _text(entry.error, MAX_QUERY_BYTES)
    fields["stats"] = {
        "timings": timings(entry.queued, entry.spent, entry.took),
        "samples": {"totalQueryableSamples": entry.samples, "peakSamples": entry.peak},
    }
    fields["spanID"] = "0000000000000000"
    return orjson.dumps(fields | dict(entry.origin)) + b"\n"


def _text(text: str, limit: int) -> str:
    return text[:limit].encode("utf-8", "replace").decode("utf-8")


class QueryLog:
    """The file, switched on by `follow`. `write` may be called from any thread."""

    def __init__(self, clock: Clock, registry: CollectorRegistry) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._path: Path | None = None
        self._file = -1
        self._key: tuple[int, int] | None = None
        self._torn = False
        self._failing = False
        Gauge(
            "prometheus_engine_query_log_enabled", "Whether queries are logged (1) or not (0).", registry=registry
        ).set_function(lambda: float(self._path is not None))
        self._failures = Counter(
            "prometheus_engine_query_log_failures", "Queries that could not be logged.", registry=registry
        )

    @property
    def enabled(self) -> bool:
        """Whether queries are logged."""
        return self._path is not None

    def follow(self, path: Path | None) -> None:
        """Log into this file from now on, None for none; StorageError if it can't be opened, all stays as it was."""
        with self._lock:
            file = -1 if path is None else self._opened(path)
            self._close()
            self._path, self._file, self._torn = path, file, False
            self._key = None if path is None else _identity(os.fstat(file))

    def close(self) -> None:
        """Log no more."""
        self.follow(None)

    def write(self, entry: Logged) -> None:
        """Append a line, if there is a file. Never fails."""
        if not self.enabled:
            return
        text = line(entry, self._clock.now())
        with self._lock:
            if self._path is None:
                return
            try:
                self._renew(self._path)
                self._append(text)
                self._failing = False
            except (OSError, StorageError) as err:
                self._failures.inc()
                if not self._failing:
                    _log.error("queries are not logged", file=self._path, error=err)
                self._failing = True

    def _renew(self, path: Path) -> None:
        """Open the file anew if another one, or none, has its name now."""
        try:
            same = _identity(os.stat(path)) == self._key  # noqa: PTH116 - a Path costs more than the call
        except FileNotFoundError:
            same = False
        if not same:
            file = self._opened(path)
            self._close()
            self._file, self._key, self._torn = file, _identity(os.fstat(file)), False

    def _append(self, text: bytes) -> None:
        rest = memoryview(b"\n" + text if self._torn else text)
        while rest:
            # A line that is cut by a full disk is ended before the next one.
            written = os.write(self._file, rest)
            self._torn = written < len(rest)
            rest = rest[written:]

    def _opened(self, path: Path) -> int:
        try:
            return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o640)
        except OSError as err:
            raise StorageError(f"cannot open {path} (query_log_file): {err.strerror}") from None

    def _close(self) -> None:
        if self._file >= 0:
            with suppress(OSError):
                os.close(self._file)
        self._file = -1


def _identity(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_dev, stat.st_ino
