"""What the query log and the slow-query log get to know of the API's queries."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from aiohttp import web

from common.errors import BrambleError
from common.promql.engine import Result
from common.promql.errors import ParseError
from hub.api.envelope import ApiError, ErrorType
from hub.api.keys import STATE
from hub.query_log import NOTHING, Logged


@dataclass(slots=True)
class Query:
    """One query of the API: times in ms (step 0 at one instant), when it was asked (monotonic), its result."""

    text: str
    start: int
    end: int
    step: int
    asked: float
    result: Result | None = None


@contextmanager
def logged(request: web.Request, query: Query) -> Iterator[None]:
    """Around the evaluation, on its thread: log the query when it ends, unless it was none (did not parse)."""
    state = request.app[STATE]
    log = state.query_log
    if log is None or not log.enabled:
        yield
        return
    began = state.clock.monotonic()
    error = ""
    try:
        yield
    except ParseError:
        log = None
        raise
    except ApiError as err:
        if err.kind is ErrorType.BAD_DATA:
            log = None
        error = str(err)
        raise
    except BrambleError as err:
        error = str(err)
        raise
    finally:
        if log is not None:
            log.write(_entry(request, query, began - query.asked, state.clock.monotonic() - began, error))


def note_shared(request: web.Request, query: Query) -> None:
    """Log a query that another one's answer was good for; writing happens off the event loop."""
    state = request.app[STATE]
    log = state.query_log
    if log is not None and log.enabled:
        entry = _entry(request, query, state.clock.monotonic() - query.asked, 0.0, "")
        with suppress(RuntimeError):  # the hub is stopping
            state.executor.submit(log.write, entry)


def _entry(request: web.Request, query: Query, queued: float, spent: float, error: str) -> Logged:
    return Logged(
        query=query.text,
        start=query.start,
        end=query.end,
        step=query.step,
        queued=queued,
        spent=spent,
        samples=query.result.samples if query.result else 0,
        peak=query.result.peak_samples if query.result else 0,
        origin={
            "httpRequest": {"clientIP": request.remote or "", "method": request.method, "path": request.path},
        },
        error=error,
        took=query.result.took if query.result else NOTHING,
    )
