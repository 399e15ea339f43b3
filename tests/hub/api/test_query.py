"""`query`, `query_range` and their errors."""

import asyncio
import json
import math
import threading
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

from common.labels import Labels
from common.promql.engine import Engine, EngineOptions
from common.testing import until
from common.tsdb.memory import MemoryQuerier
from hub.api.app import make_app, make_runner
from hub.query_log import QueryLog
from tests.hub.api.conftest import T0, Api


async def test_a_vector_has_its_type_before_its_result_and_values_as_text(api: Api) -> None:
    api.fill()
    response = await (await api.client()).get("/api/v1/query", params={"query": 'up{instance="a"}', "time": T0 / 1000})
    assert await response.text() == (
        '{"status":"success","data":{"resultType":"vector","result":'
        '[{"metric":{"__name__":"up","instance":"a","job":"node"},"value":[1700000000,"1"]}]}}'
    )
    assert response.content_type == "application/json"


async def test_the_probe_of_grafana_succeeds(api: Api) -> None:
    assert await api.data("/api/v1/query", query="1+1", time="4") == {"resultType": "scalar", "result": [4, "2"]}


@pytest.mark.parametrize(("query", "text"), [("1e21", "1" + "0" * 21), ("-1e-7", "-0.0000001"), ("Inf", "+Inf")])
async def test_a_scalar_has_no_exponent(api: Api, query: str, text: str) -> None:
    # Unlike the samples of vectors, as in Prometheus.
    assert (await api.data("/api/v1/query", query=query, time="4"))["result"] == [4, text]
    vector = await api.data("/api/v1/query", query="vector(1e21)", time="4")
    assert vector["result"] == [{"metric": {}, "value": [4, "1e+21"]}]


async def test_a_query_may_be_posted_as_a_form(api: Api) -> None:
    response = await (await api.client()).post("/api/v1/query", data={"query": "1", "time": "1.5"})
    assert (await response.json())["data"]["result"] == [1.5, "1"]


async def test_a_posted_form_wins_over_the_url(api: Api) -> None:
    response = await (await api.client()).post("/api/v1/query?query=2&time=1", data={"query": "3"})
    assert (await response.json())["data"]["result"] == [1, "3"]


async def test_without_a_time_now_is_meant(api: Api) -> None:
    data = await api.data("/api/v1/query", query="1")
    assert data["result"][0] == api.clock.now() / 1000


async def test_a_string_is_answered(api: Api) -> None:
    data = await api.data("/api/v1/query", query='"a\\"<b>"', time="0")
    assert data == {"resultType": "string", "result": [0, 'a"<b>']}


async def test_a_range_vector_at_an_instant_is_a_matrix_of_its_samples(api: Api) -> None:
    api.fill()
    data = await api.data("/api/v1/query", query="temp[30s]", time=str(T0 / 1000 + 30))
    assert data["resultType"] == "matrix"
    assert data["result"][0]["values"] == [[T0 / 1000 + 15, "41.5"], [T0 / 1000 + 30, "42.5"]]


async def test_a_range_query_gives_rows_over_the_steps(api: Api) -> None:
    api.fill()
    data = await api.data(
        "/api/v1/query_range", query="temp", start=str(T0 / 1000), end=str(T0 / 1000 + 30), step="15s"
    )
    assert data == {
        "resultType": "matrix",
        "result": [
            {
                "metric": {"__name__": "temp", "instance": "a"},
                "values": [[T0 / 1000, "40.5"], [T0 / 1000 + 15, "41.5"], [T0 / 1000 + 30, "42.5"]],
            }
        ],
    }


