"""All that is promised of the hub's storage, beside Prometheus, in one table.

usage: python -m tests.bench.storage_suite --data DIR [--prometheus FILE] [--node-exporter FILE] [--quick]
                                           [--targets 25] [--hosts 1000] [--slots 8] [--only PART ...]

Parts: generator, noise, real, million, memory. About ten minutes on two quiet cores; `--quick` takes smaller sizes. As
root the stores lie on loop devices, which are counted. Exits with 1 if a promise is missed.
"""

import argparse
import platform
import subprocess
import sys
import time
from pathlib import Path

from tests.bench import storage, storage_million
from tests.bench.storage_peers import HEAD, ROOT, work
from tests.bench.storage_real import Recorder

PARTS = ("generator", "noise", "real", "million", "memory")
RECORDED_SECONDS = 300


def machine(prometheus: str) -> str:
    """One line about where this ran."""
    model = next(
        (
            x.partition(":")[2].strip()
            for x in Path("/proc/cpuinfo").read_text().splitlines()
            if x.startswith("model name")
        ),
        platform.machine(),
    )
    version = subprocess.run([prometheus, "--version"], capture_output=True, text=True).stdout.partition("(")[0].strip()
    load = Path("/proc/loadavg").read_text().split()[0]
    python = platform.python_version()
    return f"{time.strftime('%Y-%m-%d')}, {model}, Python {python}, {version}, load {load} at the start."


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--prometheus", default="prometheus")
    parser.add_argument("--node-exporter", default="prometheus-node-exporter")
    parser.add_argument("--targets", type=int, default=25)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    args = parser.parse_args()
    if args.quick:
        args.targets, args.hosts, args.slots = 3, 50, 3
    began = time.monotonic()
    table, missed = [machine(args.prometheus), "", *HEAD], list[str]()
    with work() as folder:
        recorder = Recorder(args.node_exporter, folder) if "real" in args.only else None
        if recorder is not None:
            recorder.start()
        for noise, part in ((False, "generator"), (True, "noise")):
            if part in args.only:
                many = min(args.targets, 5) if noise else args.targets
                lines, failed = storage.generator(args.data, args.prometheus, many, noise)
                table += lines
                missed += failed
        if "million" in args.only:
            million = argparse.Namespace(prometheus=args.prometheus, hosts=args.hosts, rows=1000, slots=args.slots)
            table += storage_million.compare(million, folder)
        if "memory" in args.only:
            sizes = ["--hosts=20", "--slots=100"] if args.quick else ["--loose=200000", "--every=20"]
            command = [sys.executable, "-m", "tests.bench.storage_memory", "--bare", *sizes]
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
            table += done.stdout.splitlines()
            if done.returncode:
                missed.append(f"memory: {done.stderr.strip() or 'a peak is above the limit'}")
        if recorder is not None:
            wanted = 60 if args.quick else RECORDED_SECONDS
            time.sleep(max(0.0, wanted - (time.monotonic() - began)))
            real = recorder.stop()
            what = f"this machine, {len(real[0].labels)} series x {len(real[0].times)} at 1 s"
            lines, failed = storage.measure(what, real, args.prometheus, {storage.SIZE: 0.5}, whole=True)
            table += lines
            missed += failed
    print("\n".join([*table, "", f"{(time.monotonic() - began) / 60:.0f} minutes in all."]))
    missed += [f"{line} missed" for line in table if over(line)]
    for line in dict.fromkeys(missed):
        print(line, file=sys.stderr)
    return 1 if missed else 0


def over(line: str) -> bool:
    """Whether a line of the table has a ratio above what was promised."""
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    try:
        return float(cells[3]) > float(cells[4])
    except (ValueError, IndexError):
        return False


if __name__ == "__main__":
    sys.exit(main())
