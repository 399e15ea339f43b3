"""The edge's log: what goes in comes out, after restarts, cuts, flips, full memory and full disks."""

import os
from array import array
from pathlib import Path

import pytest

from common.errors import LimitError, StorageError
from common.frames import codec
from common.frames.model import (
    PRESENT,
    STALE,
    Epoch,
    Flags,
    Schema,
    SubSchema,
    decode_schema,
    read_header,
)
from common.frames.ranges import RangeSet
from common.labels import Labels
from common.testing import FakeClock
from common.testing_files import UnsyncedFiles
from edge.identity import Machine
from edge.log import Log, LogOptions, LogReply, Order, Overflow

PI = Machine("serial-a", "machine-a")
ONE = Schema((SubSchema("load", (Labels.of(__name__="node_load1"), Labels.of(__name__="node_load5"))),))
TWO = Schema((*ONE.parts, SubSchema("netdev", (Labels.of(__name__="node_network_up", device="veth1"),))))
ALL = 1 << 30
BASE = 1_700_000_000_000


def open_log(path: Path, clock: FakeClock, options: LogOptions | None = None, machine: Machine = PI) -> Log:
    return Log.open(path, options or LogOptions(), clock, files=UnsyncedFiles(), machine=machine)


def put(log: Log, timestamp: int, *values: float, schema: Schema = ONE, lane: int = 0) -> None:
    """Append a slot `timestamp` ms after the clock's first moment."""
    log.append(lane, schema, BASE + timestamp, array("d", values or (1.0, 2.0)))


def samples(reply: LogReply) -> list[tuple[int, float]]:
    """(ms after the clock's first moment, first row's value) of every slot."""
    out = []
    for frame in map(codec.decode, reply.frames):
        out += (
            list(zip((frame.timestamps - BASE).tolist(), frame.values[0].tolist(), strict=True))
            if frame.header.slots
            else []
        )
    return out


def test_what_was_appended_is_read_before_and_after_a_commit(tmp_path: Path, clock: FakeClock) -> None:
    log = open_log(tmp_path, clock)
    put(log, 1000, 1.0, 2.0)
    put(log, 2000, 3.0, 4.0)
    before = log.read({}, Order.NEWEST, ALL)
    assert samples(before) == [(1000, 1.0), (2000, 3.0)]
    log.commit()
    assert log.read({}, Order.NEWEST, ALL) == before
    log.close()


def test_one_commit_is_one_write_and_one_sync(tmp_path: Path, clock: FakeClock) -> None:
    log = open_log(tmp_path, clock)
    for n in range(5):
        put(log, n * 1000)
        log.seal()
    assert log.commit()
    assert log.stats().commits == 1
    assert not log.commit()
    assert log.stats().commits == 1
    log.close()


def test_frames_of_earlier_runs_are_read_and_their_keys_never_used_again(tmp_path: Path, clock: FakeClock) -> None:
    seen: set[tuple[Epoch, int]] = set()
    for run in range(4):
        log = open_log(tmp_path, clock)
        put(log, 10_000 * run + 1, float(run), 0.0)
        log.commit()
        reply = log.read({}, Order.OLDEST, ALL)
        keys = {(h.epoch, h.seq) for h in map(read_header, reply.frames)}
        assert len(keys) == run + 1
        assert seen < keys
        assert [value for _, value in samples(reply)] == [float(n) for n in range(run + 1)]
        seen = keys
        log.close()


def test_a_reader_gets_only_what_it_lacks(tmp_path: Path, clock: FakeClock) -> None:
    log = open_log(tmp_path, clock)
    for n in range(6):
        put(log, 1000 * n, float(n), 0.0)
        log.seal()
        if n == 3:
            log.commit()
    have = {log.epoch: RangeSet([(0, 1), (4, 4)])}
    assert samples(log.read(have, Order.NEWEST, ALL)) == [(5000, 5.0), (3000, 3.0), (2000, 2.0)]
    assert samples(log.read(have, Order.OLDEST, ALL)) == [(2000, 2.0), (3000, 3.0), (5000, 5.0)]
    assert log.read(have, Order.OLDEST, ALL).available == {log.epoch: RangeSet([(0, 5)])}
    log.close()


