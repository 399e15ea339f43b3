"""Durations and byte sizes as Prometheus writes them."""

import re

_DURATION = re.compile(r"(?:(\d+)y)?(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?:(\d+)ms)?\Z", re.ASCII)
_UNITS_MS = (31_536_000_000, 604_800_000, 86_400_000, 3_600_000, 60_000, 1_000, 1)
_NAMES = ("y", "w", "d", "h", "m", "s", "ms")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)(B|KB|MB|GB|TB|PB|EB|KiB|MiB|GiB|TiB|PiB|EiB)?\Z", re.ASCII)
_POWERS = {"K": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}
MAX_DURATION_MS = 2**63 // 1_000_000


def parse_duration(text: str) -> int:
    """Milliseconds of a Prometheus duration (`1h30m`, `15s`, `0`); ValueError says what was expected."""
    if text == "0":
        return 0
    match = _DURATION.match(text)
    if not text or match is None:
        raise ValueError(f'expected a duration like 30s or 1h30m, got "{text}"')
    total = sum(int(n) * ms for n, ms in zip(match.groups(), _UNITS_MS, strict=True) if n is not None)
    if total > MAX_DURATION_MS:
        raise ValueError(f'duration out of range: "{text}" is more than 292 years')
    return total


def format_duration(ms: int) -> str:
    """The shortest Prometheus text for a whole number of milliseconds (`90000` → `1m30s`), as model.Duration."""
    if ms == 0:
        return "0s"
    parts = ["-"] if ms < 0 else []
    rest = abs(ms)
    for unit, name in zip(_UNITS_MS, _NAMES, strict=True):
        # Years and weeks only when they divide evenly, else 8d would print as 1w1d (Prometheus common/model).
        if name in ("y", "w") and rest % unit:
            continue
        count, rest = divmod(rest, unit)
        if count:
            parts.append(f"{count}{name}")
    return "".join(parts)


def parse_size(text: str) -> int:
    """Bytes of a size like `512MB` or `2GiB`; as in Prometheus every unit is a power of 1024."""
    match = _SIZE.match(text)
    if match is None:
        raise ValueError(f'expected a size like 512MB or 2GB, got "{text}"')
    number, unit = match.groups()
    return int(float(number) * 1024 ** _POWERS.get((unit or "B")[0], 0))


def format_size(size: float) -> str:
    """A size for people: `1.5 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
