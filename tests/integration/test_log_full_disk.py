"""The edge's log on a file system that is really full: it pauses, loses nothing, and goes on."""

import subprocess
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.clock import SystemClock
from common.errors import StorageError
from common.frames import codec
from common.frames.model import Schema, SubSchema
from common.labels import Labels
from edge.identity import Machine
from edge.log import Log, LogOptions, Order

SCHEMA = Schema((SubSchema("n", tuple(Labels.of(__name__="n", i=str(i)) for i in range(200))),))
BASE = 1_700_000_000_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 256 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"mounting needs root: {done.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.integration
def test_a_full_file_system_pauses_the_log_and_loses_nothing(small_disk: Path) -> None:
    log = Log.open(small_disk / "log", LogOptions(), SystemClock(), machine=Machine("a", "b"))
    (small_disk / "ballast").write_bytes(bytes(100_000))
    n = failures = 0
    while failures < 3:
        for _ in range(20):
            # Odd multiples of a fraction that no decimal scale fits: frames that don't compress away.
            log.append(0, SCHEMA, BASE + n, array("d", [(n * 200 + i) / 3 for i in range(200)]))
            n += 1
        try:
            log.commit()
        except StorageError as err:
            assert "No space left on device" in str(err)
            assert log.stats().paused
            failures += 1
    (small_disk / "ballast").unlink()
    log.commit()
    assert not log.stats().paused
    assert log.stats().frames_dropped == 0
    log.close()
    log = Log.open(small_disk / "log", LogOptions(), SystemClock(), machine=Machine("a", "b"))
    stored: set[int] = set()
    for data in log.read({}, Order.OLDEST, 1 << 30).frames:
        frame = codec.decode(data)
        first = (frame.timestamps - BASE).tolist()
        assert frame.values[0].tolist() == [t * 200 / 3 for t in first]
        stored.update(first)
    assert stored == set(range(n))
    log.close()
