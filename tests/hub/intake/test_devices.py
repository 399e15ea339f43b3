"""`up` of agents, and the file that remembers them."""

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.frames.model import SourceId
from common.labels import Labels
from common.sample import Millis
from hub.fleet import Announced, Fleet, Remembered, Success
from hub.intake.devices import dump_devices, load_devices, up_rows

PI = SourceId(b"\x01" * 16)
DEVICE = Remembered(PI, "pi", 9100, "pi:9100", "pi:9100", ("10.0.0.1:9100", "[fd00::1]:9100"), Millis(5))


def test_up_is_one_for_who_answered_and_zero_for_who_did_not() -> None:
    fleet = Fleet(15_000, 1)
    device = fleet.announce(Announced(PI, "pi", 9100, ("a:1",)))
    assert device is not None
    fleet.set_static(["b:1", "c:1"])
    fleet.succeeded(device, "a:1", Success(Millis(1), 0.5, {}, {}, 7), 1.0)
    fleet.stranger_failed("b:1", "refused", Millis(1), 0.1)
    rows = {labels: value for labels, value in up_rows(fleet) if labels.name == "up"}
    assert rows == {
        Labels.of(__name__="up", job="node", instance="pi:9100"): 1.0,
        Labels.of(__name__="up", job="node", instance="b:1"): 0.0,
    }


def test_the_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    (tmp_path / "f.json").write_bytes(dump_devices([DEVICE]))
    assert load_devices(tmp_path / "f.json") == [DEVICE]


def test_a_missing_file_means_no_devices(tmp_path: Path) -> None:
    assert load_devices(tmp_path / "f.json") == []


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_is_moved_aside_and_never_stops_the_start(tmp_path: Path, data: st.DataObject) -> None:
    whole = dump_devices([DEVICE])
    at = data.draw(st.integers(0, len(whole) - 1))
    path = tmp_path / "f.json"
    path.write_bytes(whole[:at])
    assert load_devices(path) == []
    assert not path.exists()
    assert path.with_suffix(".bad").read_bytes() == whole[:at]