async def test_special_values_are_written_as_prometheus_does(api: Api) -> None:
    for text, value in (("NaN", math.nan), ("+Inf", math.inf), ("-Inf", -math.inf), ("1e-09", 1e-9), ("1e+21", 1e21)):
        api.store.add(Labels.of(__name__="x", v=text), T0, value)
    data = await api.data("/api/v1/query", query="x", time=str(T0 / 1000))
    assert {row["metric"]["v"]: row["value"][1] for row in data["result"]} == {
        text: text for text in ("NaN", "+Inf", "-Inf", "1e-09", "1e+21")
    }


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"query": "up{"}, 'invalid parameter "query": 1:4: parse error: unexpected end of input inside braces'),
        ({"query": ""}, 'invalid parameter "query": unknown position: parse error: no expression found in input'),
        (
            {"query": "1", "time": "x"},
            'invalid parameter "time": invalid time value for \'time\': cannot parse "x" to a valid timestamp',
        ),
        ({"query": "1", "timeout": "x"}, 'invalid parameter "timeout": cannot parse "x" to a valid duration'),
        ({"query": "1", "limit": "x"}, 'invalid parameter "limit": strconv.Atoi: parsing "x": invalid syntax'),
        ({"query": "1", "limit": "-1"}, 'invalid parameter "limit": limit must be non-negative'),
        (
            {"query": "1", "lookback_delta": "x"},
            'error parsing lookback delta duration: cannot parse "x" to a valid duration',
        ),
    ],
)
async def test_a_malformed_instant_query_is_400_in_prometheuss_words(api: Api, params: dict, text: str) -> None:
    kind, error = await api.error("/api/v1/query", 400, **params)
    assert kind == "bad_data"
    assert error == text


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"start": "x"}, 'invalid parameter "start": cannot parse "x" to a valid timestamp'),
        ({"start": ""}, 'invalid parameter "start": cannot parse "" to a valid timestamp'),
        ({"end": "-1"}, 'invalid parameter "end": end timestamp must not be before start time'),
        ({"step": "x"}, 'invalid parameter "step": cannot parse "x" to a valid duration'),
        (
            {"step": "0"},
            (
                'invalid parameter "step": zero or negative query resolution step widths are not accepted. '
                "Try a positive integer"
            ),
        ),
        (
            {"step": "1", "end": "11001"},
            (
                "exceeded maximum resolution of 11,000 points per timeseries."
                " Try decreasing the query resolution (?step=XX)"
            ),
        ),
        (
            {"query": "up[5m]"},
            (
                'invalid parameter "query": invalid expression type "range vector" for range query, '
                "must be Scalar or instant Vector"
            ),
        ),
        ({"query": "1 +"}, 'invalid parameter "query": 1:4: parse error: unexpected end of input'),
    ],
)
async def test_a_malformed_range_query_is_400_in_prometheuss_words(api: Api, params: dict, text: str) -> None:
    given = {"query": "up", "start": "0", "end": "100", "step": "10", **params}
    assert await api.error("/api/v1/query_range", 400, **given) == ("bad_data", text)


async def test_eleven_thousand_steps_are_answered(api: Api) -> None:
    data = await api.data("/api/v1/query_range", query="1", start="0", end="11000", step="1")
    assert len(data["result"][0]["values"]) == 11_001


async def test_a_query_that_fails_while_evaluated_is_422(api: Api) -> None:
    api.fill()
    kind, error = await api.error(
        "/api/v1/query", 422, query='label_replace(up, "instance", "x", "", "")', time=T0 / 1000
    )
    assert kind == "execution"
    assert "same labelset" in error


async def test_a_limit_cuts_the_result_and_warns(api: Api) -> None:
    api.fill()
    body = await api.get("/api/v1/query", query="up", time=str(T0 / 1000), limit="1")
    assert len(body["data"]["result"]) == 1
    assert body["warnings"] == ["results truncated due to limit"]


async def test_lookback_delta_overrides_the_engines(api: Api) -> None:
    api.store.add(Labels.of(__name__="old"), T0, 1.0)
    at = str(T0 / 1000 + 100)
    assert (await api.data("/api/v1/query", query="old", time=at, lookback_delta="1m"))["result"] == []
    assert len((await api.data("/api/v1/query", query="old", time=at))["result"]) == 1


async def test_stats_count_samples_and_time_if_asked_for(api: Api) -> None:
    api.fill()
    data = await api.data("/api/v1/query", query="temp", time=str(T0 / 1000), stats="all")
    # At its peak the query holds the sample read and the cell made of it.
    assert data["stats"]["samples"] == {"totalQueryableSamples": 1, "peakSamples": 2}
    parts = {"queryPreparationTime", "innerEvalTime", "resultSortTime"}
    assert set(data["stats"]["timings"]) == {"evalTotalTime", "execQueueTime", "execTotalTime", *parts}


