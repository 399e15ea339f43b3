"""Native histograms in query results, as Prometheus's API writes them."""

import numpy as np
import pytest

from common.histogram import FloatHistogram, side
from common.histogram_grid import columns_of, in_columns
from common.labels import Labels
from common.promql.promqltest_store import ScriptStore
from hub.api import encode
from tests.hub.api.conftest import Api

H = Labels.of(__name__="h")
SIZES = FloatHistogram(
    schema=0,
    count=13,
    sum=1e-5,
    zero_count=2,
    zero_threshold=0.001,
    positive=side(0, [3, 0, 4]),
    negative=side(1, [1, 3]),
)
SHOWN = {
    "count": "13",
    "sum": "0.00001",
    "buckets": [
        [1, "-4", "-2", "3"],
        [1, "-2", "-1", "1"],
        [3, "-0.001", "0.001", "2"],
        [0, "0.5", "1", "3"],
        [0, "2", "4", "4"],
    ],
}


@pytest.fixture
def store(api: Api) -> ScriptStore:
    made = ScriptStore()
    api.configure(querier=made)
    made.add_histogram(H, 0, SIZES)
    made.add(H, 60_000, 5.0)
    made.add(Labels.of(__name__="f"), 0, 1.5)
    return made


async def test_an_instant_vector_has_histogram_in_place_of_value(api: Api, store: ScriptStore) -> None:
    data = await api.data("/api/v1/query", query='{__name__=~"f|h"}', time="0")
    found = {each["metric"]["__name__"]: each for each in data["result"]}
    assert found["h"] == {"metric": {"__name__": "h"}, "histogram": [0, SHOWN]}
    assert found["f"] == {"metric": {"__name__": "f"}, "value": [0, "1.5"]}


async def test_a_range_has_floats_and_histograms_apart(api: Api, store: ScriptStore) -> None:
    data = await api.data("/api/v1/query_range", query="h", start="0", end="90", step="30")
    (series,) = data["result"]
    assert [at for at, _ in series["histograms"]] == [0, 30]
    assert series["histograms"][0][1] == SHOWN
    assert series["values"] == [[60, "5"], [90, "5"]]


async def test_a_range_of_histograms_alone_has_no_values(api: Api, store: ScriptStore) -> None:
    data = await api.data("/api/v1/query_range", query="h", start="0", end="30", step="30")
    assert list(data["result"][0]) == ["metric", "histograms"]


async def test_a_range_vector_has_both(api: Api, store: ScriptStore) -> None:
    data = await api.data("/api/v1/query", query="h[5m]", time="60")
    (series,) = data["result"]
    assert (series["values"], series["histograms"]) == ([[60, "5"]], [[0, SHOWN]])


async def test_one_without_observations_has_no_buckets(api: Api, store: ScriptStore) -> None:
    store.add_histogram(Labels.of(__name__="none"), 0, FloatHistogram())
    data = await api.data("/api/v1/query", query="none", time="0")
    assert data["result"][0]["histogram"] == [0, {"count": "0", "sum": "0"}]


def test_histograms_in_columns_have_the_texts_of_objects() -> None:
    rng = np.random.default_rng(5)
    made = [
        FloatHistogram(),
        FloatHistogram(2, np.nan, -np.inf, 1e-9, 0.25, side(-3, [0.1]), side(0, [1e30, 0.0, 2.0])),
    ]
    made += [FloatHistogram(-53, 6.0, 1.5, positive=side(1, [6.0, 1e-7]), custom=(0.5, 1.0))]
    for _ in range(40):
        above, below = (side(int(rng.integers(-9, 9)), (rng.integers(0, 3, 5) * 0.7).tolist()) for _ in range(2))
        numbers = rng.normal(0, 10.0 ** rng.integers(-8, 8), 3).tolist()
        made.append(FloatHistogram(int(rng.integers(-1, 4)), numbers[0], numbers[1], numbers[2], 0.001, above, below))
    grid = in_columns(columns_of(made), len(made))
    assert encode.histogram_texts(grid) == [encode.text(each.to_api()) for each in made]
