"""CPU a scrape and memory of the agent beside node_exporter's, in the same run, on the same collectors.

    python -m tests.bench.edge_scrape [--peer prometheus-node-exporter] [--scrapes 500] [--growth 10000]

The peer is the newest that `../shared/bench/peers.sh` brings, or the system's. Both answer gzipped text over one kept
connection. The agent samples and keeps its log meanwhile, which the peer does not; that is in its figures. Fails when
the agent takes more than LIMIT times the peer's CPU, more than MAX_PSS, or grows over `--growth` scrapes.
"""

import argparse
import http.client
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT = 1.5
MAX_PSS_KB = 48 * 1024
MAX_GROWTH_KB = 3 * 1024
WARM = 20
HOUR = 240
PARTS = 12
SHARED = (
    *("arp", "conntrack", "cpu", "cpufreq", "diskstats", "entropy", "filefd", "filesystem", "hwmon", "kernel_hung"),
    *("loadavg", "mdadm", "meminfo", "netclass", "netdev", "netstat", "nvme", "os", "powersupplyclass", "pressure"),
    *("schedstat", "sockstat", "softnet", "stat", "textfile", "thermal_zone", "time", "timex", "udp_queues", "uname"),
    *("vmstat", "watchdog"),
)


class Program:
    """A running exporter; its CPU and memory are read from /proc."""

    def __init__(self, argv: list[str], port: int) -> None:
        self.process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for _ in range(100):
            try:
                self.scrape()
            except OSError:
                self.connection.close()
                time.sleep(0.1)
            else:
                return
        raise SystemExit(f"{argv[0]} does not answer")

    def scrape(self) -> int:
        """Scrape once; bytes of the answer."""
        self.connection.request("GET", "/metrics", headers={"Accept-Encoding": "gzip", "Accept": "text/plain"})
        return len(self.connection.getresponse().read())

    def cpu(self) -> float:
        """CPU seconds of all its threads so far (schedstat: nanoseconds)."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9

    def pss(self) -> int:
        """Proportional set size in kB."""
        lines = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().split("\n")
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))

    def stop(self) -> None:
        """End it."""
        self.connection.close()
        self.process.terminate()
        self.process.wait(10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default=shutil.which("prometheus-node-exporter"))
    parser.add_argument("--scrapes", type=int, default=500)
    parser.add_argument("--growth", type=int, default=0, help="scrapes over which the agent must not grow")
    parser.add_argument("--port", type=int, default=29180)
    args = parser.parse_args()
    if not args.peer:
        raise SystemExit("no prometheus-node-exporter: give --peer")
    chosen = ["--collector.disable-defaults", *(f"--collector.{name}" for name in SHARED)]
    storage = tempfile.mkdtemp(prefix="bramble-bench-")
    agent_argv = [sys.executable, "-m", "edge.cli", f"--web.listen-address=127.0.0.1:{args.port}"]
    agent_argv += [f"--storage.path={storage}", "--no-discovery.mdns"]
    peer_argv = [args.peer, f"--web.listen-address=127.0.0.1:{args.port + 1}"]
    version = subprocess.run([args.peer, "--version"], capture_output=True, text=True).stdout.split("\n")[0]
    print(f"peer: {version}; {os.cpu_count()} CPUs")
    programs: list[Program] = []
    try:
        agent = Program(agent_argv + chosen, args.port)
        programs.append(agent)
        peer = Program(peer_argv + chosen, args.port + 1)
        programs.append(peer)
        spent = {agent: 0.0, peer: 0.0}
        for program in (agent, peer):
            for _ in range(WARM):
                program.scrape()
        # Turn and turn about, so that what else the machine does falls on both alike.
        for _ in range(args.scrapes):
            for program in (agent, peer):
                before = program.cpu()
                program.scrape()
                spent[program] += program.cpu() - before
        ours, theirs = spent[agent] / args.scrapes * 1000, spent[peer] / args.scrapes * 1000
        print(f"CPU a scrape: agent {ours:.2f} ms, peer {theirs:.2f} ms, ratio {ours / theirs:.2f}")
        print(f"PSS then: agent {agent.pss() / 1024:.1f} MB, peer {peer.pss() / 1024:.1f} MB")
        failed = ours > LIMIT * theirs
        agent.stop()
        programs.remove(agent)
        agent = Program(agent_argv, args.port)
        programs.append(agent)
        for _ in range(HOUR):
            agent.scrape()
        print(f"default configuration: PSS after an hour's worth of scrapes {agent.pss() / 1024:.1f} MB")
        failed = failed or agent.pss() > MAX_PSS_KB
        seen: list[int] = []
        for _ in range(PARTS if args.growth else 0):
            for _ in range(args.growth // PARTS):
                agent.scrape()
            seen.append(agent.pss())
        if seen:
            # The allocator's arenas make single looks differ by megabytes either way: medians tell a trend.
            first, last = statistics.median(seen[:4]), statistics.median(seen[-4:])
            print(f"over {args.growth} scrapes: PSS {first / 1024:.1f} MB at first, {last / 1024:.1f} MB at last")
            failed = failed or last > MAX_PSS_KB or last - first > MAX_GROWTH_KB
    finally:
        for program in programs:
            program.stop()
        shutil.rmtree(storage, ignore_errors=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
