"""`bramble-edge`: flags as node_exporter and Prometheus have them. Exit 2: bad flags or file; 1: it can't run."""

import argparse
import asyncio
import dataclasses
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from common import logs
from common.clock import SystemClock
from common.config import Duration, Size, load_file
from common.errors import BrambleError, ConfigError
from common.flags import Parser, path_flag, program_version, typed
from common.floats import keep_subnormals
from common.listen import bind
from common.logs import EventLog
from common.supervisor import until_signal
from common.units import parse_duration, parse_size
from edge.collectors.registry import add_flags, build_runner
from edge.config import (
    FALLBACK_STORAGE,
    Address,
    EdgeConfig,
    LogLevel,
    PathsConfig,
    StorageConfig,
    WebConfig,
    parse_address,
    storage_path,
)

PROGRAM = "bramble-edge"
_log = EventLog("agent")
T = TypeVar("T")


def build_parser() -> Parser:
    """All flags; only those given appear in the namespace, under their full name."""
    default = EdgeConfig()
    about = "Collects metrics of this machine, keeps them, and gives them to a Bramble hub or a Prometheus."
    parser = Parser(PROGRAM, about)

    def add(name: str, text: str, parse: Callable[[str], object], metavar: str, shown: object = "") -> None:
        text = f"{text} (default: {shown})" if shown != "" else text
        parser.add_argument(
            f"--{name}",
            dest=name,
            default=argparse.SUPPRESS,
            type=typed(parse),
            help=text.replace("%", "%%"),
            metavar=metavar,
        )

    add("config.file", "Settings file (edge.yml); flags win over it.", Path, "FILE", "none")
    add("web.listen-address", "Address to listen on.", parse_address, "ADDRESS", default.web.listen_address)
    add("web.max-requests", "Requests answered at the same time; 0: no limit.", _count, "N", default.web.max_requests)
    add("web.telemetry-path", "Path of the metrics page.", str, "PATH", default.web.telemetry_path)
    parser.add_argument(
        "--web.disable-exporter-metrics",
        dest="web.disable-exporter-metrics",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help="Leave the agent's own metrics (bramble_edge_*, process_*) out of that page.",
    )
    add(
        "storage.path",
        "Directory of the agent's log; it is made if missing.",
        path_flag,
        "DIR",
        f"$STATE_DIRECTORY as set by systemd, else ./{FALLBACK_STORAGE}",
    )
    add("storage.retention.time", "Samples older than this are deleted.", _duration, "DURATION", "30d")
    add("storage.retention.size", "Size of the log; the oldest samples go first.", _size, "SIZE", "512MB")
    add("storage.max-writes-per-day", "Writes of the log a day, to spare flash; 0: no limit.", _count, "N", 0)
    add("sample.interval", "How often all collectors are read and stored.", _duration, "DURATION", "15s")
    add("commit.interval", "How often samples are written to disk.", _duration, "DURATION", "1m")
    parser.add_argument(
        "--discovery.mdns",
        dest="discovery.mdns",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help="Announce the agent to hubs by mDNS (default: yes).",
    )
    add("log.level", f"Lowest level that is logged, one of {', '.join(LogLevel)}.", _level, "LEVEL", "info")
    add_flags(parser)
    return parser


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError(f'expected a whole number, 0 or more, got "{text}"')
    return int(text)


def _duration(text: str) -> Duration:
    return Duration(parse_duration(text))


def _size(text: str) -> Size:
    return Size(parse_size(text))


def _level(text: str) -> LogLevel:
    try:
        return LogLevel(text)
    except ValueError:
        raise ValueError(f'expected one of {", ".join(LogLevel)}, got "{text}"') from None


def settings(given: Mapping[str, object]) -> EdgeConfig:
    """The file named by `config.file`, with the flags in `given` over it; ConfigError if either can't be used."""
    file = given.get("config.file")
    config = load_file(EdgeConfig, file) if isinstance(file, Path) else EdgeConfig()

    def over(name: str, value: object) -> object:
        return given.get(name, value)

    try:
        web = WebConfig(
            listen_address=_as(Address, over("web.listen-address", config.web.listen_address)),
            max_requests=_as(int, over("web.max-requests", config.web.max_requests)),
            telemetry_path=_as(str, over("web.telemetry-path", config.web.telemetry_path)),
            exporter_metrics=not over("web.disable-exporter-metrics", not config.web.exporter_metrics),
        )
        path = over("storage.path", config.storage.path)
        storage = StorageConfig(
            path=None if path is None else _as(Path, path),
            retention_time=Duration(_as(int, over("storage.retention.time", config.storage.retention_time))),
            retention_size=Size(_as(int, over("storage.retention.size", config.storage.retention_size))),
            max_writes_per_day=_as(int, over("storage.max-writes-per-day", config.storage.max_writes_per_day)),
        )
        paths = {flag: str(over(flag, value)) for flag, value in config.paths.flags().items()}
        return dataclasses.replace(
            config,
            web=web,
            storage=storage,
            paths=PathsConfig(*paths.values()),
            discovery=dataclasses.replace(
                config.discovery, mdns=_as(bool, over("discovery.mdns", config.discovery.mdns))
            ),
            sample_interval=Duration(_as(int, over("sample.interval", config.sample_interval))),
            commit_interval=Duration(_as(int, over("commit.interval", config.commit_interval))),
            log_level=_as(LogLevel, over("log.level", config.log_level)),
        )
    except ValueError as err:
        key = getattr(err, "key", "")
        raise ConfigError(f"flags: {key}: {err}" if key else f"flags: {err}") from None


def _as(kind: type[T], value: object) -> T:
    assert isinstance(value, kind), (kind, value)
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agent until a signal; the exit status."""
    given = vars(build_parser().parse_args(argv))
    clock = SystemClock()
    try:
        config = settings(given)
        runner = build_runner({**given, **config.paths.flags()}, clock)
    except ConfigError as err:
        print(f"{PROGRAM}: error: {err}", file=sys.stderr)
        return 2
    logs.setup(config.log_level)
    # Imported late: --help, --version and a bad file need no HTTP server.
    from edge.agent import Agent, StopError

    keep_subnormals()
    try:
        address = config.web.listen_address
        listener = bind(address.host, address.port, "node_exporter or another bramble-edge")
        agent = Agent(config, storage_path(config.storage, os.environ), listener, runner, clock, program_version())
        asyncio.run(until_signal(agent.run))
    except StopError as err:
        _log.error("cannot stop", error=err)
        # A thread hangs in the kernel; the interpreter would wait for it.
        os._exit(1)
    except (BrambleError, OSError) as err:
        _log.error("cannot run", error=err)
        return 1
    _log.info("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
