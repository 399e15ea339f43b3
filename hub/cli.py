"""`bramble-hub`: flags as Prometheus has them, then the hub. Exit 2: bad flags or configuration; 1: it can't start."""

import argparse
import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence

from common import logs
from common.clock import SystemClock
from common.errors import BrambleError, ConfigError
from common.files import allow_open_files
from common.flags import Parser, path_flag, typed
from common.floats import keep_subnormals
from common.logs import EventLog
from common.supervisor import until_signal
from common.units import format_duration, parse_duration, parse_size
from hub.config import DEFAULT_FILE, parse_address
from hub.memory import MOST_SAMPLES
from hub.options import ALWAYS_ON, FEATURES, IGNORED_FEATURES, Options

PROGRAM = "bramble-hub"
_log = EventLog("hub")


def _address(text: str) -> tuple[str, int]:
    if text.startswith(":"):
        text = "[::]" + text
        host, port = parse_address(text)
        host = ""
    else:
        host, port = parse_address(text)
    if port is None:
        raise ValueError(f'expected HOST:PORT or :PORT, got "{text}"')
    return host, port


def _positive_duration(text: str) -> int:
    if (ms := parse_duration(text)) <= 0:
        raise ValueError(f'expected a duration above 0, got "{text}"')
    return ms


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise ValueError(f'expected a whole number above 0, got "{text}"')
    return int(text)


def _features(text: str) -> frozenset[str]:
    return frozenset(filter(None, (name.strip() for name in text.split(","))))


def _prefix(text: str) -> str:
    if any(c.isspace() or c in "?#" for c in text):
        raise ValueError(f'expected a path like /prometheus, got "{text}"')
    return "/" + text.strip("/")


def _url(text: str) -> str:
    if text and not text.startswith(("http://", "https://")):
        raise ValueError(f'expected a URL like http://pi:9090/, got "{text}"')
    return text


