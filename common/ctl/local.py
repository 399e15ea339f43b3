"""`bramblectl run` and `bramblectl demo`: a hub and agents on this machine, found, queried, alerting, shown."""

import asyncio
import contextlib
import importlib.util
import json
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from common.clock import Clock
from common.ctl import processes, view
from common.ctl.client import Client
from common.ctl.demo import Tree, move, plant
from common.ctl.processes import Program, StartError
from common.errors import RemoteError

HUB_PORT = 9090
EDGE_PORT = 9100
READY_SECONDS = 30.0
DISCOVERY_SECONDS = 12.0
FIGURES_SECONDS = 40.0
INTERVAL = "2s"


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for; a port of None means "the usual one, or the next that is free"."""

    data: Path
    hub_port: int | None = None
    edge_port: int | None = None
    mdns: bool = True
    once: bool = False
    trees: Path | None = None


@dataclass(frozen=True, slots=True)
class AgentPlan:
    """One agent to start."""

    name: str
    port: int
    folder: Path
    tree: Tree | None = None


@dataclass(slots=True)
class LocalFleet:
    """The programs of one `run`; `programs` holds the hub first."""

    options: Options
    clock: Clock
    out: TextIO
    hub_port: int = 0
    agents: list[AgentPlan] = field(default_factory=list)
    programs: list[Program] = field(default_factory=list)
    headline: str = ""

    def say(self, text: str) -> None:
        print(text, file=self.out, flush=True)

    @property
    def hub(self) -> Client:
        """The hub's HTTP interface."""
        return Client(f"http://127.0.0.1:{self.hub_port}")

    def prepare(self) -> None:
        """Make folders and pick ports; StartError says what is in the way and how around it."""
        data = self.options.data
        try:
            data.mkdir(parents=True, exist_ok=True)
            probe = data / ".writable"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as err:
            raise StartError(
                f"cannot write to {data}: {err.strerror or err}; "
                "choose another folder with DATA=DIR (make) or --data DIR"
            ) from None
        taken: set[int] = set()
        self.hub_port = self._port("hub", self.options.hub_port, HUB_PORT, taken, "HUB_PORT")
        trees = plant(self.options.trees, data / "pis") if self.options.trees else [None]
        for number, tree in enumerate(trees):
            wanted = self.options.edge_port
            port = self._port(
                "agent", None if wanted is None else wanted + number, EDGE_PORT + number, taken, "EDGE_PORT"
            )
            name = tree.name if tree else "edge"
            self.agents.append(AgentPlan(name, port, data / name, tree))

    def _port(self, what: str, wanted: int | None, usual: int, taken: set[int], variable: str) -> int:
        if wanted is None:
            port = processes.free_port(usual, taken)
            if port != usual and usual not in taken:
                self.say(f"Port {usual} is in use: the {what} takes {port} (choose one with {variable}=PORT).")
        elif wanted in taken or not processes.port_is_free(wanted):
            raise StartError(f"port {wanted} is in use; choose another with {variable}=PORT, or leave it out")
        else:
            port = wanted
        taken.add(port)
        return port

    async def start(self) -> None:
        """Start all programs and wait until each answers."""
        await self._start_hub(static=not self.options.mdns)
        for agent in self.agents:
            agent.folder.mkdir(exist_ok=True)
            config = agent.folder / "edge.yml"
            config.write_text(f"sample_interval: {INTERVAL}\ncommit_interval: 10s\n", "utf-8")
            flags = [
                f"--config.file={config}",
                f"--web.listen-address=:{agent.port}",
                f"--storage.path={agent.folder / 'log'}",
            ]
            if agent.tree:
                flags += [
                    f"--path.procfs={agent.tree.path / 'proc'}",
                    f"--path.sysfs={agent.tree.path / 'sys'}",
                    f"--path.rootfs={agent.tree.path}",
                ]
            if not self.options.mdns:
                flags.append("--no-discovery.mdns")
            log = self.options.data / f"{agent.name}.log"
            self.programs.append(await processes.start(f"agent {agent.name}", "edge.cli", flags, log))
        for agent in self.agents:
            await self._until_ready(Client(f"http://127.0.0.1:{agent.port}"))

    async def _start_hub(self, static: bool) -> None:
        data = self.options.data
        config = data / "prometheus.yml"
        addresses = [f"127.0.0.1:{agent.port}" for agent in self.agents] if static else []
        rules = _shipped_rules()
        config.write_text(
            f"global: {{scrape_interval: {INTERVAL}, evaluation_interval: {INTERVAL}}}\n"
            f"rule_files: [{json.dumps(str(rules))}]\n"
            f"bramble:\n  pull_interval: {INTERVAL}\n  agents: {json.dumps(addresses)}\n",
            "utf-8",
        )
        flags = [
            f"--config.file={config}",
            f"--web.listen-address=:{self.hub_port}",
            f"--storage.tsdb.path={data / 'hub'}",
        ]
        if static:
            flags.append("--no-discovery.mdns")
        self.programs.insert(0, await processes.start("hub", "hub.cli", flags, data / "hub.log"))
        await self._until_ready(self.hub)

    async def _until_ready(self, client: Client) -> None:
        deadline = self.clock.monotonic() + READY_SECONDS
        while not await asyncio.to_thread(client.ready):
            processes.check_alive(self.programs)
            if self.clock.monotonic() > deadline:
                raise StartError(
                    f"{client.base} was not ready within {READY_SECONDS:.0f} s; see {self.options.data}/*.log"
                )
            await self.clock.sleep(0.2)

    async def discover(self) -> str:
        """Wait until the hub has found every agent; how it did: `mDNS` or `static addresses`."""
        if not self.options.mdns:
            await self._until_found(READY_SECONDS)
            return "static addresses"
        if await self._until_found(DISCOVERY_SECONDS, give_up=False):
            return "mDNS"
        self.say(
            f"mDNS found nothing within {DISCOVERY_SECONDS:.0f} s (is multicast blocked here?): "
            "falling back to static addresses."
        )
        unclean = await processes.stop([self.programs.pop(0)])
        if unclean:
            raise StartError(unclean[0])
        await self._start_hub(static=True)
        await self._until_found(READY_SECONDS)
        return "static addresses"

    async def _until_found(self, seconds: float, give_up: bool = True) -> bool:
        deadline = self.clock.monotonic() + seconds
        while True:
            processes.check_alive(self.programs)
            found = await asyncio.to_thread(self._found)
            if len(found) >= len(self.agents):
                return True
            if self.clock.monotonic() > deadline:
                if give_up:
                    count = f"{len(found)} of {len(self.agents)} agents"
                    raise StartError(f"the hub has found {count}; see {self.options.data / 'hub.log'}")
                return False
            await self.clock.sleep(0.3)

    def _found(self) -> set[str]:
        ports = {str(agent.port) for agent in self.agents}
        targets = self.hub.api("/api/v1/targets", {"state": "active"})["activeTargets"]
        return {
            port
            for target in targets
            if target["health"] == "up" and (port := str(target["scrapeUrl"]).split("/")[2].rsplit(":", 1)[-1]) in ports
        }

    async def figures(self) -> view.View:
        """The first view in which every agent has every figure."""
        deadline = self.clock.monotonic() + FIGURES_SECONDS
        while True:
            processes.check_alive(self.programs)
            seen = await asyncio.to_thread(view.fetch, self.hub)
            if seen.complete and len(seen.agents) >= len(self.agents):
                return seen
            if self.clock.monotonic() > deadline:
                missing = view.text(seen)
                raise StartError(f"some figures did not arrive within {FIGURES_SECONDS:.0f} s:\n{missing}")
            await self.clock.sleep(0.5)

    async def watch(self, first: view.View) -> None:
        """Show the table until cancelled: redrawn on a terminal, elsewhere a line for each change."""
        screen = self.out.isatty()
        last = first
        while True:
            await self.clock.sleep(0.5 if screen else 1.0)
            processes.check_alive(self.programs)
            try:
                seen = await asyncio.to_thread(view.fetch, self.hub)
            except RemoteError as err:
                self.say(f"the hub did not answer: {err}")
                continue
            if screen:
                print(f"\x1b[H\x1b[2J{self.headline}\n\n{view.text(seen)}\n\n{self.footer}", file=self.out, flush=True)
            else:
                for line in view.changes(last, seen):
                    self.say(line)
            last = seen

    @property
    def footer(self) -> str:
        """URLs to open, and how to stop."""
        lines = [f"  page   http://localhost:{self.hub_port}/"]
        lines += [f"  API    http://localhost:{self.hub_port}/api/v1/query?query=up"]
        lines += [f"  agent  http://localhost:{agent.port}/metrics" for agent in self.agents]
        lines += [f"Logs and data: {self.options.data}. Ctrl-C stops everything."]
        return "\n".join(lines)


