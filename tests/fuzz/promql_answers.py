"""Random queries to a hub and to a real Prometheus that hold the same samples: `make fuzz-promql`.

Differences are printed, unless they come of what changed between Prometheus 3.5, which is the peer, and the version
that the hub follows. The same seed gives the same samples and queries. They are asked while the samples are in the
hub's memory, and more of them when it has written blocks.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.promql_queries import Question, questions
from tests.fuzz.promql_samples import bodies
from tests.integration.programs import Running, Start, hub, programs, wait_for
from tests.ports import free_port

TOLERANCE = 1e-7
"""Relative: sums of squares lose digits, and Go's logarithms and powers are not the C library's."""
FEATURES = "--enable-feature=promql-experimental-functions"
NEWER = (
    ("error", "Parameter value is NaN"),
    ("error", "Ratio value is NaN"),
    ("error", "flows int64"),
    ("warnings", "conflicting counter resets during"),
    ("warnings", "this native histogram metric is not a counter"),
    ("infos", "mismatched custom buckets were reconciled"),
    ("infos", "has NaN observations"),
    ("infos", "ignored histograms in a range containing both floats and histograms"),
)
"""What a Prometheus after 3.5 says where it answers otherwise: which field has it, and a part of the text."""
_NAMED = re.compile(r'(bucket label .* of "[^"]*"|mix of classic and native histograms)( for metric name ".*")? \(.*')
_FIXED = re.compile(r"(needed to be fixed for monotonicity).*( \()")
_MIXED = re.compile(
    r"(vector contains|encountered) a mix of histograms (with exponential.*|and floats for aggregation) \("
)
_PAIR = re.compile(r'(binary operator "\S+"): \w+ \S+ \w+')
_NUMBER = re.compile(r"got -?\d[-+.e\d]*")


def ask(server: Running, question: Question) -> tuple[int, Any]:
    """Status and JSON that a server answers."""
    data = urllib.parse.urlencode(question.form).encode()
    try:
        with urllib.request.urlopen(f"{server.url}/api/v1/{question.path}", data, timeout=120) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as err:
        with err:
            return err.code, json.loads(err.read())


def _close(left: str, right: str) -> bool:
    one, other = float(left), float(right)
    if one == other or (one != one and other != other):
        return True
    return abs(one - other) <= TOLERANCE * max(abs(one), abs(other)) or max(abs(one), abs(other)) < 1e-12


def _same_value(left: Any, right: Any) -> bool:
    if isinstance(left, str) or isinstance(right, str):
        return isinstance(left, str) and isinstance(right, str) and _close(left, right)
    if not (_close(left["count"], right["count"]) and _close(left["sum"], right["sum"])):
        return False
    ones, others = left.get("buckets", []), right.get("buckets", [])
    return len(ones) == len(others) and all(
        one[0] == other[0] and all(map(_close, one[1:], other[1:])) for one, other in zip(ones, others, strict=True)
    )


def _same_points(left: Any, right: Any) -> bool:
    return len(left) == len(right) and all(
        one[0] == other[0] and _same_value(one[1], other[1]) for one, other in zip(left, right, strict=True)
    )


def newer(question: Question, said: Any, told: Any) -> bool:
    """Whether a difference shows what changed since Prometheus 3.5, or a fault of it that the hub does not share."""
    query = question.form["query"]
    if any(text in str(told.get(name)) for name, text in NEWER):
        return True
    if "incompatible custom buckets" in str(said.get("warnings")):
        return True
    # info() looks at the time that the offset tells, and does not mix up series of several steps.
    if "info(" in query and (question.path == "query_range" or not re.search(r"info\(\w+\)", query)):
        return True
    # Faults: the offset beside @ under timestamp(), @ in the parameter of an aggregation, and of another parameter the
    # first step's for all if the vector does not move.
    if re.search(r"timestamp\(.*(offset.* @|@.* offset)", query):
        return True
    if ("@" in query or "vector(" in query) and re.search(r"(topk|bottomk|limitk|limit_ratio|quantile) ", query):
        return True
    # Of seconds since 1970 few digits are left when they are squared.
    if re.search(r"std(dev|var).*(ts_of|timestamp)", query):
        return True
    if told["status"] == "error":
        # What a comparison leaves out counts as a match. Of errors at several steps that of the first need not be told.
        duplicates = "found duplicate series" in told["error"] and "multiple matches" in said.get("error", "")
        return duplicates or "multiple matches for labels" in told["error"]
    # Negated series that became equal are joined if they never meet; durations may be computed.
    error = said.get("error", "")
    if "duration expression is not enabled" in error or ("same labelset" in error and "-" in query):
        return True
    # Median deviations of NaN are NaN; the first bucket of a classic histogram has a lower bound.
    return "mad_over_time" in query or re.search(r"histogram_fraction\(.*\b(h_bucket|both)\b", query) is not None


def notes(answer: Any, kind: str) -> list[str]:
    """Warnings or infos, without what differs by version, order of series, or in the last digits."""
    found = []
    for text in answer.get(kind, []):
        if text.endswith("annotations omitted"):
            # Any ten of them are told.
            return [text]
        if "sort is ineffective for range queries" in text:
            continue
        text = _NUMBER.sub(lambda number: f"got {float(number[0][4:]):.9g}", text)
        # Only the last pair of types of a step is told, and one reason why a group cannot be added.
        text = _MIXED.sub("mix (", _PAIR.sub(r"\1", text))
        found.append(_FIXED.sub(r"\1\2", _NAMED.sub(r"\1", text)))
    return sorted(set(found))


def error_text(answer: Any) -> str:
    """The text of an error, without what differs by version, and without which series of several it names."""
    text: str = re.sub(r'"<Item \d+>" ', "", answer.get("error", ""))
    # Of calls behind a list of labels Prometheus 3.5 takes the end for an earlier one.
    text = re.sub(r"\d+:\d+: (parse error: (label .* must not occur in ON and GROUP|comparisons between))", r"\1", text)
    text = re.sub(r"(in subquery|in offset).*, expected number.*", r"\1", text)
    return re.sub(r"match group {.*} on the (\w+) hand-side of the operation: \[.*\]", r"\1", text)


def difference(theirs: tuple[int, Any], ours: tuple[int, Any]) -> str:
    """In what two answers differ, in a few words; nothing if they agree."""
    (status, said), (own_status, told) = theirs, ours
    for name, one, other in (
        ("status", status, own_status),
        ("errorType", said.get("errorType"), told.get("errorType")),
        ("error", error_text(said), error_text(told)),
        ("warnings", notes(said, "warnings"), notes(told, "warnings")),
        ("infos", notes(said, "infos"), notes(told, "infos")),
    ):
        if one != other:
            return name
    if "data" not in said:
        return ""
    data, own = said["data"], told["data"]
    if data["resultType"] != own["resultType"]:
        return "resultType"
    if data["resultType"] in ("scalar", "string"):
        one, other = data["result"], own["result"]
        if data["resultType"] == "string":
            return "" if one == other else "value"
        return "" if _same_points([one], [other]) else "value"
    ones, others = ([(sorted(each["metric"].items()), each) for each in found["result"]] for found in (data, own))
    if data["resultType"] == "vector":
        ones.sort(key=lambda each: each[0])
        others.sort(key=lambda each: each[0])
    if [labels for labels, _ in ones] != [labels for labels, _ in others]:
        return "labels"
    for (_, one), (_, other) in zip(ones, others, strict=True):
        for name in ("values", "histograms"):
            if not _same_points(one.get(name, []), other.get(name, [])):
                return name
        for name in ("value", "histogram"):
            if not _same_points([one[name]] if name in one else [], [other[name]] if name in other else []):
                return name
    return ""


@dataclass
class Pair:
    """Both servers with the same samples."""

    peer: Running
    ours: Running
    answered: Counter[str] = field(default_factory=Counter)
    """How many answers of each status there were."""

    def differences(self, asked: Iterable[Question]) -> Iterator[str]:
        """What is answered differently, with both answers.

        It is asked again at the end: Prometheus mixes up histograms of several queries now and then.
        """
        suspects = []
        for question in asked:
            theirs, own = ask(self.peer, question), ask(self.ours, question)
            empty = "data" in own[1] and not own[1]["data"]["result"]
            self.answered[own[1]["status"] + " and empty" * empty] += 1
            if difference(theirs, own) and not newer(question, theirs[1], own[1]):
                suspects.append((question, own))
        for question, own in suspects:
            theirs, again = ask(self.peer, question), ask(self.ours, question)
            if found := difference(theirs, own) or difference(own, again):
                shown = (f"  {json.dumps(answer)[:600]}" for _, answer in (theirs, own))
                yield "\n".join((f"{found}: {question}", *shown))


def version(prometheus: str) -> int:
    """The first number of a Prometheus's version."""
    done = subprocess.run([prometheus, "--version"], capture_output=True, text=True, timeout=60, check=True)
    return int(done.stdout.split()[2].partition(".")[0])