def build_parser() -> Parser:
    """All flags; destinations are their names."""
    default = Options()
    about = "Pulls from Bramble agents, scrapes other exporters, stores, answers PromQL, evaluates rules."
    parser = Parser(PROGRAM, about)

    def add(name: str, text: str, parse: Callable[[str], object], metavar: str, value: object, shown: str) -> None:
        parser.add_argument(
            f"--{name}",
            dest=name,
            default=value,
            type=typed(parse),
            help=f"{text} (default: {shown})".replace("%", "%%"),
            metavar=metavar,
        )

    add(
        "config.file",
        "Configuration file.",
        path_flag,
        "FILE",
        None,
        f"{DEFAULT_FILE} if it is there, else built-in defaults",
    )
    add(
        "web.listen-address",
        "Address for the API, the page and the own metrics; :PORT for all.",
        _address,
        "HOST:PORT",
        default.listen,
        "0.0.0.0:9090",
    )
    add("web.external-url", "URL under which users reach the hub.", _url, "URL", "", "none")
    add("web.route-prefix", "Prefix of all paths.", _prefix, "PATH", None, "path of --web.external-url")
    add(
        "web.read-timeout",
        "How long a client may take to send a request, and a connection may be idle.",
        _positive_duration,
        "DURATION",
        default.read_timeout_ms,
        format_duration(default.read_timeout_ms),
    )
    add(
        "web.max-connections",
        "Most connections at a time; others wait for one to end.",
        _positive,
        "N",
        default.max_connections,
        str(default.max_connections),
    )
    add(
        "web.max-notifications-subscribers",
        "Most clients that follow /api/v1/notifications/live; others get 204.",
        _positive,
        "N",
        default.notification_subscribers,
        str(default.notification_subscribers),
    )
    add("web.page-title", "Title of the page.", str, "TEXT", default.page_title, default.page_title)
    add(
        "web.cors.origin",
        "Regex (anchored) of origins that browsers may query from.",
        str,
        "REGEX",
        default.cors_origin,
        default.cors_origin,
    )
    for name, text in (
        ("web.enable-remote-write-receiver", "Take samples that others push to /api/v1/write (remote write 1.0, 2.0)."),
        ("web.enable-admin-api", "Offer /api/v1/admin: deleting series, snapshots, dropping caches."),
        ("web.enable-lifecycle", "Offer /-/reload and /-/quit."),
    ):
        parser.add_argument(
            f"--{name}", dest=name, action=argparse.BooleanOptionalAction, default=False, help=f"{text} (default: no)"
        )
    add("storage.tsdb.path", "Directory of the stored data.", path_flag, "DIR", default.data, "data/")
    add(
        "storage.tsdb.retention.time",
        "How long samples are kept; 0 for ever.",
        parse_duration,
        "DURATION",
        default.retention_ms,
        format_duration(default.retention_ms),
    )
    add(
        "storage.tsdb.retention.size",
        "How many bytes log and blocks may take, the oldest blocks go first; 0 for no limit.",
        parse_size,
        "SIZE",
        default.retention_bytes,
        "0",
    )
    add(
        "memory.limit",
        "Memory that the program plans with: what would take more is answered 429, and pulls pause.",
        parse_size,
        "SIZE",
        default.memory_limit,
        "half of the machine's or the container's",
    )
    parser.add_argument(
        "--discovery.mdns",
        dest="discovery.mdns",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="Look for agents by mDNS (default: yes, unless bramble.discovery is false).",
    )
    add(
        "query.lookback-delta",
        "How far back a query looks for a sample.",
        _positive_duration,
        "DURATION",
        default.lookback_ms,
        format_duration(default.lookback_ms),
    )
    add(
        "query.timeout",
        "How long a query may take.",
        _positive_duration,
        "DURATION",
        default.query_timeout_ms,
        format_duration(default.query_timeout_ms),
    )
    add(
        "query.max-samples",
        "Most samples a query may hold in memory.",
        _positive,
        "N",
        default.max_samples,
        f"{MOST_SAMPLES}, less where the memory limit is below 1.6GB: one for each 32 bytes of it",
    )
    add(
        "query.max-concurrency",
        "Most queries at a time.",
        _positive,
        "N",
        default.max_concurrency,
        str(default.max_concurrency),
    )
    add(
        "query.result-cache-size",
        "Most bytes of results of range queries that are kept for repetitions; 0 for none.",
        parse_size,
        "SIZE",
        default.result_cache_bytes,
        "a 32nd of the memory, at most 128MB",
    )
    parser.add_argument(
        "--enable-feature",
        dest="enable-feature",
        action="append",
        default=[],
        type=typed(_features),
        metavar="NAMES",
        help=f"Features to switch on, with commas between: {', '.join(sorted(FEATURES))}.",
    )
    parser.add_argument(
        "--log.level",
        dest="log.level",
        choices=logs.LEVELS,
        default=default.log_level,
        metavar="LEVEL",
        help=f"Lowest level that is logged, one of {', '.join(logs.LEVELS)} (default: {default.log_level}).",
    )
    return parser


def options(given: Mapping[str, object]) -> Options:
    """Options from parsed flags."""
    values = {name: given[flag] for flag, name in Options.FLAGS.items()}
    features: frozenset[str] = frozenset()
    for names in given["enable-feature"]:  # type: ignore[attr-defined]
        features |= names
    file = given["config.file"]
    if file is None and DEFAULT_FILE.exists():
        file = DEFAULT_FILE
    return Options(**{**values, "config_file": file, "features": features})  # type: ignore[arg-type]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the hub until a signal; the exit status."""
    given = vars(build_parser().parse_args(argv))
    chosen = options(given)
    # Imported late: --help and --version need neither numpy nor an HTTP server.
    from hub.app import Hub, load_all

    keep_subnormals()
    try:
        loaded = load_all(chosen)
    except ConfigError as err:
        print(f"{PROGRAM}: error: {err}", file=sys.stderr)
        return 2
    logs.setup(chosen.log_level)
    for name in sorted(chosen.features - FEATURES - ALWAYS_ON):
        known = name in IGNORED_FEATURES
        event = "this feature of Prometheus changes nothing here" if known else "unknown option for --enable-feature"
        _log.warn(event, option=name)
    allow_open_files()
    try:
        hub = Hub(chosen, loaded, SystemClock())
        asyncio.run(until_signal(hub.run))
    except (BrambleError, OSError) as err:
        _log.error("cannot run", error=err)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
