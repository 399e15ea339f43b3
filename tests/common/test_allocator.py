"""Free pages of C's heap go back to the system."""

import ctypes
from pathlib import Path

import numpy as np
import pytest

from common.allocator import trim

MIB = 1 << 20


def resident() -> int:
    """Bytes."""
    line = next(line for line in Path("/proc/self/status").read_text("ascii").splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="C's library is not glibc")
def test_holes_between_arrays_that_stay_are_given_back() -> None:
    # Small enough for the heap, not mappings of their own, which go back by themselves.
    arrays: list[np.ndarray | None] = [np.ones(12_000) for _ in range(640)]
    for at in range(len(arrays)):
        if at % 8:
            arrays[at] = None
    before = resident()
    trim()
    assert before - resident() > 30 * MIB
    assert all(array is None or array.sum() == 12_000 for array in arrays)
