"""Stale markers are told from other NaNs by their bits."""

import math
import struct

from common.sample import NORMAL_NAN_BITS, STALE_NAN, is_stale


def test_only_the_stale_marker_is_stale() -> None:
    assert is_stale(STALE_NAN)
    assert not is_stale(math.nan)
    assert not is_stale(struct.unpack("<d", struct.pack("<Q", NORMAL_NAN_BITS))[0])
    assert not is_stale(1.0)
