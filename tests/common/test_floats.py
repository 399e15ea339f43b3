"""The floating-point mode, taken away as a library with -ffast-math does it."""

import ctypes
import platform
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from common.floats import flushes_subnormals, keep_subnormals

FLUSH = {
    "x86_64": (28, 1 << 15 | 1 << 6),  # MXCSR behind the x87 environment: flush to zero, denormals are zero
    "aarch64": (0, 1 << 24),  # FPCR.FZ
    "armv7l": (0, 1 << 24),  # FPSCR.FZ
}
"""By machine: where in fenv_t the control word lies, and the bits that flush."""


def flush_subnormals() -> None:
    libm = ctypes.CDLL("libm.so.6")
    environment = (ctypes.c_uint32 * 16)()
    libm.fegetenv(environment)
    offset, bits = FLUSH[platform.machine()]
    environment[offset // 4] |= bits
    libm.fesetenv(environment)


def in_a_thread_that_flushes() -> list[bool]:
    """What `flushes_subnormals` says before, after `keep_subnormals`, and in a thread started then."""
    said: list[bool] = []

    def run() -> None:
        flush_subnormals()
        said.append(flushes_subnormals())
        keep_subnormals()
        said.append(flushes_subnormals())
        child = threading.Thread(target=lambda: said.append(flushes_subnormals()))
        child.start()
        child.join()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return said


known_machine = pytest.mark.skipif(
    platform.machine() not in FLUSH, reason=f"no layout of fenv_t known for {platform.machine()}"
)


@known_machine
def test_subnormals_are_kept_again_here_and_in_later_threads() -> None:
    assert in_a_thread_that_flushes() == [True, False, False]


def test_the_tests_themselves_run_with_subnormals() -> None:
    assert not flushes_subnormals()
    assert float("5e-324") > 0


PROGRAM = """
import importlib, sys
from common.floats import flushes_subnormals
from tests.common.test_floats import flush_subnormals

flush_subnormals()
status = importlib.import_module(sys.argv[1]).main(sys.argv[2:])
print(status, flushes_subnormals())
"""


@known_machine
@pytest.mark.parametrize(("program", "status"), [("edge.cli", 1), ("hub.cli", 2)])
def test_a_program_keeps_subnormals_whatever_its_libraries_did(program: str, status: int, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        flag = {
            "edge.cli": f"--web.listen-address=127.0.0.1:{taken.getsockname()[1]}",
            "hub.cli": f"--config.file={tmp_path / 'none.yml'}",
        }[program]
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, program, flag],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout == f"{status} False\n"
