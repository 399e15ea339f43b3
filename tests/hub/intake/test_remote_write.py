"""What becomes of remote write requests: stored, durable, refused with a reason, and nothing of broken ones."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from common.errors import BusyError, FormatError, LimitError, StorageError
from common.frames.model import SourceId
from common.histogram import FloatHistogram, side
from common.labels import Labels, Matcher, MatchType
from common.remote.read import encode_histogram, encode_series
from common.remote.snappy import compress
from common.sample import STALE_NAN, STALE_NAN_BITS, MetricMeta, MetricType, Millis
from common.testing import FakeClock
from common.tsdb.options import StoreOptions
from common.tsdb.store import Store
from common.wire import write_bytes, write_double, write_int, write_text
from hub.intake import remote_write
from hub.intake.remote_write import Receiver as Writer
from hub.intake.remote_write import Version
from hub.intake.zeros import Zeros

UP = Labels.of(__name__="up", instance="a")
YEARS = 200 * 365 * 86_400_000


def request(series: Mapping[Labels, Mapping[int, float]]) -> bytes:
    """A body of remote write 1.0."""
    parts = []
    for labels, samples in series.items():
        columns = np.array(list(samples), np.int64), np.array(list(samples.values()), np.float64)
        parts.append(write_bytes(1, encode_series(labels, *columns)))
    return compress(b"".join(parts))


class Receiver:
    """A writer over a real store."""

    def __init__(self, path: Path, clock: FakeClock, zeros: bool = False, **options: int) -> None:
        self.path, self.clock = path, clock
        self.options = StoreOptions(**{"retention_ms": YEARS, **options})
        self.store = Store.open(path, self.options, clock)
        self.pool = ThreadPoolExecutor(1)
        self.registry = CollectorRegistry()
        own = Zeros(self.store) if zeros else None
        self.writer = Writer(self.store, self.options, self.pool, clock, self.registry, zeros=own)

    def samples(self) -> dict[Labels, list[tuple[int, float, bool]]]:
        """All that is stored: ms, value, whether a staleness marker."""
        out = {}
        any_name = [Matcher(MatchType.NE, "__name__", "")]
        for batch in self.store.select(any_name, Millis(-(1 << 60)), Millis(1 << 60)):
            for row, labels in enumerate(batch.labels):
                line = batch.timelines[batch.timeline_of[row]]
                times = line.timestamps.tolist()
                stale = [False] * len(times) if line.stale is None else line.stale.tolist()
                out[labels] = list(zip(times, batch.values[row].tolist(), stale, strict=False))
        return out

    def crash(self) -> None:
        """Open the store again as it would be after a power cut: only what was committed is there."""
        after = self.path.with_name("after")
        after.mkdir()
        for folder in ("wal", "blocks"):
            (self.path / folder).rename(after / folder)
        self.store.close()
        self.store = Store.open(after, self.options, self.clock)

    def counter(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    def close(self) -> None:
        self.pool.shutdown()
        self.store.close()


Make = Callable[..., Receiver]


@pytest_asyncio.fixture
async def make(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Make]:
    made: list[Receiver] = []

    def one(zeros: bool = False, **options: int) -> Receiver:
        made.append(Receiver(tmp_path / "data", clock, zeros, **options))
        return made[0]

    yield one
    for each in made:
        each.close()


async def test_samples_from_1970_on_are_readable_and_survive_a_crash(make: Make) -> None:
    receiver = make()
    await receiver.writer.take(request({UP: {0: 1.0, 60_000: 2.0, 86_400_000: 3.0}}), Version.V1)
    other = UP.merge({"instance": "b"})
    await receiver.writer.take(request({other: {0: 5.0}}), Version.V1)
    expected = {UP: [(0, 1.0, False), (60_000, 2.0, False), (86_400_000, 3.0, False)], other: [(0, 5.0, False)]}
    assert receiver.samples() == expected
    receiver.crash()
    assert receiver.samples() == expected
    receiver.store.maintain()
    assert receiver.samples() == expected
    assert receiver.counter("bramble_hub_remote_write_samples_total") == 4


async def test_a_stale_marker_is_one_and_another_nan_is_a_value(make: Make) -> None:
    receiver = make()
    await receiver.writer.take(request({UP: {0: float("nan"), 1000: STALE_NAN}}), Version.V1)
    ((at, value, stale), (later, _, marker)) = receiver.samples()[UP]
    assert np.isnan(value)
    assert (at, stale, later, marker) == (0, False, 1000, True)
    assert np.array(STALE_NAN).view(np.uint64) == STALE_NAN_BITS


@pytest.mark.parametrize("version", list(Version))
async def test_nothing_of_a_broken_body_is_stored(make: Make, version: Version) -> None:
    receiver = make()
    whole = write_bytes(1, encode_series(UP, np.array([0]), np.array([1.0])))
    for body in (b"", b"\xff\xff\xff\xff\xff", compress(whole + b"\x0a\x7f"), compress(whole)[:-1]):
        if body == b"" and version is Version.V1:
            continue
        with pytest.raises(FormatError):
            await receiver.writer.take(body, version)
    assert receiver.samples() == {}


async def test_metadata_of_a_request_is_known_and_survives_a_restart(make: Make) -> None:
    receiver = make()
    meta = write_int(1, 1) + write_text(2, "hits_total") + write_text(4, "Hits.") + write_text(5, "hits")
    await receiver.writer.take(compress(write_bytes(3, meta)), Version.V1)
    known = {"hits_total": [MetricMeta("hits_total", MetricType.COUNTER, "Hits.", "hits")]}
    assert receiver.store.metadata() == known
    receiver.crash()
    assert receiver.store.metadata() == known


async def test_series_without_a_name_and_samples_out_of_bounds_are_refused_alone(make: Make, clock: FakeClock) -> None:
    receiver = make()
    ahead = clock.now() + 3_600_000
    nameless = Labels.of(job="x")
    written = await receiver.writer.take(request({nameless: {0: 1.0}, UP: {-1: 1.0, 0: 2.0, ahead: 3.0}}), Version.V1)
    assert written.samples == 1
    assert [each.split(":")[0] for each in written.refused] == ['invalid labels {job="x"}', "out of bounds"]
    assert receiver.samples() == {UP: [(0, 2.0, False)]}
    assert receiver.counter("bramble_hub_remote_write_refused_total", reason="labels") == 1


async def test_a_request_beyond_a_limit_names_it_and_stores_nothing(make: Make) -> None:
    receiver = make(max_series=1)
    both = request({UP: {0: 1.0}, UP.merge({"instance": "b"}): {0: 1.0}})
    with pytest.raises(LimitError, match="max_series"):
        await receiver.writer.take(both, Version.V1)
    assert receiver.samples() == {}


async def test_memory_over_its_limit_is_no_matter_of_waiting_for_a_commit(make: Make) -> None:
    receiver = make(max_head_bytes=1000)
    with pytest.raises(LimitError, match="max_head_bytes") as caught:
        await receiver.writer.take(request({UP: dict.fromkeys(range(1000), 1.0)}), Version.V1)
    assert not isinstance(caught.value, BusyError)
    assert receiver.samples() == {}


async def test_what_others_left_uncommitted_is_no_reason_to_refuse(make: Make) -> None:
    receiver = make(max_pending_bytes=4000)
    receiver.store.append_loose(SourceId(bytes(16)), [(UP, at, 1.0) for at in range(100)])
    await receiver.writer.take(request({UP: dict.fromkeys(range(1000, 1100), 1.0)}), Version.V1)
    assert len(receiver.samples()[UP]) == 200


async def test_a_request_that_can_never_fit_into_what_may_be_pending_is_busy(make: Make) -> None:
    receiver = make(max_pending_bytes=10)
    with pytest.raises(BusyError, match="max_pending_bytes"):
        await receiver.writer.take(request({UP: {0: 1.0}}), Version.V1)


async def test_large_requests_are_appended_in_slices(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_write, "SLICE", 7)
    receiver = make()
    series = {UP.merge({"instance": name}): {at: float(at) for at in range(10)} for name in "abc"}
    await receiver.writer.take(request(series), Version.V1)
    assert receiver.samples() == {
        labels: [(at, value, False) for at, value in samples.items()] for labels, samples in series.items()
    }


HISTOGRAM = FloatHistogram(1, 7.5, 12.0, 1.5, 0.001, side(-1, [2.0, 0.0, 4.0]))


def native(
    labels: Labels, *samples: tuple[int, FloatHistogram | None], floats: Mapping[int, float] | None = None
) -> bytes:
    """A body of remote write 1.0 with native histograms."""
    floats = floats or {}
    columns = np.array(list(floats), np.int64), np.array(list(floats.values()), np.float64)
    return compress(write_bytes(1, encode_series(labels, *columns, samples)))


def histograms(receiver: Receiver) -> dict[int, FloatHistogram | None]:
    """Histograms of the one series that has some, None for staleness markers."""
    batches = receiver.store.select([], Millis(0), Millis(1 << 60))
    (batch,) = [batch for batch in batches if batch.histograms is not None]
    assert batch.histograms is not None
    return dict(zip(batch.timelines[0].timestamps.tolist(), batch.histograms[0].tolist(), strict=True))


async def test_native_histograms_are_stored_durably_beside_floats(make: Make) -> None:
    receiver = make()
    written = await receiver.writer.take(native(UP, (5, HISTOGRAM), (7, None), floats={6: 1.0}), Version.V1)
    assert (written.samples, written.histograms, written.refused) == (1, 2, [])
    assert receiver.counter("bramble_hub_remote_write_histograms_total") == 2
    receiver.crash()
    found = histograms(receiver)
    assert list(found) == [5, 7]
    assert found[5] is not None
    assert found[5].equals(HISTOGRAM)
    assert found[7] is None


async def test_of_a_float_and_a_histogram_with_one_time_the_first_to_come_holds(make: Make) -> None:
    receiver = make()
    await receiver.writer.take(native(UP, (5, HISTOGRAM)), Version.V1)
    await receiver.writer.take(native(UP, (6, HISTOGRAM), floats={5: 1.0, 6: 2.0}), Version.V1)
    assert list(histograms(receiver)) == [5]
    assert receiver.samples()[UP] == [(6, 2.0, False)]


async def test_a_histogram_that_is_not_valid_is_named_and_the_rest_stored(make: Make) -> None:
    receiver = make()
    bad = FloatHistogram(1, 1.0, 1.0, positive=side(0, [-1.0]))
    written = await receiver.writer.take(native(UP, (5, HISTOGRAM), (6, bad), floats={7: 1.0}), Version.V1)
    assert (written.samples, written.histograms) == (1, 1)
    assert "invalid histogram of up" in written.problem()
    assert "bucket number 1 has observation count of -1: negative" in written.problem()
    assert list(histograms(receiver)) == [5]
    assert receiver.counter("bramble_hub_remote_write_refused_total", reason="histogram") == 1


async def test_histograms_of_the_far_future_and_of_unusable_labels_are_refused(make: Make) -> None:
    receiver = make(max_labels=3)
    late = int(receiver.clock.now()) + 3_600_000
    written = await receiver.writer.take(native(UP, (late, HISTOGRAM)), Version.V1)
    assert (written.histograms, len(written.refused)) == (0, 1)
    many = UP.merge({"b": "1", "c": "2"})
    written = await receiver.writer.take(native(many, (5, HISTOGRAM)), Version.V1)
    assert (written.histograms, len(written.refused)) == (0, 1)


async def test_many_histograms_are_taken_in_slices(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_write, "HISTOGRAM_SLICE", 3)
    receiver = make()
    written = await receiver.writer.take(native(UP, *((at, HISTOGRAM) for at in range(10))), Version.V1)
    assert written.histograms == len(histograms(receiver)) == 10


async def test_requests_that_come_during_a_commit_share_the_next_one(make: Make) -> None:
    receiver = make()
    before = receiver.store.stats().commits
    bodies = [request({UP.merge({"instance": str(number)}): {0: 1.0}}) for number in range(20)]
    await asyncio.gather(*(receiver.writer.take(body, Version.V1) for body in bodies))
    assert len(receiver.samples()) == 20
    assert receiver.store.stats().commits - before < 20


async def test_a_disk_that_refuses_is_an_error_and_not_an_acknowledgement(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = make()

    def refuse() -> None:
        raise StorageError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(receiver.store._wal, "commit", refuse)
        for _ in range(2):
            with pytest.raises(StorageError):
                await receiver.writer.take(request({UP: {0: 1.0}}), Version.V1)
        assert receiver.store.stats().paused
    await receiver.writer.take(request({UP: {0: 1.0}}), Version.V1)
    assert not receiver.store.stats().paused
    receiver.crash()
    assert receiver.samples() == {UP: [(0, 1.0, False)]}


async def test_what_waits_is_bounded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver = make()
    body = request({UP: {0: 1.0}})
    monkeypatch.setattr(remote_write, "MAX_WAITING_BYTES", 2 * len(body))
    results = await asyncio.gather(*(receiver.writer.take(body, Version.V1) for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in results].count(BusyError) == 1
    assert (await receiver.writer.take(body, Version.V1)).samples == 1


async def test_large_histograms_are_taken_a_few_at_a_time(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_write, "WORD_SLICE", 100)
    receiver = make(max_pending_bytes=1000)
    large = FloatHistogram(0, 64, 1.0, positive=side(0, [1.0] * 64))
    written = await receiver.writer.take(native(UP, *((at, large) for at in range(10))), Version.V1)
    assert written.histograms == len(histograms(receiver)) == 10


def started(name: str, created: int, samples: Mapping[int, float], histogram: FloatHistogram | None = None) -> bytes:
    """A body of remote write 2.0: one series, created at `created` (ms); a `histogram` at each of the times."""
    symbols = ["", "__name__", name]
    refs = write_bytes(1, bytes([1, 2]))
    if histogram is None:
        parts = [write_bytes(2, write_double(1, value) + write_int(2, time)) for time, value in samples.items()]
    else:
        parts = [write_bytes(3, encode_histogram(time, histogram)) for time in samples]
    series = refs + b"".join(parts) + write_int(6, created)
    return compress(b"".join(write_text(4, symbol) for symbol in symbols) + write_bytes(5, series))


async def test_a_series_is_zero_at_its_start_if_that_is_asked_for(make: Make) -> None:
    receiver = make(zeros=True)
    name = Labels.of(__name__="c_total")
    for body in (
        started("c_total", 50_000, {60_000: 3.0, 75_000: 4.0}),
        started("c_total", 50_000, {90_000: 5.0}),
        started("c_total", 100_000, {105_000: 1.0}),
        started("c_total", 100_500, {120_000: 1.0}),  # later, but there is a sample since
        started("c_total", 150_000, {140_000: 2.0, 150_000: 2.5}),  # not before any sample
    ):
        taken = await receiver.writer.take(body, Version.V2)
        assert not taken.refused
    times = {at: value for at, value, _ in receiver.samples()[name]}
    assert [at for at, value in times.items() if not value] == [50_000, 100_000]
    assert len(times) == 2 + 7


async def test_a_start_counts_only_if_asked_for_and_within_an_hour(
    make: Make, tmp_path: Path, clock: FakeClock
) -> None:
    receiver = make(zeros=True)
    await receiver.writer.take(started("old_total", 1, {3_600_002: 3.0}), Version.V2)
    assert len(receiver.samples()[Labels.of(__name__="old_total")]) == 1
    plain = Receiver(tmp_path / "plain", clock)
    await plain.writer.take(started("c_total", 50_000, {60_000: 3.0}), Version.V2)
    assert len(plain.samples()[Labels.of(__name__="c_total")]) == 1
    plain.close()


async def test_a_histogram_is_empty_at_its_start(make: Make) -> None:
    receiver = make(zeros=True)
    whole = FloatHistogram(2, 3.0, 4.0, 0.0, 0.25, side(1, [1.0, 2.0]))
    for _ in range(2):
        await receiver.writer.take(started("h", 50_000, {60_000: 0.0, 75_000: 0.0}, whole), Version.V2)
    (batch,) = receiver.store.select([Matcher(MatchType.EQ, "__name__", "h")], Millis(0), Millis(1 << 60))
    assert batch.histograms is not None
    assert batch.timelines[0].timestamps.tolist() == [50_000, 60_000, 75_000]
    assert [each.count for each in batch.histograms.cells[0]] == [0.0, 3.0, 3.0]
    assert (batch.histograms.cells[0, 0].schema, batch.histograms.cells[0, 0].zero_threshold) == (2, 0.25)
