"""The admin API and the program's lifecycle over HTTP, behind their flags."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio

from common.labels import Matcher
from tests.hub.api.conftest import Api

ADMIN = ("delete_series?match[]=up", "clean_tombstones", "snapshot")


class Data:
    """Remembers what it was told to do."""

    def __init__(self) -> None:
        self.done: list[object] = []

    def delete(self, matchers: Sequence[Matcher], start: int, end: int) -> None:
        self.done.append(([str(each) for each in matchers], start, end))

    def clean_deletions(self) -> None:
        self.done.append("clean")

    def snapshot(self) -> str:
        return "20260101T000000Z-1"

    def empty_cache(self) -> None:
        self.done.append("cache")


class Program:
    """A program whose reload has this problem."""

    def __init__(self, problem: str = "") -> None:
        self.problem = problem
        self.ended = False

    async def reload(self) -> str:
        return self.problem

    def quit(self) -> None:
        self.ended = True


@pytest_asyncio.fixture
async def data(api: Api) -> AsyncIterator[Data]:
    made = Data()
    api.configure(admin=made)
    yield made
    await asyncio.get_running_loop().shutdown_default_executor()


async def post(api: Api, path: str) -> tuple[int, str]:
    response = await (await api.client()).post(path)
    return response.status, await response.text()


@pytest.mark.parametrize("path", [*(f"tsdb/{path}" for path in ADMIN), "bramble/drop_caches"])
async def test_without_its_flag_the_admin_api_is_disabled(api: Api, path: str) -> None:
    status, text = await post(api, f"/api/v1/admin/{path}")
    assert status == 503
    assert "admin APIs disabled" in text


async def test_series_of_all_selectors_are_deleted_between_the_times(api: Api, data: Data) -> None:
    path = "/api/v1/admin/tsdb/delete_series?match[]=up&match[]={a%3D%22b%22}&start=1&end=2.5"
    assert await post(api, path) == (204, "")
    assert data.done == [(['__name__="up"'], 1000, 2500), (['a="b"'], 1000, 2500)]


async def test_what_to_delete_may_be_told_in_the_form_of_a_put(api: Api, data: Data) -> None:
    client = await api.client()
    response = await client.put("/api/v1/admin/tsdb/delete_series", data={"match[]": "up", "start": "1", "end": "2"})
    assert response.status == 204
    assert data.done == [(['__name__="up"'], 1000, 2000)]


@pytest.mark.parametrize(
    "query", ["", "?match[]=", "?match[]={a%3D%22%22}", "?match[]=up&start=x", "?match[]=up&start=2&end=1"]
)
async def test_nothing_is_deleted_for_a_wrong_request(api: Api, data: Data, query: str) -> None:
    assert (await post(api, f"/api/v1/admin/tsdb/delete_series{query}"))[0] == 400
    assert data.done == []


async def test_tombstones_are_cleaned_snapshots_named_caches_dropped(api: Api, data: Data) -> None:
    assert (await post(api, "/api/v1/admin/tsdb/clean_tombstones"))[0] == 204
    assert "20260101T000000Z-1" in (await post(api, "/api/v1/admin/tsdb/snapshot"))[1]
    assert (await post(api, "/api/v1/admin/bramble/drop_caches"))[0] == 204
    assert data.done == ["clean", "cache"]


async def test_reading_changes_nothing(api: Api, data: Data) -> None:
    response = await (await api.client()).get("/api/v1/admin/tsdb/delete_series?match[]=up")
    assert response.status == 405
    assert data.done == []


async def test_lifecycle_is_forbidden_without_its_flag(api: Api) -> None:
    assert (await post(api, "/-/reload"))[0] == 403
    assert (await post(api, "/-/quit"))[0] == 403


async def test_a_reload_that_fails_says_why(api: Api) -> None:
    api.configure(lifecycle=Program("hub.yml:1:1: broken"))
    assert await post(api, "/-/reload") == (500, "failed to reload config: hub.yml:1:1: broken\n")


async def test_reload_and_quit(api: Api) -> None:
    program = Program()
    api.configure(lifecycle=program)
    assert (await post(api, "/-/reload"))[0] == 200
    assert (await post(api, "/-/quit"))[0] == 200
    assert program.ended
