"""A hub and a real Prometheus answer random queries alike; `make fuzz-promql` asks more of them."""

import os
import random
from pathlib import Path

import pytest

from tests.fuzz.promql_answers import start_pair, version
from tests.fuzz.promql_queries import questions
from tests.integration.programs import Start, needs

pytestmark = pytest.mark.integration


def test_random_queries_are_answered_alike(start: Start, tmp_path: Path) -> None:
    prometheus = os.environ.get("PROMETHEUS") or needs("prometheus")
    if version(prometheus) < 3:
        pytest.skip("Prometheus 2 answers much otherwise: name another with PROMETHEUS")
    pair = start_pair(start, tmp_path, prometheus, 1)
    different = list(pair.differences(questions(random.Random(1), 2000)))
    assert not different, "\n".join(different)
    assert min(pair.answered[kind] for kind in ("success", "success and empty", "error")) > 200
