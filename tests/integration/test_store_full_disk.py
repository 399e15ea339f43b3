"""A hub on a file system that is really full: it pauses, says so, loses nothing that it acknowledged, and goes on."""

import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from common.labels import Labels
from common.remote import snappy
from common.remote.read import encode_result, encode_series
from tests.integration.programs import Running, Start, hub, programs, wait_for
from tests.ports import free_port

pytestmark = pytest.mark.integration
HEADERS = {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy"}
START = 1_700_000_000_000
SERIES = 200


@pytest.fixture
def start() -> Iterator[Start]:
    with programs() as starter:
        yield starter


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 2 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting needs root: {done.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def write(program: Running, slot: int) -> int:
    """Send one slot of all series, whose values don't compress; the HTTP status."""
    values = np.random.default_rng(slot).random(SERIES)
    parts = [
        encode_series(Labels.of(__name__="m", i=str(i)), np.array([START + slot]), values[i : i + 1])
        for i in range(SERIES)
    ]
    request = urllib.request.Request(f"{program.url}/api/v1/write", snappy.compress(encode_result(parts)), HEADERS)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as err:
        return err.code


def paused(program: Running) -> bool:
    with urllib.request.urlopen(f"{program.url}/metrics", timeout=60) as answer:
        return b"bramble_hub_storage_paused 1.0" in answer.read()


def stored(program: Running) -> int:
    """Samples of one series."""
    return int(program.client.instant('count_over_time(m{i="7"}[1m])', (START + 30_000) / 1000)[0].value)


def test_a_full_file_system_pauses_the_hub_and_nothing_acknowledged_is_lost(start: Start, small_disk: Path) -> None:
    flags = [
        "--no-discovery.mdns",
        "--web.enable-remote-write-receiver",
        f"--storage.tsdb.path={small_disk / 'data'}",
        "--storage.tsdb.retention.time=200y",
    ]
    port = free_port()
    folder = small_disk.parent / "hub"
    program = hub(start, folder, *flags, port=port).wait_ready()
    (small_disk / "ballast").write_bytes(bytes(1_200_000))
    acknowledged, statuses = 0, set()
    for slot in range(2000):
        statuses.add(status := write(program, slot))
        if status != 204:
            break
        acknowledged += 1
    assert statuses == {204, 503}
    assert acknowledged > 10
    wait_for(lambda: paused(program), "the pause to show")
    (small_disk / "ballast").unlink()
    wait_for(lambda: write(program, acknowledged) == 204, "writes to be taken again", 60)
    assert not paused(program)
    assert stored(program) == acknowledged + 1
    program.kill()
    program = hub(start, folder, *flags, port=port).wait_ready()
    assert stored(program) == acknowledged + 1