@pytest.mark.parametrize("asked", ["all", "true"])
@pytest.mark.parametrize("on", [True, False])
async def test_samples_are_told_by_step_if_all_is_asked_for_and_the_feature_is_on(
    api: Api, asked: str, on: bool
) -> None:
    api.fill()
    api.configure(engine=Engine(EngineOptions(features=frozenset({"promql-per-step-stats"} if on else ())), api.clock))
    form = {"start": str(T0 / 1000), "end": str(T0 / 1000 + 61.5), "step": "30.75"}
    data = await api.data("/api/v1/query_range", query="count_over_time(temp[1m])", stats=asked, **form)
    counts = [[when, int(count)] for when, count in data["result"][0]["values"]]
    samples = data["stats"]["samples"]
    assert samples["totalQueryableSamples"] == sum(count for _, count in counts) > 3
    assert samples.get("totalQueryableSamplesPerStep") == (counts if on and asked == "all" else None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("NaN", -9223372036.854),
        ("-Inf", -9223372036.854),
        ("1e300", 0),
        ("-1e300", 0),
        ("1e10", -8446744073.709),
        ("9999999999999", 1864712048.423),
        ("9223372036854775", 0.192),
        ("0001-01-01T00:00:00-23:59", -6795278238.871),
        ("0000-02-29T00:00:00Z", -6821889378.871),
        ("9999-12-31T23:59:59+14:00", -4852166632.933),
        ("0x1p4", 16),
        ("1_0.5_0", 10.5),
        ("1.0005", 1),
        ("2.0006", 2.001),
        ("292277025-08-18T07:12:54.999999999Z", -6795364579.679),
        ("-292273086-05-16T16:47:06Z", 6795364580.679),
    ],
)
async def test_times_wrap_around_as_in_prometheus(api: Api, text: str, seconds: float) -> None:
    assert (await api.data("/api/v1/query", query="1", time=text))["result"] == [seconds, "1"]


async def test_annotations_stand_beside_data(api: Api) -> None:
    api.fill()
    body = await api.get("/api/v1/query", query="rate(temp[1m])", time=str(T0 / 1000 + 60))
    assert body["infos"][0].startswith("PromQL info: metric might not be a counter")


async def test_ten_annotations_are_told_and_the_rest_counted(api: Api) -> None:
    api.fill()
    query = "quantile_over_time(time(), temp[1m])"
    for steps, told in ((10, 10), (11, 11)):
        end = str(T0 / 1000 + steps - 1)
        body = await api.get("/api/v1/query_range", query=query, start=str(T0 / 1000), end=end, step="1")
        assert len(body["warnings"]) == told
    assert body["warnings"][9:] == [
        "PromQL warning: quantile value should be between 0 and 1, got 1.700000009e+09 (1:20)",
        "1 more warning annotations omitted",
    ]


@pytest.mark.parametrize("text", ["2023-11-14T22:13:20Z", "2023-11-14T23:13:20.000+01:00", "1.7e9", "1700000000.0004"])
async def test_times_are_unix_or_rfc3339(api: Api, text: str) -> None:
    assert (await api.data("/api/v1/query", query="time()", time=text))["result"][1] == "1700000000"


async def test_negative_times_are_times(api: Api) -> None:
    assert (await api.data("/api/v1/query", query="1", time="-1.25"))["result"] == [-1.25, "1"]


async def test_a_query_is_formatted(api: Api) -> None:
    assert await api.data("/api/v1/format_query", query="sum( up )by(job)") == "sum by (job) (up)"
    assert (await api.error("/api/v1/format_query", 400, query="sum("))[0] == "bad_data"


async def test_a_query_is_parsed_to_its_tree(api: Api) -> None:
    tree = await api.data("/api/v1/parse_query", query='rate(up{a="b"}[5m] offset 1m)')
    assert tree["type"] == "call"
    assert tree["func"] == {"name": "rate", "argTypes": ["matrix"], "variadic": 0, "returnType": "vector"}
    selector = tree["args"][0]
    assert (selector["type"], selector["range"], selector["offset"]) == ("matrixSelector", 300_000, 60_000)
    assert {"name": "a", "value": "b", "type": "="} in selector["matchers"]


