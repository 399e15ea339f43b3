"""Scraping beside Prometheus: CPU a sample of 100 targets of some 890 series, in steady state and at first sight.

usage: python -m tests.bench.scrape --data DIR --template FILE --prometheus FILE [--targets 100] [--interval 5]

DIR is what gen.py wrote, --template the exposition it was made of. The targets are simulated by a process that is not
counted (tests/bench/simulated.py); both servers scrape all of them at the same interval, first without compression,
then with gzip, as each asks for it. CPU is that of all threads, over --seconds after --warm-up, and includes what
belongs to taking samples: parsing, the write-ahead log, its fsync, upkeep. First sight: from the moment the targets
appear in the configuration until one interval and a second later. Fails if a sample costs more than Prometheus's.
"""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.processes import Program, hub_argv, running
from tests.bench.simulated import address, simulation
from tests.ports import free_port


def configuration(ports: int, targets: int, interval: int, packed: bool) -> str:
    """A prometheus.yml that both read."""
    listed = "".join(f'\n          - "{address(number)}:{ports}"' for number in range(targets))
    return f"""\
global:
  scrape_interval: {interval}s
  scrape_timeout: {interval}s
scrape_configs:
  - job_name: node
    enable_compression: {str(packed).lower()}
    static_configs:
      - targets:{listed}
"""


class Measured:
    """CPU and samples of one server since the last look."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._cpu, self._samples = program.cpu(), self._count()

    def _count(self) -> float:
        return self.program.metric("prometheus_tsdb_head_samples_appended_total")

    def look(self) -> tuple[float, float]:
        """Microseconds of CPU a sample, and samples; the next look begins here."""
        cpu, samples = self.program.cpu() - self._cpu, self._count() - self._samples
        self._cpu, self._samples = self.program.cpu(), self._samples + samples
        return cpu / max(1.0, samples) * 1e6, samples


def measure(args: argparse.Namespace, packed: bool) -> float:
    """One run of both; prints its lines, and answers Prometheus's CPU a sample by ours in steady state."""
    work = Path(tempfile.mkdtemp(prefix="bramble-bench-"))
    programs: list[Program] = []
    coding = "gzip" if packed else "identity"
    try:
        with simulation(args.data, args.template, args.interval) as ports, running(programs):
            config = work / "config.yml"
            config.write_text("global: {}\n")
            port = free_port()
            programs.append(Program("Bramble", hub_argv(config, work / "hub", port), port, work / "hub.log"))
            port = free_port()
            argv = [args.prometheus, f"--config.file={config}", f"--storage.tsdb.path={work / 'prometheus'}"]
            argv += [f"--web.listen-address=127.0.0.1:{port}"]
            programs.append(Program("Prometheus", argv, port, work / "prometheus.log"))
            config.write_text(configuration(ports, args.targets, args.interval, packed))
            meters = [Measured(program) for program in programs]
            for program in programs:
                program.process.send_signal(signal.SIGHUP)
            time.sleep(args.interval + 1)
            first = [meter.look() for meter in meters]
            time.sleep(args.warm_up)
            for meter in meters:
                meter.look()
            time.sleep(args.seconds)
            steady = [meter.look() for meter in meters]
            for program, (early, early_samples), (late, samples) in zip(programs, first, steady, strict=True):
                memory = program.memory()
                print(
                    f"| {program.name}, {coding} | {late:.2f} | {samples / args.seconds:,.0f} | {early:.2f} | "
                    f"{early_samples:,.0f} | {memory['VmRSS']:.0f} | {memory['VmHWM']:.0f} |",
                    flush=True,
                )
            return steady[1][0] / steady[0][0]
    finally:
        shutil.rmtree(work, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--template", type=Path, required=True)
    parser.add_argument("--prometheus", required=True)
    parser.add_argument("--targets", type=int, default=100)
    parser.add_argument("--interval", type=int, default=5)
    parser.add_argument("--warm-up", type=float, default=30)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--coding", choices=("identity", "gzip"), help="only this one")
    args = parser.parse_args()
    print("| server, coding | µs a sample | samples/s | first sight, µs a sample | samples | MB | MB at most |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    codings = [args.coding] if args.coding else ["identity", "gzip"]
    ratios = {coding: measure(args, coding == "gzip") for coding in codings}
    print("\nProcessor time, Prometheus ÷ Bramble: " + ", ".join(f"{key} {each:.2f}" for key, each in ratios.items()))
    sys.exit(1 if min(ratios.values()) < 1 else 0)


if __name__ == "__main__":
    main()
