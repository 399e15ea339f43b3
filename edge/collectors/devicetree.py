"""Device tree properties: big-endian 32-bit cells and zero-terminated strings (devicetree.org, 2.2.4)."""

from edge.collectors.base import Paths
from edge.collectors.files import read_bytes

MAX_PROPERTY = 4096


def read_property(paths: Paths, name: str) -> bytes | None:
    """The raw property below the tree's root, or None if there is none or it cannot be read.

    sysfs comes first: /proc/device-tree is an absolute link, which under `--path.procfs` would leave the given root.
    """
    for path in (paths.sys("firmware/devicetree/base", name), paths.proc("device-tree", name)):
        try:
            return read_bytes(path, MAX_PROPERTY)
        except OSError:
            continue
    return None


def read_string(paths: Paths, name: str) -> str:
    """The first string of a property, '' if there is none."""
    raw = read_property(paths, name)
    return "" if raw is None else raw.split(b"\0")[0].decode("utf-8", "replace").strip()


def read_cell(paths: Paths, name: str) -> int | None:
    """The first 32-bit cell of a property, or None."""
    raw = read_property(paths, name)
    return None if raw is None or len(raw) < 4 else int.from_bytes(raw[:4], "big")


def is_raspberry_pi(paths: Paths) -> bool:
    """Whether the machine's device tree calls itself a Raspberry Pi."""
    return "Raspberry Pi" in read_string(paths, "model")
