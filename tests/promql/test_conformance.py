"""Prometheus's own evaluation cases under ../shared/promql/testdata, one test a file; `-s` prints how many pass."""

from collections import Counter
from pathlib import Path

import pytest

from common.promql.engine import DELAYED_NAME_REMOVAL, Engine, EngineOptions
from common.promql.promqltest import Runner
from common.promql.promqltest_script import pieces
from common.promql.signatures import FEATURES

FILES = sorted((Path(__file__).resolve().parents[3] / "shared" / "promql" / "testdata").glob("*.test"))
ALL_FEATURES = FEATURES | {DELAYED_NAME_REMOVAL}


def engine() -> Engine:
    return Engine(EngineOptions(features=ALL_FEATURES))


def is_native(text: str) -> bool:
    """Whether a scope needs native histograms."""
    return "{{" in text or "load_with_nhcb" in text


def scopes(path: Path) -> list[tuple[str, str]]:
    """Identity and text of every scope of a file."""
    cut = path.read_text("utf-8").split("\nclear\n")[1:]
    return [(text.split("piece ", 1)[1].split(" ", 1)[0], "clear\n" + text) for text in cut]


def run(text: str) -> None:
    for _, commands in pieces(text):
        Runner(engine()).run(commands)


@pytest.mark.conformance
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_scope_passes(path: Path) -> None:
    passed: Counter[bool] = Counter()
    total: Counter[bool] = Counter()
    failures: list[str] = []
    for identity, text in scopes(path):
        native = is_native(text)
        total[native] += 1
        try:
            run(text)
            passed[native] += 1
        except Exception as err:  # noqa: BLE001 - every way to fail is counted
            failures.append(f"{identity}: {err}")
    print(
        f"{path.name}: floats {passed[False]}/{total[False]}, native histograms {passed[True]}/{total[True]}",
    )
    assert not failures, "\n".join(failures)


@pytest.mark.conformance
def test_the_conformance_data_is_there(shared: Path) -> None:
    assert (shared / "promql" / "testdata").is_dir()
    assert FILES
