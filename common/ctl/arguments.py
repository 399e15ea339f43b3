"""Types of command-line arguments, and what to say when an optional package is missing. Pure."""

import argparse

from common.errors import ConfigError, FormatError, QueryError
from common.labels import Matcher, is_legacy_label_name
from common.sample import Millis
from common.times import parse_time
from common.units import parse_duration


def port(text: str) -> int:
    """A TCP port number."""
    if text.isascii() and text.isdigit() and 0 < int(text) < 65536:
        return int(text)
    raise argparse.ArgumentTypeError(f'expected a port from 1 to 65535, got "{text}"')


def count(text: str) -> int:
    """A whole number from 1 on."""
    if text.isascii() and text.isdigit() and int(text):
        return int(text)
    raise argparse.ArgumentTypeError(f'expected a whole number from 1 on, got "{text}"')


def moment(text: str) -> Millis:
    """A point in time, ms."""
    try:
        return parse_time(text).window_ms
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'expected Unix seconds or RFC 3339 like 2026-07-01T12:00:00Z, got "{text}"'
        ) from None


def duration(text: str) -> int:
    """A span of time, ms, not zero."""
    try:
        if (span := parse_duration(text)) > 0:
            return span
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f'expected a duration like 15s or 1h30m, got "{text}"')


def selector(text: str) -> tuple[Matcher, ...]:
    """Matchers of a selector like `up{job="node"}`."""
    from common.promql.parser import parse_selector

    try:
        return parse_selector(text)
    except (QueryError, FormatError) as err:
        raise argparse.ArgumentTypeError(f'expected a selector like {{job="node"}}, got "{text}": {err}') from None


def label(text: str) -> tuple[str, str]:
    """A label NAME=VALUE."""
    name, found, value = text.partition("=")
    if not found or not is_legacy_label_name(name):
        raise argparse.ArgumentTypeError(f'expected a label like instance=barn:9100, got "{text}"')
    return name, value


def package_error(err: ImportError) -> ConfigError:
    """What to do about a package that only some installations have."""
    return ConfigError(f"this command needs the package {err.name}: pip install 'bramble-fleet[hub]'")
