"""Third parties' collectors; the example of edge/collectors/PLUGINS.md is what is run."""

import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest

from common.errors import ConfigError
from common.testing import FakeClock
from edge.collectors import plugin
from edge.collectors.registry import build_collectors, build_runner

DOCS = Path(__file__).resolve().parents[3] / "edge/collectors/PLUGINS.md"


@pytest.fixture
def garden(monkeypatch: pytest.MonkeyPatch) -> None:
    """The documented example, installed."""
    text = DOCS.read_text("utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code is not None
    assert len(code[1].strip().split("\n")) <= 16
    module = ModuleType("garden_sensors")
    exec(compile(code[1], "garden_sensors.py", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, "garden_sensors", module)
    entry = re.search(r'^(\w+) = "(garden_sensors:\w+)"$', text, re.MULTILINE)
    assert entry is not None
    points = [
        EntryPoint(entry[1], entry[2], plugin.GROUP),
        EntryPoint("broken", "garden_sensors:Missing", plugin.GROUP),
    ]
    monkeypatch.setattr(plugin, "installed", lambda: {point.name: point for point in points})


@pytest.mark.usefixtures("garden")
def test_the_documented_example_runs_as_a_collector_of_its_own() -> None:
    runner = build_runner({"collector.disable-defaults": True, "collector.plugin": ["garden"]}, FakeClock())
    result = runner.collect()[0]
    runner.close()
    assert (result.name, result.success) == ("garden", True)
    assert {(d.name, d.type.value, *v): x for d, v, x in result.samples} == {
        ("soil_moisture_ratio", "gauge", "tomatoes"): 0.41,
        ("soil_moisture_ratio", "gauge", "beans"): 0.37,
        ("pump_starts_total", "counter"): 12.0,
    }


@pytest.mark.usefixtures("garden")
@pytest.mark.parametrize(
    ("name", "message"),
    [("nobody", "installed: broken, garden"), ("broken", "could not be loaded"), ("cpu", "built-in collector")],
)
def test_a_plugin_that_cannot_be_used_is_named(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_collectors({"collector.plugin": [name]}, FakeClock())


def test_no_plugin_is_loaded_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "installed", lambda: pytest.fail("looked for plugins"))
    for collector in build_collectors({}, FakeClock()):
        collector.close()
