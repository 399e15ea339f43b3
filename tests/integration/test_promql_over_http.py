"""Prometheus's evaluation cases through the hub's doors: remote write in, HTTP API out, a fresh store a scope.

Native histograms are sent as float histograms. Scopes that load start timestamps (`@st`) are left out: remote write 1.0
has no place for them.
"""

import asyncio
import http.client
import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from common.clock import SystemClock
from common.errors import QueryError
from common.histogram import FloatHistogram
from common.histogram_grid import Grid
from common.labels import EMPTY, Labels
from common.promql.ast import ValueType
from common.promql.engine import Engine, EngineOptions, Result
from common.promql.gonumber import almost_equal
from common.promql.matrix import Matrix, Series
from common.promql.promqltest import TOLERANCE, Runner, same_cell
from common.promql.promqltest_script import Cell, pieces
from common.promql.promqltest_store import ScriptStore
from common.remote import snappy
from common.remote.read import encode_result, encode_series
from common.sample import Millis
from common.tsdb.options import StoreOptions
from common.tsdb.store import Store
from hub.api.app import make_app, make_runner
from hub.api.state import ApiState, BuildInfo, RuntimeInfo
from hub.intake.remote_write import Receiver
from tests.hub.api.conftest import Views
from tests.promql.test_conformance import ALL_FEATURES, FILES, is_native, scopes

pytestmark = [pytest.mark.integration, pytest.mark.conformance]


def state(store: Store, executor: ThreadPoolExecutor, clock: SystemClock) -> ApiState:
    """A hub's API over a store, with nothing else running."""
    views = Views()
    return ApiState(
        clock=clock,
        querier=store,
        executor=executor,
        engine=Engine(EngineOptions(features=ALL_FEATURES)),
        rules=views,
        targets=views,
        fleet=views,
        panel=views,
        build=BuildInfo("0.1.0"),
        runtime=lambda: RuntimeInfo(clock.now(), "/", "hub", True, clock.now(), "0s"),
        config_text=lambda: "",
        flags=dict,
        ready=lambda: "",
        registry=CollectorRegistry(),
        receiver=Receiver(store, StoreOptions(), executor, clock, CollectorRegistry()),
    )


@contextmanager
def hub(folder: Path) -> Iterator[int]:
    """A hub's API on a port of its own, over an empty store in `folder`, on a thread of its own."""
    clock = SystemClock()
    store = Store.open(folder, StoreOptions(retention_ms=0), clock)
    executor = ThreadPoolExecutor(1)
    started: threading.Event = threading.Event()
    found: dict[str, Any] = {}

    async def serve() -> None:
        runner = make_runner(make_app(state(store, executor, clock)))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        found["port"] = runner.addresses[0][1]
        found["loop"], found["stop"] = asyncio.get_running_loop(), asyncio.Event()
        started.set()
        await found["stop"].wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(10)
    try:
        yield found["port"]
    finally:
        found["loop"].call_soon_threadsafe(found["stop"].set)
        thread.join()
        executor.shutdown()
        store.close()


