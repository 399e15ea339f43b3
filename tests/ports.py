"""Ports for the servers that tests and benches start."""

import itertools
import os
from pathlib import Path

from common.ctl.processes import port_is_free

FIRST, WINDOW = 10_000, 200
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def _candidates() -> "itertools.cycle[int]":
    """This process's own window of ports, round and round, from its process id."""
    try:
        end = int(_EPHEMERAL.read_text().split()[0])
    except OSError:
        end = 32_768
    windows = max((end - FIRST) // WINDOW, 1)
    start = FIRST + os.getpid() % windows * WINDOW
    return itertools.cycle(range(start, start + WINDOW))


_ports: dict[int, "itertools.cycle[int]"] = {}


def free_port(following: int = 0) -> int:
    """A TCP port that nobody listens on now, nor on the `following` ones after it.

    None that the kernel gives to connections: a port that it named could be a client's again before the server that it
    is for has started. Processes that run side by side look in different places.
    """
    candidates = _ports.setdefault(os.getpid(), _candidates())
    run: list[int] = []
    for port in itertools.islice(candidates, 4 * WINDOW):
        run = [*run, port] if port_is_free(port) and (not run or port == run[-1] + 1) else []
        if len(run) > following:
            return run[0]
    raise OSError(f"no {1 + following} free TCP ports in a row among {WINDOW} of this process")