def test_a_reply_stays_under_its_limit_but_always_makes_progress(tmp_path: Path, clock: FakeClock) -> None:
    log = open_log(tmp_path, clock)
    for n in range(5):
        put(log, 1000 * n, float(n), 0.0)
        log.seal()
    log.commit()
    have: dict[Epoch, RangeSet] = {}
    got = []
    while True:
        reply = log.read(have, Order.NEWEST, 1)
        assert len(reply.frames) <= 1
        if not reply.frames:
            break
        header = read_header(reply.frames[0])
        got.append(header.seq)
        have[header.epoch] = have.get(header.epoch, RangeSet()).add(header.seq)
        assert reply.more == (header.seq > 0)
    assert got == [4, 3, 2, 1, 0]
    log.close()


def test_newest_first_spans_memory_segments_and_runs(tmp_path: Path, clock: FakeClock) -> None:
    log = open_log(tmp_path, clock)
    put(log, 1, 1.0, 0.0)
    log.close()
    log = open_log(tmp_path, clock)
    put(log, 2, 2.0, 0.0)
    log.commit()
    put(log, 3, 3.0, 0.0)
    reply = log.read({}, Order.NEWEST, ALL)
    assert [v for _, v in samples(reply)] == [3.0, 2.0, 1.0]
    assert next(iter(reply.available)) == log.epoch
    log.close()


def test_a_changed_schema_begins_a_frame_and_is_kept_beside_it(tmp_path: Path, clock: FakeClock) -> None:
    log = open_log(tmp_path, clock)
    put(log, 1000)
    put(log, 2000, 1.0, 2.0, 3.0, schema=TWO)
    log.commit()
    for again in (False, True):
        frames = [codec.decode(f) for f in log.read({}, Order.OLDEST, ALL).frames]
        for frame, schema in zip(frames, (ONE, TWO), strict=True):
            assert frame.header.schema == schema.hash
            data = log.schema(schema.hash)
            assert data is not None
            assert decode_schema(data) == schema
        log.close()
        if not again:
            log = open_log(tmp_path, clock)
    assert log.schema(Schema(()).hash) is None


def test_schemas_survive_the_removal_of_older_segments(tmp_path: Path, clock: FakeClock) -> None:
    log = open_log(tmp_path, clock, LogOptions(segment_bytes=4096, retention_bytes=40_000))
    for n in range(600):
        put(log, n)
        log.commit()
    stats = log.stats()
    assert stats.segments_quarantined == 0
    assert stats.frames_expired > 0
    assert stats.disk_bytes <= 40_000
    log.close()
    log = open_log(tmp_path, clock)
    data = log.schema(ONE.hash)
    assert data is not None
    assert decode_schema(data) == ONE
    reply = log.read({}, Order.OLDEST, ALL)
    assert samples(reply)[-1][0] == 599
    assert samples(reply)[0][0] == stats.frames_expired
    log.close()


def test_lanes_have_frames_of_their_own(tmp_path: Path, clock: FakeClock) -> None:
    log = open_log(tmp_path, clock)
    put(log, 1000, lane=0)
    put(log, 1500, lane=1)
    put(log, 2000, lane=0)
    headers = [read_header(f) for f in log.read({}, Order.OLDEST, ALL).frames]
    assert sorted((h.lane, h.slots) for h in headers) == [(0, 2), (1, 1)]
    log.close()


def test_presence_and_nan_payloads_survive(tmp_path: Path, clock: FakeClock) -> None:
    log = open_log(tmp_path, clock)
    log.append(0, ONE, BASE, array("d", [float("nan"), -0.0]), bytes([PRESENT, STALE]))
    log.close()
    log = open_log(tmp_path, clock)
    (data,) = log.read({}, Order.NEWEST, ALL).frames
    assert codec.decode(data).cells.tolist() == [[PRESENT], [STALE]]
    log.close()


