"""Reads of procfs and sysfs: few system calls, bounded, as text that never fails to decode."""

import errno
import os

from common.errors import FormatError
from edge.collectors.base import Skip

MAX_FILE = 8 << 20
"""Most bytes read of any file; a longer one is an error, so that a wrong mount cannot eat the memory."""

MAX_DIGITS = 40

_CHUNK = 1 << 16
_FLAGS = os.O_RDONLY | os.O_CLOEXEC


def read_bytes(path: str, limit: int = MAX_FILE) -> bytes:
    """The whole file; OSError as open(2) and read(2) give it, FormatError beyond `limit` bytes."""
    fd = os.open(path, _FLAGS)
    try:
        data = os.read(fd, _CHUNK)
        if not data:
            return data
        more = os.read(fd, _CHUNK)
        if not more:
            return data
        parts = [data, more]
        size = len(data) + len(more)
        while more := os.read(fd, _CHUNK):
            parts.append(more)
            size += len(more)
            if size > limit:
                raise FormatError(f"{path} is longer than {limit} bytes")
        return b"".join(parts)
    finally:
        os.close(fd)


def read_text(path: str, limit: int = MAX_FILE) -> str:
    """The whole file as UTF-8; what is not becomes U+FFFD. Split it with `split("\\n")`, never `splitlines()`."""
    return read_bytes(path, limit).decode("utf-8", "replace")


def read_attr(path: str) -> str:
    """A sysfs attribute (one page at most, sysfs(5)) without surrounding white space and zero bytes."""
    fd = os.open(path, _FLAGS)
    try:
        return os.read(fd, 4096).decode("utf-8", "replace").strip(" \t\r\n\0")
    finally:
        os.close(fd)


def integer(text: str | bytes, base: int = 10) -> int:
    """An integer of at most MAX_DIGITS characters; ValueError beyond, as no float and no kernel counter holds it."""
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} characters")
    return int(text, base)


def read_int(path: str) -> int:
    """A sysfs attribute that is one decimal integer; FormatError names the file if it is not."""
    text = read_attr(path)
    try:
        return integer(text)
    except ValueError:
        raise FormatError(f"{path}: expected an integer, got {text[:40]!r}") from None


def list_dir(path: str) -> list[str]:
    """Names in a directory, sorted; OSError as scandir(3) gives it."""
    return sorted(os.listdir(path))  # noqa: PTH208 - names, not paths, and far cheaper


ABSENT = frozenset(
    {errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP, errno.ENODATA, errno.ENXIO, errno.ENODEV, errno.ENOTDIR}
)
"""How drivers say that they do not have an attribute; no reading, but no failure either."""


def optional_attr(path: str, skip: Skip) -> str | None:
    """The attribute, or None if there is none (ABSENT) or reading it fails (then `skip` is told)."""
    try:
        return read_attr(path)
    except OSError as err:
        if err.errno not in ABSENT:
            skip(path, err)
        return None


def optional_int(path: str, skip: Skip, base: int = 10) -> int | None:
    """The attribute as an integer (base 0: also `0x20`), or None as `optional_attr`, or if it is no integer."""
    text = optional_attr(path, skip)
    if text is None:
        return None
    try:
        return integer(text, base)
    except ValueError as err:
        skip(path, err)
        return None


def page_size() -> int:
    """Bytes of a page of memory."""
    return os.sysconf("SC_PAGE_SIZE")
