"""Rules beside Prometheus: what a hundred of them cost, and whether both record the same.

usage: python -m tests.bench.rules --data DIR --template FILE --prometheus FILE [--targets 100] [--interval 15]

Both servers scrape the same simulated targets (simulated.py) every 15 s, for --warm-up seconds, so that windows are
full. Then, --rounds times, they run without rules and with those of rules.yml, --seconds each after --settle seconds.
What rules cost is the difference of all threads' CPU; what it is a round is divided by the rounds of all rules, which
are --interval seconds apart. Meanwhile a process asks the hub's `/-/healthy`, and a bare server's, as in loop_lag.py.

The two scrape and evaluate at different times, so that most of their values can't be compared. Instead another
Prometheus, which has no samples of its own, reads the hub's by remote read: at times at which the hub evaluated them
it evaluates the expressions, which must give what the hub recorded (rtol 1e-9), or the alerts that the hub had. So that
no scrape was under way whose samples came later, rules are evaluated as of two seconds ago. Of the two servers
themselves, the label sets of all recorded series are compared, but for those of the largest five. Fails if anything
differs, or if rules cost more CPU than Prometheus's.
"""

import argparse
import contextlib
import json
import shutil
import signal
import statistics
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from hub.rules import last_due
from tests.bench.loop_lag import child, figures, probing
from tests.bench.processes import Program, hub_argv, running
from tests.bench.query import Rows, decode, difference
from tests.bench.simulated import address, simulation
from tests.ports import free_port

RULES = Path(__file__).with_name("rules.yml")
SCRAPE_SECONDS = 15
OFFSET_SECONDS = 2
RECORDED = '{__name__=~".+:.+", __name__!~".*:topk5"}'
TIMES = 3
"""Times at which the rules of each group are compared."""


def configuration(args: argparse.Namespace, ports: int, rules: bool) -> str:
    """A prometheus.yml that both read."""
    listed = [f"{address(number)}:{ports}" for number in range(args.targets)]
    return json.dumps(
        {
            "global": {
                "scrape_interval": f"{SCRAPE_SECONDS}s",
                "scrape_timeout": "10s",
                "evaluation_interval": f"{args.interval}s",
                "rule_query_offset": f"{OFFSET_SECONDS}s",
            },
            "rule_files": [str(RULES)] if rules else [],
            "scrape_configs": [{"job_name": "node", "static_configs": [{"targets": listed}]}],
        }
    )


class Meter:
    """CPU of a server since the last look."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._cpu, self._at = program.cpu(), time.monotonic()

    def look(self) -> float:
        """CPU seconds a second; the next look begins here."""
        cpu, at = self.program.cpu(), time.monotonic()
        used = (cpu - self._cpu) / (at - self._at)
        self._cpu, self._at = cpu, at
        return used


def ask(program: Program, query: str, at: float) -> Rows:
    """An instant query's answer, a vector or a range vector."""
    form = urllib.parse.urlencode({"query": query, "time": f"{at:.3f}"}).encode()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{program.port}/api/v1/query", form, timeout=120) as answer:
            return decode(answer.read())
    except urllib.error.HTTPError as err:
        raise SystemExit(f"{program.name}: {query}: {err.read()!r}") from None


def groups() -> list[dict[str, Any]]:
    """Those of the rule file."""
    found: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
    return found


def named(rows: Rows, labels: dict[str, str], drop: tuple[str, ...] = ()) -> Rows:
    """The rows with labels set over theirs, and some left out."""
    out: Rows = {}
    for key, row in rows.items():
        kept = {name: value for name, value in {**dict(key), **labels}.items() if name not in drop}
        out[tuple(sorted(kept.items()))] = row
    return out


def compare(hub: Program, reader: Program, interval: int, now: float) -> Iterator[str]:
    """Where the hub recorded something else at its latest times than Prometheus makes of its samples."""
    for group in groups():
        last = last_due(f"{RULES};{group['name']}", interval * 1000, int(now * 1000)) / 1000
        for at in [last - back * interval - OFFSET_SECONDS for back in range(1, TIMES + 1)]:
            for rule in group["rules"]:
                expected = ask(reader, rule["expr"], at)
                if "record" in rule:
                    labels = {"__name__": rule["record"], **rule.get("labels", {})}
                    expected = named(expected, labels)
                    mine = exactly_at(hub, rule["record"], rule.get("labels", {}), at)
                    unequal = difference(mine, expected)
                else:
                    labels = {"alertname": rule["alert"], **rule.get("labels", {})}
                    expected = named(expected, labels, ("__name__",))
                    mine = exactly_at(hub, "ALERTS", {"alertname": rule["alert"]}, at)
                    mine = named(mine, {}, ("__name__", "alertstate"))
                    unequal = "" if mine.keys() == expected.keys() else f"{len(mine)} alerts, not {len(expected)}"
                if unequal:
                    yield f"{labels} at {at:.3f}: {unequal}"


def exactly_at(hub: Program, name: str, labels: dict[str, str], at: float) -> Rows:
    """Samples of a metric with that very time."""
    inner = ", ".join(f"{key}={json.dumps(value)}" for key, value in labels.items())
    return ask(hub, f"last_over_time({{__name__={json.dumps(name)}, {inner}}}[1ms])", at)


def label_sets(program: Program, now: float) -> set[tuple[tuple[str, str], ...]]:
    """Of all series that rules recorded."""
    return set(ask(program, RECORDED, now))


