"""The operating system by os-release(5)."""

import re
from datetime import UTC, datetime

from edge.collectors.base import GAUGE, Collector, Desc, NoDataError, Reading, Skip
from edge.collectors.files import read_text

KEYS = (
    *("build_id", "id", "id_like", "image_id", "image_version", "name", "pretty_name"),
    *("variant", "variant_id", "version", "version_codename", "version_id"),
)
INFO = Desc("node_os_info", GAUGE, f"A metric with a constant '1' value labeled by {', '.join(KEYS)}.", KEYS)
VERSION = Desc(
    "node_os_version",
    GAUGE,
    "Metric containing the major.minor part of the OS version.",
    ("id", "id_like", "name"),
)
SUPPORT_END = Desc(
    "node_os_support_end_timestamp_seconds",
    GAUGE,
    "Metric containing the end-of-life date timestamp of the OS.",
)
FILES = ("etc/os-release", "usr/lib/os-release")

_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?", re.ASCII)
_ESCAPE = re.compile(r"\\(.)")


def parse_os_release(text: str) -> dict[str, str]:
    """Variables of an os-release file; shell quotes and escapes removed."""
    found: dict[str, str] = {}
    for line in text.split("\n"):
        key, equals, value = line.strip().partition("=")
        if not equals or key.startswith("#"):
            continue
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            quote, value = value[0], value[1:-1]
            value = _ESCAPE.sub(r"\1", value) if quote == '"' else value
        found[key] = value
    return found


def os_readings(release: dict[str, str], skip: Skip) -> list[Reading]:
    """The info series and, where they can be read as such, version and end of support."""
    get = release.get
    readings: list[Reading] = [(INFO, tuple(get(key.upper(), "") for key in KEYS), 1.0)]
    match = _NUMBER.match(get("VERSION_ID", ""))
    if match:
        readings.append((VERSION, (get("ID", ""), get("ID_LIKE", ""), get("NAME", "")), float(match[0])))
    if end := get("SUPPORT_END"):
        try:
            readings.append((SUPPORT_END, (), datetime.strptime(end, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()))
        except ValueError as err:
            skip("os-release SUPPORT_END", err)
    return readings


class OsCollector(Collector):
    """node_os_*"""

    name = "os"
    descs = (INFO, VERSION, SUPPORT_END)

    def collect(self, skip: Skip) -> list[Reading]:
        for name in FILES:
            try:
                return os_readings(parse_os_release(read_text(self.paths.root(name))), skip)
            except FileNotFoundError:
                continue
        raise NoDataError("there is no os-release file")
