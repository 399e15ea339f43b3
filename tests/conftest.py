"""Guards for every test: no blocked event loop, no leaked thread, no leaked task."""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import aiohttp  # noqa: F401 - see keep_subnormals() below
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings

from common.floats import keep_subnormals
from common.testing import FakeClock

SLOWER = float(os.environ.get("BRAMBLE_SLOWER", "1"))
"""How many times slower than a real one this machine runs: tests/armhf says so of an emulated processor."""

MAX_BLOCK_SECONDS = 0.5 * SLOWER
SHARED = Path(__file__).resolve().parents[2] / "shared"

# Hypothesis measures examples against 200 ms and generation against its own idea of slow, on the wall's clock: on a
# busy machine neither tells anything about Bramble. What the examples assert stays, and so does their number.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


keep_subnormals()  # as the programs do after their imports, aiohttp being the one that matters


@pytest.fixture
def shared() -> Path:
    """The conformance data beside the checkout; skips where it is not there."""
    if not SHARED.is_dir():
        pytest.skip("no conformance data: ../shared is not beside this checkout")
    return SHARED


@pytest.fixture
def clock() -> FakeClock:
    """A clock that only the test moves."""
    return FakeClock()


@pytest.fixture(autouse=True)
def loop_block_guard(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test in which one callback holds the event loop for more than MAX_BLOCK_SECONDS."""
    if request.node.get_closest_marker("blocking") or request.node.get_closest_marker("integration"):
        yield
        return
    slow: list[str] = []
    original = asyncio.events.Handle._run

    def timed(handle: asyncio.events.Handle) -> None:
        # CPU time of this thread: a busy machine must not fail a test, a callback that computes must.
        began = time.thread_time()
        try:
            original(handle)
        finally:
            if time.thread_time() - began > MAX_BLOCK_SECONDS:
                slow.append(repr(handle))

    monkeypatch.setattr(asyncio.events.Handle, "_run", timed)
    yield
    assert not slow, f"the event loop was blocked for more than {MAX_BLOCK_SECONDS} s by {slow}"


@pytest.fixture(autouse=True)
def thread_leak_guard(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a thread behind (executor workers of a closed loop get a moment to end)."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 20.0
    while left := [t for t in threading.enumerate() if t not in before and t.is_alive()]:
        if time.monotonic() > deadline:
            pytest.fail(f"leaked threads: {[t.name for t in left]}")
        time.sleep(0.01)


@pytest_asyncio.fixture
async def no_task_left() -> AsyncIterator[None]:
    """Fail the async test that requested it if it leaves a task behind."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not left, f"leaked tasks: {left}"


@pytest.fixture(autouse=True)
def task_leak_guard(request: pytest.FixtureRequest) -> None:
    """Put every async test under `no_task_left`."""
    if asyncio.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("no_task_left")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where everything is installed (CI sets BRAMBLE_NO_SKIPS), a skipped test is a failed one."""
    report = yield
    if report.skipped and os.environ.get("BRAMBLE_NO_SKIPS") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be: {report.longrepr}"
    return report
