"""Random queries to a hub that holds samples of all kinds; `make fuzz-promql` asks more of them.

`PROMETHEUS` may name another Prometheus than the one on the path. Version 2 answers much otherwise: then only the hub
is asked, each query twice.
"""

import os
import random
from pathlib import Path

import pytest

from tests.fuzz.promql_answers import ask, difference, fill, start_hub, start_pair, version
from tests.fuzz.promql_queries import questions
from tests.integration.programs import Start, needs

pytestmark = pytest.mark.integration


def test_random_queries_are_answered_as_prometheus_does_and_alike_again(start: Start, tmp_path: Path) -> None:
    prometheus = os.environ.get("PROMETHEUS") or needs("prometheus")
    asked = list(questions(random.Random(1), 2000))
    if version(prometheus) >= 3:
        pair = start_pair(start, tmp_path, prometheus, 1)
        different = list(pair.differences(asked))
        assert not different, "\n".join(different)
        assert min(pair.answered[kind] for kind in ("success", "success and empty", "error")) > 200
        server = pair.ours
    else:
        server = start_hub(start, tmp_path)
        fill([server], 1)
    for question in asked:
        first, again = ask(server, question), ask(server, question)
        assert first[0] in (200, 400, 422), question
        assert not difference(first, again), question
