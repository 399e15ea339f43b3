"""Names of features that the real Prometheus takes are no strangers to the hub."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from hub.options import ALWAYS_ON, FEATURES, IGNORED_FEATURES
from tests.integration.programs import Start, hub, needs

pytestmark = pytest.mark.integration


def test_every_feature_that_prometheus_names_is_known() -> None:
    program = os.environ.get("PROMETHEUS") or needs("prometheus")
    text = subprocess.run([program, "--help"], capture_output=True, text=True).stdout
    found = re.search(r"--enable-feature=.*?Valid options:(.*?)\. See", text, re.DOTALL)
    assert found is not None
    names = {re.sub(r"\(.*", "", part).strip() for part in " ".join(found[1].split()).split(",")}
    assert len(names) > 10
    assert names <= FEATURES | ALWAYS_ON | IGNORED_FEATURES


def test_what_changes_nothing_and_what_is_unknown_is_said(start: Start, tmp_path: Path) -> None:
    names = "exemplar-storage,native-histograms,promql-duration-expr,nonsense"
    program = hub(start, tmp_path, "--no-discovery.mdns", f"--enable-feature={names}").wait_ready()
    assert 'msg="this feature of Prometheus changes nothing here" option=exemplar-storage' in program.output()
    assert 'msg="unknown option for --enable-feature" option=nonsense' in program.output()
    assert "option=native-histograms" not in program.output()
    assert "option=promql-duration-expr" not in program.output()
