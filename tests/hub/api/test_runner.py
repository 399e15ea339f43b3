"""Where queries run: short ones on the event loop, all others off it."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import QueryCanceledError
from common.tsdb.memory import MemoryQuerier
from common.tsdb.querier import RowBatch
from hub.api.runner import MAX_REMEMBERED, PATIENCE_SECONDS, SHORT_SECONDS, Cancel, QueryRunner
from hub.query_log import QueryLog
from tests.hub.api.conftest import Api

HERE = threading.main_thread()


def where(_: Cancel) -> threading.Thread:
    return threading.current_thread()


async def test_a_job_runs_on_the_event_loop_once_its_like_was_short(api: Api) -> None:
    runner = QueryRunner(api.state)
    assert await runner.run(where, like="a") is not HERE
    assert await runner.run(where, like="a") is HERE
    assert await runner.run(where, like="b") is not HERE


async def test_a_job_without_a_like_never_runs_on_the_event_loop(api: Api) -> None:
    runner = QueryRunner(api.state)
    assert [await runner.run(where) is HERE for _ in range(3)] == [False] * 3


async def test_a_job_whose_like_took_long_stays_off_the_event_loop(api: Api) -> None:
    runner = QueryRunner(api.state)

    def slow(_: Cancel) -> threading.Thread:
        api.clock.pass_by(2 * SHORT_SECONDS)
        return threading.current_thread()

    assert [await runner.run(slow, like="a") is HERE for _ in range(3)] == [False] * 3


async def test_a_job_that_takes_longer_than_its_like_is_begun_again_off_the_event_loop(api: Api) -> None:
    runner = QueryRunner(api.state)
    await runner.run(where, like="a")
    begun: list[threading.Thread] = []

    def longer(cancel: Cancel) -> str:
        begun.append(threading.current_thread())
        api.clock.pass_by(PATIENCE_SECONDS)
        if cancel.is_set():
            raise QueryCanceledError("query was canceled in expression evaluation")
        return "done"

    assert await runner.run(longer, like="a") == "done"
    assert await runner.run(longer, like="a") == "done"
    assert [each is HERE for each in begun] == [True, False, False]


async def test_a_job_does_not_wait_for_a_busy_store_on_the_event_loop(api: Api) -> None:
    busy = False
    api.configure(busy=lambda: busy)
    runner = QueryRunner(api.state)
    await runner.run(where, like="a")
    busy = True
    assert await runner.run(where, like="a") is not HERE
    busy = False
    assert await runner.run(where, like="a") is HERE


async def test_what_is_remembered_of_jobs_is_bounded(api: Api) -> None:
    runner = QueryRunner(api.state)
    for number in range(MAX_REMEMBERED + 1):
        await runner.run(where, like=number)
    assert len(runner._took) == 1


@pytest.mark.parametrize("logged", [False, True])
async def test_a_query_that_is_logged_stays_off_the_event_loop(api: Api, tmp_path: Path, logged: bool) -> None:
    places: list[bool] = []

    class Noting(MemoryQuerier):
        def select(self, *args: Any, **kwargs: Any) -> Iterator[RowBatch]:
            places.append(threading.current_thread() is HERE)
            return super().select(*args, **kwargs)

    log = QueryLog(api.clock, api.state.registry)
    log.follow(tmp_path / "queries.log" if logged else None)
    api.configure(querier=Noting(), query_log=log)
    for _ in range(2):
        await api.data("/api/v1/query", query="up")
    log.follow(None)
    assert places == [False, not logged]