class Shown(FloatHistogram):
    """A histogram as the API shows it: count, sum and the populated buckets."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__()
        object.__setattr__(self, "answer", answer)

    __slots__ = ("answer",)
    answer: dict[str, Any]

    def __str__(self) -> str:
        return str(self.answer)


def same(expected: Cell, actual: Cell) -> bool:
    """As same_cell, by what the API shows of histograms."""
    if not isinstance(expected, FloatHistogram) or not isinstance(actual, Shown):
        return same_cell(expected, actual)
    wanted: dict[str, Any] = expected.to_api()
    left, right = wanted.get("buckets", []), actual.answer.get("buckets", [])
    if [rule for rule, *_ in left] != [rule for rule, *_ in right]:
        return False
    pairs = [(wanted[key], actual.answer[key]) for key in ("count", "sum")]
    for one, other in zip(left, right, strict=True):
        pairs += zip(one[1:], other[1:], strict=True)
    return all(almost_equal(float(one), float(other), TOLERANCE) for one, other in pairs)


class Door:
    """Stands where the runner has its engine: writes what a load left in the script's store, asks over HTTP."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._written: set[tuple[Labels, int]] = set()

    def close(self) -> None:
        self._connection.close()

    def _write(self, store: ScriptStore) -> None:
        series = []
        for labels in dict.fromkeys((*store._series, *store._histograms)):
            samples, native = store._series.get(labels, {}), store._histograms.get(labels, {})
            new = [(time, value) for time, value in sorted(samples.items()) if (labels, time) not in self._written]
            more = [(time, value) for time, value in sorted(native.items()) if (labels, time) not in self._written]
            self._written.update((labels, time) for time, _ in (*new, *more))
            if new or more:
                times = np.array([time for time, _ in new], np.int64)
                series.append(encode_series(labels, times, np.array([value for _, value in new]), more))
        if not series:
            return
        headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy"}
        self._connection.request("POST", "/api/v1/write", snappy.compress(encode_result(series)), headers)
        response = self._connection.getresponse()
        text = response.read()
        assert response.status == 204, text

    def _ask(self, path: str, **form: object) -> dict[str, Any]:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        self._connection.request("POST", path, urlencode(form), headers)
        answer: dict[str, Any] = json.loads(self._connection.getresponse().read())
        if answer["status"] == "error":
            raise QueryError(answer["error"].removeprefix('invalid parameter "query": '))
        return answer

    def instant(self, store: ScriptStore, query: str, time: int) -> Result:
        """As Engine.instant."""
        self._write(store)
        answer = self._ask("/api/v1/query", query=query, time=time / 1000)
        data, notes = answer["data"], (answer.get("warnings", []), answer.get("infos", []))
        kind = ValueType(data["resultType"])
        if kind is ValueType.SCALAR:
            return Result(kind, time, scalar=float(data["result"][1]), warnings=notes[0], infos=notes[1])
        if kind is ValueType.STRING:
            return Result(kind, time, string=data["result"][1], warnings=notes[0], infos=notes[1])
        if kind is ValueType.VECTOR:
            points = [
                (each["metric"], [[*each["value"]]] if "value" in each else [[*each["histogram"]]])
                for each in data["result"]
            ]
            return Result(kind, time, _matrix(points, [time]), warnings=notes[0], infos=notes[1])
        found = tuple(_series(each["metric"], _points(each)) for each in data["result"])
        return Result(kind, time, series=found, warnings=notes[0], infos=notes[1])

    def range(self, store: ScriptStore, query: str, start: int, end: int, step: int) -> Result:
        """As Engine.range."""
        self._write(store)
        form = {"query": query, "start": start / 1000, "end": end / 1000, "step": step / 1000}
        answer = self._ask("/api/v1/query_range", **form)
        points = [(each["metric"], _points(each)) for each in answer["data"]["result"]]
        matrix = _matrix(points, list(range(start, end + 1, step)))
        return Result(ValueType.MATRIX, end, matrix, warnings=answer.get("warnings", []), infos=answer.get("infos", []))


def _points(series: dict[str, Any]) -> list[Any]:
    return sorted([*series.get("values", []), *series.get("histograms", [])], key=lambda point: point[0])


def _series(metric: dict[str, str], points: list[Any]) -> Series:
    times = np.array([round(at * 1000) for at, _ in points], np.int64)
    values = np.array([0.0 if isinstance(value, dict) else float(value) for _, value in points])
    cells = np.array([Shown(value) if isinstance(value, dict) else None for _, value in points] + [None], object)[:-1]
    return Series(Labels.of(metric), times, values, Grid.of(cells))


def _matrix(series: list[tuple[dict[str, str], list[Any]]], times: list[int]) -> Matrix:
    column = {time: at for at, time in enumerate(times)}
    values = np.zeros((len(series), len(times)))
    presence = np.zeros(values.shape, np.bool_)
    cells = np.full(values.shape, None, object)
    for row, (_, points) in enumerate(series):
        for at, value in points:
            step = column[round(at * 1000)]
            presence[row, step] = True
            if isinstance(value, dict):
                cells[row, step] = Shown(value)
            else:
                values[row, step] = float(value)
    labels = [Labels.of(metric) if metric else EMPTY for metric, _ in series]
    return Matrix(labels, values, presence, np.array([Millis(time) for time in times], np.int64), Grid.of(cells))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_scope_passes_over_http(path: Path, tmp_path: Path) -> None:
    passed: Counter[bool] = Counter()
    total: Counter[bool] = Counter()
    starts = 0
    failures = []
    for identity, text in scopes(path):
        native = is_native(text)
        if "@st" in text:
            starts += 1
            continue
        total[native] += 1
        with hub(tmp_path / identity) as port:
            door = Door(port)
            try:
                for _, commands in pieces(text):
                    Runner(door, same=same).run(commands)  # type: ignore[arg-type]
                passed[native] += 1
            except Exception as err:  # noqa: BLE001 - every way to fail is counted
                failures.append(f"{identity}: {err}")
            finally:
                door.close()
    print(
        f"{path.name} over HTTP: floats {passed[False]}/{total[False]}, native histograms {passed[True]}/{total[True]}"
        + (f", {starts} left out: remote write 1.0 carries no start timestamps" if starts else "")
    )
    assert not failures, "\n".join(failures)
