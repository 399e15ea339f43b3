"""Our own scripts in the promqltest language, on the dictionary model and on the hub's store.

On the store every series is written by two sources in turn, into frames of few slots, with a column order that changes:
so lookback, staleness and counter resets cross frames, schemas and sources.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from common.frames.model import SourceId
from common.labels import EMPTY, Labels, Matcher
from common.promql.engine import DELAYED_NAME_REMOVAL, Engine, EngineOptions
from common.promql.promqltest import Runner
from common.promql.promqltest_script import parse_script
from common.promql.promqltest_store import ScriptStore
from common.promql.signatures import FEATURES
from common.sample import Millis
from common.testing import FakeClock
from common.tsdb.options import StoreOptions
from common.tsdb.querier import Budget, RowBatch, SelectHints
from common.tsdb.store import Store
from common.tsdb.writer import SourceWriter

SCRIPTS = sorted(Path(__file__).parent.glob("*.test"))
EVERYTHING = FEATURES | {DELAYED_NAME_REMOVAL}


class OnStore(ScriptStore):
    """Takes samples like the model and serves them from the hub's store."""

    def __init__(self, path: Path, clock: FakeClock) -> None:
        super().__init__()
        self._store = Store.open(path, StoreOptions(), clock)
        self._written = False

    def _write(self) -> None:
        self._written = True
        by_time: dict[int, list[tuple[Labels, float]]] = {}
        for labels, samples in self.samples().items():
            for time, value in samples:
                by_time.setdefault(time, []).append((labels, value))
        for number in range(2):
            writer = SourceWriter(self._store, SourceId(bytes([number]) * 16), EMPTY)
            for slot, (time, rows) in enumerate(sorted(by_time.items())):
                if slot % 2 == number:
                    writer.forget()
                    writer.write(Millis(time), rows[::-1] if slot % 3 else rows, ())
        natives = [(labels, at, each, 0) for labels, found in self._histograms.items() for at, each in found.items()]
        self._store.append_histograms(natives)

    def select(
        self,
        matchers: Sequence[Matcher],
        start: Millis,
        end: Millis,
        hints: SelectHints | None = None,
        budget: Budget | None = None,
    ) -> Iterator[RowBatch]:
        if not self._written:
            self._write()
        return self._store.select(matchers, start, end, hints, budget)

    def close(self) -> None:
        self._store.close()


@pytest.fixture(params=["model", "rows one by one", "store"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> Iterator[Callable[[], ScriptStore]]:
    opened: list[OnStore] = []

    def on_store() -> OnStore:
        opened.append(OnStore(tmp_path / str(len(opened)), clock))
        return opened[-1]

    makers: dict[str, Callable[[], ScriptStore]] = {
        "model": ScriptStore,
        "rows one by one": lambda: ScriptStore(rows_per_batch=1),
        "store": on_store,
    }
    yield makers[request.param]
    for store in opened:
        store.close()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name.removesuffix(".test"))
def test_script_holds(path: Path, make_store: Callable[[], ScriptStore]) -> None:
    features = frozenset() if ".default" in path.name else EVERYTHING
    Runner(Engine(EngineOptions(features=features)), make_store).run(parse_script(path.read_text("utf-8")))