FLAGS = ("--web.enable-remote-write-receiver", "--storage.tsdb.retention.time=200y")


def start_hub(start: Start, folder: Path) -> Running:
    """A fresh hub."""
    return hub(start, folder / "hub", "--no-discovery.mdns", FEATURES, *FLAGS).wait_ready()


def fill(servers: Iterable[Running], seed: int) -> None:
    """Have all of them take the samples of `seed`."""
    headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy"}
    for body in bodies(seed):
        for each in servers:
            request = urllib.request.Request(f"{each.url}/api/v1/write", body, headers, method="POST")
            with urllib.request.urlopen(request, timeout=120) as answer:
                assert answer.status in (200, 204)


def start_pair(start: Start, folder: Path, prometheus: str, seed: int) -> Pair:
    """A Prometheus, the program at that path, and a hub, both fresh, with the samples of `seed`."""
    ours = start_hub(start, folder)
    (folder / "peer").mkdir()
    (folder / "peer" / "prometheus.yml").write_text("global: {}\n")
    port = free_port()
    command = [prometheus, f"--config.file={folder / 'peer' / 'prometheus.yml'}", *FLAGS]
    command += [f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={folder / 'peer' / 'data'}"]
    peer = start([*command, f"{FEATURES},native-histograms"], folder / "peer.log", port).wait_ready()
    fill((ours, peer), seed)
    return Pair(peer, ours)


def has_blocks(server: Running) -> bool:
    """Whether a hub has samples in blocks on its disk."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=20) as answer:
        return re.search(rb"^prometheus_tsdb_blocks_loaded [1-9]", answer.read(), re.MULTILINE) is not None


def main() -> int:
    """Ask; the exit status says whether there was a difference."""
    parser = argparse.ArgumentParser(prog="tests.fuzz.promql_answers", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=5000, help="queries, twice")
    parser.add_argument("--prometheus", default=os.environ.get("PROMETHEUS", "prometheus"))
    given = parser.parse_args()
    if version(given.prometheus) < 3:
        parser.error(f"{given.prometheus} is older than Prometheus 3: name another with --prometheus or PROMETHEUS")
    rng = random.Random(given.seed)
    different = 0
    with tempfile.TemporaryDirectory() as name, programs() as start:
        pair = start_pair(start, Path(name), given.prometheus, given.seed)
        for place in ("memory", "blocks"):
            if place == "blocks":
                wait_for(lambda: has_blocks(pair.ours), "blocks", 180)
            for shown in pair.differences(questions(rng, given.count)):
                different += 1
                print(f"in {place}: {shown}", flush=True)
    print(f"seed {given.seed}, answers {dict(pair.answered)}: {different} differ")
    return min(different, 1)


if __name__ == "__main__":
    sys.exit(main())
