"""Starts the programs of a local fleet, sees that they live, and stops them cleanly."""

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import BrambleError

STOP_SECONDS = 15.0
TAIL_BYTES = 2000


class StartError(BrambleError):
    """A local fleet could not be started; the text says how to get around it."""


def free_port(wanted: int, taken: set[int]) -> int:
    """The first port from `wanted` on that nobody listens on at any address and that is not in `taken`."""
    for port in range(wanted, min(wanted + 200, 65536)):
        if port not in taken and port_is_free(port):
            return port
    raise StartError(f"no free port between {wanted} and {min(wanted + 199, 65535)}")


def port_is_free(port: int) -> bool:
    """Whether a server could listen on `port` at all IPv4 addresses now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("", port))
        except OSError:
            return False
    return True


@dataclass(slots=True)
class Program:
    """A started program; its output goes to `log`."""

    name: str
    process: asyncio.subprocess.Process
    log: Path

    @property
    def exited(self) -> bool:
        """Whether it is no longer running."""
        return self.process.returncode is not None

    def tail(self) -> str:
        """The end of its log."""
        try:
            return self.log.read_bytes()[-TAIL_BYTES:].decode(errors="replace").strip()
        except OSError as err:
            return f"(no log: {err})"


async def start(name: str, module: str, flags: Sequence[str], log: Path) -> Program:
    """Start `python -m module flags` in a session of its own, so that Ctrl-C reaches only the parent."""
    with log.open("ab") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            *flags,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    return Program(name, process, log)


async def stop(programs: Sequence[Program]) -> list[str]:
    """SIGTERM to all, SIGKILL after STOP_SECONDS; names of those that had to be killed or failed on the way."""
    for program in programs:
        if not program.exited:
            with contextlib.suppress(ProcessLookupError):
                program.process.send_signal(signal.SIGTERM)
    unclean = []
    for program in programs:
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await program.process.wait()
        except TimeoutError:
            unclean.append(f"{program.name} did not stop within {STOP_SECONDS:.0f} s and was killed")
            with contextlib.suppress(ProcessLookupError):
                program.process.kill()
            await program.process.wait()
        if program.process.returncode not in (0, -signal.SIGKILL):
            unclean.append(f"{program.name} ended with status {program.process.returncode}, see {program.log}")
    return unclean


def check_alive(programs: Sequence[Program]) -> None:
    """StartError with the log's end if one of them is gone."""
    for program in programs:
        if program.exited:
            raise StartError(f"{program.name} ended with status {program.process.returncode}:\n{program.tail()}")