async def test_old_segments_go_by_age(tmp_path: Path, clock: FakeClock) -> None:
    log = open_log(tmp_path, clock, LogOptions(retention_ms=3_600_000))
    put(log, clock.now() - BASE, 1.0, 0.0)
    log.close()
    await clock.advance(4000)
    log = open_log(tmp_path, clock, LogOptions(retention_ms=3_600_000))
    put(log, clock.now() - BASE, 2.0, 0.0)
    log.commit()
    assert [v for _, v in samples(log.read({}, Order.OLDEST, ALL))] == [2.0]
    assert log.stats().frames_expired == 1
    log.close()


def test_a_clock_that_is_not_synchronised_removes_nothing_by_age(tmp_path: Path, clock: FakeClock) -> None:
    log = open_log(tmp_path, clock)
    put(log, clock.now() - BASE, 1.0, 0.0)
    log.close()
    clock.set_synced(False)
    clock.step(100 * 365 * 86_400_000)
    log = open_log(tmp_path, clock)
    put(log, clock.now() - BASE, 2.0, 0.0)
    log.commit()
    assert len(log.read({}, Order.OLDEST, ALL).frames) == 2
    log.close()


def test_full_memory_drops_the_oldest_frame_and_counts_it(tmp_path: Path, clock: FakeClock) -> None:
    log = open_log(tmp_path, clock, LogOptions(max_memory_bytes=3000))
    for n in range(60):
        put(log, n, float(n), 0.0)
        log.seal()
    got = samples(log.read({}, Order.OLDEST, ALL))
    assert got[-1] == (59, 59.0)
    assert log.stats().frames_dropped == 60 - len(got) > 0
    assert log.stats().memory_bytes <= 3000
    log.close()


def test_full_memory_refuses_where_the_policy_says_so(tmp_path: Path, clock: FakeClock) -> None:
    log = open_log(tmp_path, clock, LogOptions(max_memory_bytes=1000, overflow=Overflow.REFUSE))

    def fill() -> None:
        for n in range(60):
            put(log, n)
            log.seal()

    with pytest.raises(LimitError, match="max_memory_bytes"):
        fill()
    assert log.stats().slots_refused == 1
    log.commit()
    put(log, 1000)
    log.close()


def test_two_agents_cannot_share_a_log(tmp_path: Path, clock: FakeClock) -> None:
    log = open_log(tmp_path, clock)
    with pytest.raises(StorageError, match="in use by bramble-edge"):
        open_log(tmp_path, clock)
    log.close()
    open_log(tmp_path, clock).close()


def test_a_path_that_is_a_file_says_what_to_do(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "log").write_text("")
    with pytest.raises(StorageError, match=r"cannot write .*log: .*set log\.path"):
        open_log(tmp_path / "log", clock)


def test_the_device_id_stays_over_restarts_and_upgrades_of_the_system(tmp_path: Path, clock: FakeClock) -> None:
    log = open_log(tmp_path, clock)
    source = log.source_id
    log.close()
    for machine in (PI, Machine("serial-a", "machine-b"), Machine("", "machine-a"), Machine()):
        log = open_log(tmp_path, clock, machine=machine)
        assert log.source_id == source
        log.close()


def test_a_cloned_card_gets_an_id_of_its_own_and_does_not_serve_the_other_devices_past(
    tmp_path: Path, clock: FakeClock
) -> None:
    log = open_log(tmp_path, clock)
    put(log, 1)
    source = log.source_id
    log.close()
    log = open_log(tmp_path, clock, machine=Machine("serial-b", "machine-a"))
    assert log.source_id != source
    assert log.read({}, Order.NEWEST, ALL) == LogReply([], {})
    assert len(list((tmp_path / f"former-{source.hex()}").glob("*.seg"))) == 1
    log.close()