@contextlib.contextmanager
def reading(args: argparse.Namespace, hub: Program, work: Path) -> Iterator[Program]:
    """A Prometheus without samples of its own that reads the hub's."""
    config, port = work / "reader.yml", free_port()
    url = f"http://127.0.0.1:{hub.port}/api/v1/read"
    config.write_text(json.dumps({"remote_read": [{"url": url, "read_recent": True}]}))
    argv = [args.prometheus, f"--config.file={config}", f"--storage.tsdb.path={work / 'reader'}"]
    started: list[Program] = []
    with running(started):
        argv += [f"--web.listen-address=127.0.0.1:{port}"]
        started.append(Program("The reader", argv, port, work / "reader.log"))
        yield started[0]


def measure(args: argparse.Namespace) -> bool:
    """All phases; prints a table, and whether all is as it should be."""
    work = Path(tempfile.mkdtemp(prefix="bramble-bench-"))
    programs: list[Program] = []
    spans: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    used: dict[tuple[str, bool], list[float]] = {}
    memory: dict[tuple[str, bool], float] = {}
    config = work / "config.yml"
    try:
        with simulation(args.data, args.template, SCRAPE_SECONDS) as ports, running(programs):
            config.write_text(configuration(args, ports, rules=False))
            port, other = free_port(), free_port()
            programs.append(Program("Bramble", hub_argv(config, work / "hub", port), port, work / "hub.log"))
            port = free_port()
            argv = [args.prometheus, f"--config.file={config}", f"--storage.tsdb.path={work / 'prometheus'}"]
            argv += [f"--web.listen-address=127.0.0.1:{port}"]
            programs.append(Program("Prometheus", argv, port, work / "prometheus.log"))
            hub, peer = programs
            meters = [Meter(program) for program in programs]
            time.sleep(args.warm_up)
            with child("--bare", str(other)), probing(hub.port, other) as prober:
                for number in range(2 * args.rounds):
                    rules = number % 2 == 1
                    if number:
                        config.write_text(configuration(args, ports, rules))
                        for program in programs:
                            program.process.send_signal(signal.SIGHUP)
                    time.sleep(args.settle)
                    for meter in meters:
                        meter.look()
                    began = time.monotonic()
                    time.sleep(args.seconds)
                    spans[rules].append((began, time.monotonic()))
                    for meter in meters:
                        used.setdefault((meter.program.name, rules), []).append(meter.look())
                        memory[meter.program.name, rules] = meter.program.memory()["VmRSS"]
                assert prober.stdin is not None
                assert prober.stdout is not None
                prober.stdin.close()
                probes = json.loads(prober.stdout.read())
            # Both have evaluated all rules since their last scrapes.
            now = time.time()
            failed = {program.name: program.metric("prometheus_rule_evaluation_failures_total") for program in programs}
            missed = {
                program.name: program.metric("prometheus_rule_group_iterations_missed_total") for program in programs
            }
            mine, theirs = (label_sets(program, now) for program in programs)
            with reading(args, hub, work) as reader:
                unequal = list(compare(hub, reader, args.interval, now))
        if mine != theirs:
            some = [dict(each) for each in sorted(mine ^ theirs)[:5]]
            unequal.append(f"{len(mine - theirs)} series only here, {len(theirs - mine)} only there: {some}")
        print(f"{args.targets} targets, rules every {args.interval} s\n")
        print("| server | cores without rules | with | ms a round of rules | MB without | with | failed | missed |")
        print("|---|" + "---:|" * 7)
        costs = {}
        for program in programs:
            name = program.name
            without, with_rules = (statistics.fmean(used[name, rules]) for rules in (False, True))
            costs[name] = (with_rules - without) * args.interval * 1000
            print(
                f"| {name} | {without:.4f} | {with_rules:.4f} | {costs[name]:.0f} | {memory[name, False]:.0f} "
                f"| {memory[name, True]:.0f} | {failed[name]:.0f} | {missed[name]:.0f} |"
            )
        print("\n| probes | p50, ms | p99 | max | bare p50 | p99 | max |")
        print("|---|" + "---:|" * 6)
        for rules, label in ((False, "without rules"), (True, "with rules")):
            inside = [[ms for at, ms in each if any(low <= at < high for low, high in spans[rules])] for each in probes]
            print(f"| {label} | {figures(inside[0])} | {figures(inside[1])} |")
        print(f"\nProcessor time of rules, Prometheus ÷ Bramble: {costs[peer.name] / costs[hub.name]:.2f}")
        print(f"{len(mine)} recorded series; " + ("all as Prometheus's." if not unequal else "\n".join(unequal[:20])))
        return not unequal and costs[hub.name] <= costs[peer.name]
    except BaseException:
        for log in work.glob("*.log"):
            print(f"{log.name}:\n{log.read_text()[-1500:]}", file=sys.stderr)
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--template", type=Path, required=True)
    parser.add_argument("--prometheus", required=True)
    parser.add_argument("--targets", type=int, default=100)
    parser.add_argument("--interval", type=int, default=15, help="seconds between evaluations of a group")
    parser.add_argument("--warm-up", type=float, default=330)
    parser.add_argument("--settle", type=float, default=30)
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    sys.exit(0 if measure(args) else 1)


if __name__ == "__main__":
    main()