class Blocking:
    """A querier whose select waits until its budget is cancelled."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.started = asyncio.Event()
        self.ended = asyncio.Event()

    def select(self, matchers, start, end, hints=None, budget=None):
        self.loop.call_soon_threadsafe(self.started.set)
        try:
            while True:
                budget.charge(0)
                threading.Event().wait(0.005)
        finally:
            self.loop.call_soon_threadsafe(self.ended.set)


async def test_a_query_past_its_timeout_is_503_and_stops(api: Api) -> None:
    blocking = Blocking()
    api.configure(querier=blocking)
    kind, error = await api.error("/api/v1/query", 503, query="up", timeout="0.5")
    assert kind == "timeout"
    assert error == "query timed out in expression evaluation"
    await asyncio.wait_for(blocking.ended.wait(), 60)


async def test_a_query_stops_when_its_client_goes_away(api: Api) -> None:
    blocking = Blocking()
    api.configure(querier=blocking)
    request = asyncio.ensure_future((await api.client()).get("/api/v1/query", params={"query": "up"}))
    await asyncio.wait_for(blocking.started.wait(), 60)
    request.cancel()
    await asyncio.wait_for(blocking.ended.wait(), 60)


@pytest.mark.parametrize(("limit", "logged"), [(20_000, 1), (20_001, 0), (0, 0)])
async def test_a_query_as_slow_as_the_limit_is_logged_and_counted(
    api: Api, caplog: pytest.LogCaptureFixture, limit: int, logged: int
) -> None:
    class Slow(MemoryQuerier):
        def select(self, *args: Any) -> Any:
            api.clock._move(api.clock.monotonic() + 20)
            return super().select(*args)

    api.configure(querier=Slow(), slow_query_ms=lambda: limit)
    await api.data("/api/v1/query", query="up")
    found = [each.fields for each in caplog.records if each.name == "query"]  # type: ignore[attr-defined]
    assert [(each["query"], each["seconds"]) for each in found] == [("up", "20.0")] * logged
    assert api.state.registry.get_sample_value("bramble_hub_slow_queries_total") == logged


async def test_queries_are_logged_with_their_origin_and_outcome(api: Api, tmp_path: Path) -> None:
    api.fill()
    log = QueryLog(api.clock, api.state.registry)
    log.follow(tmp_path / "q.log")
    api.configure(query_log=log)
    await api.data("/api/v1/query", query="up", time=str(T0 / 1000))
    await api.data("/api/v1/query_range", query="up", start=str(T0 / 1000), end=str(T0 / 1000 + 60), step="30")
    await api.error("/api/v1/query", 422, query='label_replace(up, "a", "", "", "(")')
    await api.error("/api/v1/query", 400, query="sum(")
    log.close()
    first, second, third = map(json.loads, (tmp_path / "q.log").read_text().splitlines())
    assert first["httpRequest"] == {"clientIP": "127.0.0.1", "method": "GET", "path": "/api/v1/query"}
    at = "2023-11-14T22:13:20.000Z"
    assert first["params"] == {"end": at, "query": "up", "start": at, "step": 0}
    assert first["stats"]["samples"]["totalQueryableSamples"] > 0
    assert "error" not in first
    assert (second["params"]["end"], second["params"]["step"]) == ("2023-11-14T22:14:20.000Z", 30)
    assert "invalid regular expression" in third["error"]


async def test_a_body_that_never_ends_is_408(api: Api) -> None:
    api.limit(body_ms=50)
    client = await api.client()
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(
        b"POST /api/v1/query HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n\r\nquery="
    )
    assert (await reader.readline()).startswith(b"HTTP/1.1 408")
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_body_that_is_not_coded_as_it_says_is_400(api: Api, coding: str) -> None:
    client = await api.client()
    headers = {"Content-Encoding": coding, "Content-Type": "application/x-www-form-urlencoded"}
    response = await client.post("/api/v1/query", data=b"query=1&time=1", headers=headers)
    assert response.status == 400


async def test_a_query_of_some_length_may_be_asked_by_get_and_header_fields_may_be_long(api: Api) -> None:
    runner = make_runner(make_app(api.state))
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        async with ClientSession() as session:
            query = "1" + " " * 30_000
            async with session.get(
                f"http://127.0.0.1:{port}/api/v1/query",
                params={"query": query, "time": "1"},
                headers={"Cookie": "a" * 60_000},
            ) as response:
                assert (await response.json())["data"]["result"] == [1, "1"]
    finally:
        await runner.cleanup()


async def test_more_queries_than_may_wait_are_refused(api: Api) -> None:
    blocking = Blocking()
    api.limit(max_concurrency=1)
    api.configure(querier=blocking)
    client = await api.client()
    asked = [asyncio.create_task(client.get("/api/v1/query", params={"query": "up"})) for _ in range(20)]
    # One runs and eight wait, for as long as they like, or one less where the first was still about to run.
    await until(lambda: sum(each.done() for each in asked) >= 11)
    for answer in [await each for each in asked if each.done()]:
        body = await answer.json()
        assert (answer.status, body["errorType"]) == (503, "unavailable")
        assert "--query.max-concurrency" in body["error"]
    for each in asked:
        each.cancel()
    await asyncio.wait(asked)
    await asyncio.wait_for(blocking.ended.wait(), 60)


async def test_a_body_beyond_the_limit_is_413(api: Api) -> None:
    api.limit(max_body=1000)
    response = await (await api.client()).post("/api/v1/query", data={"query": "1" * 2000})
    assert response.status == 413


async def test_before_it_is_ready_the_api_is_503_with_the_reason(api: Api) -> None:
    api.not_ready = "the store is being opened"
    assert await api.error("/api/v1/query", 503, query="1") == (
        "unavailable",
        "Service Unavailable: the store is being opened",
    )