@pytest.mark.parametrize("options", [LogOptions(retention_bytes=100), LogOptions(retention_ms=1)])
def test_what_a_former_device_left_goes_first(tmp_path: Path, options: LogOptions) -> None:
    clock = FakeClock()
    former = tmp_path / "former-00"
    former.mkdir()
    for name in ("0000000000000001.seg", "0000000000000002.bad"):
        (former / name).write_bytes(bytes(200))
        os.utime(former / name, (1, 1))
    log = open_log(tmp_path, clock, options)
    assert log.stats().disk_bytes == 400
    put(log, 1)
    log.commit()
    assert not former.exists()
    assert len(log.read({}, Order.NEWEST, ALL).frames) == 1
    log.close()


def test_an_identity_cut_anywhere_is_taken_from_the_segments(tmp_path: Path, clock: FakeClock) -> None:
    log = open_log(tmp_path, clock)
    put(log, 1)
    source = log.source_id
    log.close()
    whole = (tmp_path / "identity.json").read_bytes()
    for end in range(len(whole)):
        (tmp_path / "identity.json").write_bytes(whole[:end])
        log = open_log(tmp_path, clock)
        assert log.source_id == source
        log.close()


def written(path: Path, clock: FakeClock, clean: bool) -> tuple[bytes, Path]:
    """A segment of four frames (schema change after the second): its bytes and place."""
    log = open_log(path, clock)
    for n in range(4):
        put(log, 1000 * n, *([float(n), 0.0] if n < 2 else [float(n), 0.0, 1.0]), schema=ONE if n < 2 else TWO)
        log.commit()
    (segment,) = path.glob("*.seg")
    data = segment.read_bytes()
    log.close()
    return segment.read_bytes() if clean else data, segment


def places(data: bytes, clean: bool) -> list[int]:
    """Every byte, but fewer of those before the trailer where the same bytes are tried without one."""
    trailer = data.rindex(b"BRt\xb1") if clean else len(data)
    return [*range(0, trailer, 9 if clean else 1), *range(trailer, len(data) + 1)]


@pytest.mark.parametrize("clean", [False, True])
def test_a_segment_cut_at_any_byte_loses_only_what_follows(tmp_path: Path, clock: FakeClock, clean: bool) -> None:
    data, segment = written(tmp_path, clock, clean)
    ends: list[int] = []
    for size in places(data, clean):
        segment.write_bytes(data[:size])
        log = open_log(tmp_path, clock)
        got = samples(log.read({}, Order.OLDEST, ALL))
        assert got == [(1000 * n, float(n)) for n in range(len(got))]
        stats = log.stats()
        assert len(got) in (stats.frames_recovered, 4)
        if len(got) < 4 and size:
            assert stats.bytes_lost or not ends or ends[-1] <= len(got)
        ends.append(len(got))
        log.close()
        for left in tmp_path.glob("0*"):
            left.unlink()
    assert ends == sorted(ends)
    assert ends[-1] == 4
    assert set(ends) == {0, 1, 2, 3, 4}


def test_what_is_repaired_is_repaired_once(tmp_path: Path, clock: FakeClock) -> None:
    data, segment = written(tmp_path, clock, clean=False)
    segment.write_bytes(data[:-3])
    log = open_log(tmp_path, clock)
    assert log.stats().bytes_lost > 0
    log.close()
    log = open_log(tmp_path, clock)
    assert log.stats().bytes_lost == 0
    assert len(log.read({}, Order.OLDEST, ALL).frames) == 3
    log.close()


@pytest.mark.parametrize("clean", [False, True])
def test_a_flipped_byte_costs_at_most_the_frame_it_is_in(tmp_path: Path, clock: FakeClock, clean: bool) -> None:
    data, segment = written(tmp_path, clock, clean)
    for at in places(data, clean)[:-1]:
        damaged = bytearray(data)
        damaged[at] ^= 0x40
        segment.write_bytes(damaged)
        log = open_log(tmp_path, clock)
        reply = log.read({}, Order.OLDEST, ALL)
        got = samples(reply)
        assert set(got) <= {(1000 * n, float(n)) for n in range(4)}
        assert len(got) >= 3
        stats = log.stats()
        if len(got) == 3:
            assert stats.frames_lost == 1 or stats.bytes_lost > 0
            assert sum(r.count for r in log.read({}, Order.OLDEST, ALL).available.values()) == 3
        log.close()
        for left in tmp_path.glob("0*"):
            left.unlink()