def _shipped_rules() -> Path:
    spec = importlib.util.find_spec("hub")
    if spec is None or not spec.submodule_search_locations:
        raise StartError("the package `hub` is not installed: install bramble-fleet[hub]")
    return Path(next(iter(spec.submodule_search_locations))) / "examples" / "rules.yml"


async def run(options: Options, clock: Clock, out: TextIO | None = None) -> int:
    """Run a local fleet until cancelled (or, with `once`, until the table is complete); the exit status."""
    fleet = LocalFleet(options, clock, out or sys.stdout)
    mover: asyncio.Task[None] | None = None
    try:
        fleet.prepare()
        trees = [agent.tree for agent in fleet.agents if agent.tree]
        if trees:
            mover = asyncio.create_task(move(trees, clock), name="demo trees")
        fleet.say(f"Starting the hub and {_count(len(fleet.agents), 'agent')} ...")
        await fleet.start()
        how = await fleet.discover()
        fleet.headline = (
            f"Bramble runs on {socket.gethostname()}: the hub found {_count(len(fleet.agents), 'agent')} by {how}."
        )
        fleet.say(fleet.headline)
        seen = await fleet.figures()
        fleet.say(f"\n{view.text(seen)}\n\n{fleet.footer}")
        if not options.once:
            await fleet.watch(seen)
    except (StartError, RemoteError, OSError) as err:
        print(f"bramblectl: {err}", file=sys.stderr)
        return 1
    finally:
        if mover:
            mover.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await mover
        unclean = await processes.stop(fleet.programs)
        for line in unclean:
            print(f"bramblectl: {line}", file=sys.stderr)
    return 1 if unclean else 0


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
