"""Pulling frames from many agents: CPU a sample, and how long the hub's event loop is away meanwhile.

usage: python -m tests.bench.pull --data DIR --template FILE [--agents 100 1000] [--interval 15] [--seconds 45]

The agents are simulated by a process that is not counted (tests/bench/simulated.py): each has a frame of some 890
samples every --interval seconds, which the hub pulls at that interval. CPU is that of all threads after --warm-up, and
includes the log, its fsync and upkeep. Lag: the hub's own histogram, and `/-/healthy` asked from outside, as in
tests/bench/loop_lag.py. Fails if the loop's p99 is above LIMIT_MS and a bare server's is not.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.loop_lag import LIMIT_MS, Lag, child, figures, p99, probing
from tests.bench.processes import Program, hub_argv, running
from tests.bench.simulated import address, simulation
from tests.ports import free_port


def measure(args: argparse.Namespace, agents: int) -> bool:
    """One size of fleet; prints its line, and answers whether the limit held."""
    work = Path(tempfile.mkdtemp(prefix="bramble-bench-"))
    programs: list[Program] = []
    try:
        with simulation(args.data, args.template, args.interval) as ports, running(programs):
            config = work / "config.yml"
            listed = ", ".join(f'"{address(number)}:{ports}"' for number in range(agents))
            config.write_text(
                f"bramble: {{discovery: false, pull_interval: {args.interval}s, "
                f"pull_timeout: {min(10, args.interval)}s, agents: [{listed}]}}\n"
            )
            port, other = free_port(), free_port()
            hub = Program("Bramble", hub_argv(config, work / "hub", port), port, work / "hub.log")
            programs.append(hub)
            with child("--bare", str(other)), probing(port, other) as prober:
                time.sleep(args.warm_up)
                lag, began = Lag(hub), time.monotonic()
                cpu, samples, pulls = hub.cpu(), hub.metric("bramble_hub_pull_samples_total"), _failures(hub)
                time.sleep(args.seconds)
                cpu, samples = hub.cpu() - cpu, hub.metric("bramble_hub_pull_samples_total") - samples
                over, own = time.monotonic(), lag.look()
                assert prober.stdin is not None
                assert prober.stdout is not None
                prober.stdin.close()
                found = json.loads(prober.stdout.read())
            mine, bare = ([ms for at, ms in times if began <= at < over] for times in found)
            failed = _failures(hub) - pulls
            print(
                f"| {agents} | {samples / args.seconds:,.0f} | {cpu / max(1.0, samples) * 1e6:.2f} | "
                f"{cpu / args.seconds:.2f} | {figures(mine)} | {figures(bare)} | {own} | {failed:.0f} | "
                f"{hub.memory()['VmRSS']:.0f} |",
                flush=True,
            )
            return p99(mine) <= LIMIT_MS or p99(bare) > LIMIT_MS
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _failures(hub: Program) -> float:
    text = hub.get("/metrics")[1].decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if 'hub_pulls_total{outcome="failure"' in line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--template", type=Path, required=True)
    parser.add_argument("--agents", type=int, nargs="*", default=[100, 1000])
    parser.add_argument("--interval", type=int, default=15)
    parser.add_argument("--warm-up", type=float, default=40)
    parser.add_argument("--seconds", type=float, default=45)
    args = parser.parse_args()
    heads = "agents | samples/s | µs a sample | cores | probe p50, ms | p99 | max | bare p50 | p99 | max"
    print(f"| {heads} | own p50 | p99 | max | failed pulls | MB |")
    print("|---:|" + "---:|" * 14)
    held = [measure(args, agents) for agents in args.agents]
    sys.exit(0 if all(held) else 1)


if __name__ == "__main__":
    main()