def test_a_segment_of_noise_is_set_aside_and_the_log_starts(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "0000000000000005.seg").write_bytes(b"noise" * 100)
    log = open_log(tmp_path, clock)
    put(log, 1)
    log.commit()
    assert log.stats().segments_quarantined == 1
    assert sorted(p.name for p in tmp_path.glob("0*")) == ["0000000000000005.bad", "0000000000000006.seg"]
    log.close()


def test_samples_before_time_sync_are_provisional_and_corrected_on_sync(tmp_path: Path, clock: FakeClock) -> None:
    clock.set_synced(False)
    log = open_log(tmp_path, clock)
    stamp = log.stamp()
    assert stamp.flags == Flags.PROVISIONAL
    log.append(0, ONE, stamp.timestamp, array("d", [1.0, 2.0]), None, stamp.flags)
    log.commit()
    clock.step(50_000)
    clock.set_synced(True)
    epoch = log.epoch
    stamp = log.stamp()
    assert stamp.flags == Flags.SYNCED
    assert log.epoch != epoch
    frames = [codec.decode(f) for f in log.read({}, Order.OLDEST, ALL).frames]
    first, last = frames
    assert first.provisional is not None
    assert last.correction is not None
    shift = last.correction.shift(first.provisional, first.header.first)
    assert shift is not None
    assert first.header.first + shift == stamp.timestamp
    log.close()
    log = open_log(tmp_path, clock)
    assert log.corrections() == {last.correction.boot_id: last.correction}
    log.close()


def test_provisional_slots_that_are_in_no_frame_yet_are_moved_and_need_no_correction(
    tmp_path: Path, clock: FakeClock
) -> None:
    clock.set_synced(False)
    log = open_log(tmp_path, clock)
    stamp = log.stamp()
    log.append(0, ONE, stamp.timestamp, array("d", [1.0, 2.0]), None, stamp.flags)
    assert log.stats().provisional
    clock.step(50_000)
    clock.set_synced(True)
    log.stamp()
    assert not log.stats().provisional
    (frame,) = [codec.decode(f) for f in log.read({}, Order.OLDEST, ALL).frames]
    assert frame.timestamps.tolist() == [BASE + 50_000]
    assert frame.header.flags == Flags.SYNCED
    log.close()


def test_a_correction_reaches_provisional_frames_of_an_earlier_run(tmp_path: Path, clock: FakeClock) -> None:
    clock.set_synced(False)
    log = open_log(tmp_path, clock)
    stamp = log.stamp()
    log.append(0, ONE, stamp.timestamp, array("d", [1.0, 2.0]), None, stamp.flags)
    log.close()
    clock.set_synced(True)
    log = open_log(tmp_path, clock)
    log.stamp()
    assert any(codec.decode(f).correction for f in log.read({}, Order.NEWEST, ALL).frames)
    log.close()


@pytest.mark.parametrize("step", [-3_600_000, 3_600_000])
def test_a_clock_step_opens_a_new_epoch(tmp_path: Path, clock: FakeClock, step: int) -> None:
    log = open_log(tmp_path, clock)
    put(log, log.stamp().timestamp - BASE, 1.0, 0.0)
    epoch = log.epoch
    clock.step(step)
    put(log, log.stamp().timestamp - BASE, 2.0, 0.0)
    assert log.epoch != epoch
    assert log.stats().clock_steps == 1
    assert [v for _, v in samples(log.read({}, Order.OLDEST, ALL))] == [1.0, 2.0]
    log.close()


def test_time_that_runs_backwards_unstamped_also_opens_one(tmp_path: Path, clock: FakeClock) -> None:
    log = open_log(tmp_path, clock)
    epoch = log.epoch
    put(log, 5000, 1.0, 0.0)
    put(log, 4000, 2.0, 0.0)
    assert log.epoch != epoch
    assert samples(log.read({}, Order.OLDEST, ALL)) == [(5000, 1.0), (4000, 2.0)]
    log.close()
