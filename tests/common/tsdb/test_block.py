"""Blocks: what was built is read back, parts of it too, and damage is found."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from common.errors import FormatError
from common.files import SYSTEM_FILES
from common.labels import Labels, Matcher, MatchType
from common.sample import Millis
from common.tsdb.block import Block
from common.tsdb.build import Shape, build
from common.tsdb.cache import DecodeCache
from common.tsdb.index import Interner, LabelCache, Name, RowIndex, Target
from common.tsdb.join import Line, Piece, join
from common.tsdb.kinds import Pool
from common.tsdb.memory import MemoryQuerier, read_all
from common.tsdb.verify import verify_block

ROWS = RowIndex([Labels.of(__name__=n, i=str(i)) for n in ("a", "b", "c") for i in range(5)])
TARGETS = [Target(Labels.of(job="j", instance=str(k))) for k in range(3)]
SHAPE = Shape(rows=4, slots=6)

EVERY = int(os.environ.get("BRAMBLE_CUT_EVERY", "13"))
"""Each byte that many is tried; `make kills` tries all."""


class Lot:
    """An origin: every row of ROWS under every target, 20 slots with gaps and markers, and the model of it."""

    def __init__(self, seed: int, arrival: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.model = MemoryQuerier()
        self.found: list[Piece[Name]] = []
        for t, target in enumerate(TARGETS):
            times = np.cumsum(rng.integers(1, 30, 20)) + 1000
            stale = rng.random(20) < 0.2
            lines = [Line(times, None, arrival), Line(times[3:], stale[3:], arrival)]
            values = np.round(np.cumsum(rng.random((len(ROWS.rows), 20)), axis=1), t)
            line_of = rng.integers(0, 2, len(ROWS.rows)).astype(np.intp)
            values[line_of == 1, :17] = values[line_of == 1, 3:]
            self.found.append(self._piece(target, lines, line_of, values))
            for row, labels in enumerate(ROWS.rows):
                line = lines[line_of[row]]
                marks = np.zeros(20, bool) if line.stale is None else line.stale
                for at, value, mark in zip(line.timestamps.tolist(), values[row].tolist(), marks, strict=False):
                    marker = np.uint64(0x7FF0000000000002).view(np.float64)
                    self.model.add(target.labels.merge(labels), at, float(marker) if mark else value)

    def _piece(self, target: Target, lines: list[Line], line_of: np.ndarray, values: np.ndarray) -> Piece[Name]:
        def labels(rows: np.ndarray) -> list[Name]:
            return [(ROWS, int(row), target) for row in rows]

        return Piece(ROWS.prints(target), lines, line_of, lambda rows: values[rows], labels)

    def metrics(self) -> Mapping[str, int]:
        return {"a": 300, "b": 300, "c": 300}

    def rows(self) -> Mapping[str, int]:
        return {"a": 3, "b": 3, "c": 3}

    def pieces(self, metrics: frozenset[str]) -> Iterator[Piece[Name]]:
        for piece in self.found:
            rows = np.array([i for i, labels in enumerate(ROWS.rows) if labels.name in metrics], np.intp)
            yield restricted(piece, rows)

    def histograms(self, metrics: frozenset[str], pool: Pool) -> Iterator[Piece[Name]]:
        return iter(())


def restricted(piece: Piece[Name], rows: np.ndarray) -> Piece[Name]:
    return Piece(
        piece.prints[rows],
        piece.lines,
        piece.line_of[rows],
        lambda some: piece.values(rows[some]),
        lambda some: piece.labels(rows[some]),
    )


def built(folder: Path, lots: list[Lot], number: int = 1) -> Block:
    (path,) = build(SYSTEM_FILES, folder, lambda: number, lots, rank=None, log=0, meta=lambda name: (), shape=SHAPE)
    path.rename(path.with_suffix(""))
    return Block(path.with_suffix(""), DecodeCache(1 << 20), Interner())


def read(block: Block, start: int, end: int, *matchers: Matcher) -> dict:
    cache = LabelCache()
    pieces = []
    for members, piece in block.pieces(block.places(block.match(matchers)), start, end):
        labels = block.labels(members, cache)
        pieces.append(Piece(piece.prints, piece.lines, piece.line_of, piece.values, picker(labels)))
    return read_all(join(pieces))


def picker(labels: list[Labels]) -> Callable[[np.ndarray], list[Labels]]:
    return lambda rows: [labels[row] for row in rows]


@pytest.mark.parametrize("bounds", [(0, 5000), (1100, 1200), (1050, 1051), (0, 10)])
@pytest.mark.parametrize(
    "matchers",
    [
        (),
        (Matcher(MatchType.EQ, "__name__", "b"), Matcher(MatchType.NE, "i", "1")),
        (Matcher(MatchType.RE, "instance", "1|2"), Matcher(MatchType.EQ, "i", "3")),
    ],
)
def test_a_block_reads_back_what_was_built_into_it(
    tmp_path: Path, bounds: tuple[int, int], matchers: tuple[Matcher, ...]
) -> None:
    lot = Lot(1)
    block = built(tmp_path, [lot])
    expected = read_all(lot.model.select(matchers, Millis(bounds[0]), Millis(bounds[1])))
    assert read(block, *bounds, *matchers) == expected
    assert (block.footer.samples, block.footer.series) == (sum(map(len, lot.model.samples().values())), 45)


def test_rows_of_several_origins_are_joined_with_the_first_arrival_first(tmp_path: Path) -> None:
    early, late = Lot(1, arrival=1), Lot(2, arrival=2)
    block = built(tmp_path, [late, early])
    for labels, samples in late.model.samples().items():
        for at, value in samples:
            early.model.add(labels, at, value)
    assert read(block, 0, 5000) == read_all(early.model.select([], Millis(0), Millis(5000)))


def test_a_metric_too_large_for_one_batch_comes_in_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.tsdb.build.BATCH_CELLS", 100)
    lot = Lot(3)
    assert read(built(tmp_path, [lot]), 0, 5000) == read_all(lot.model.select([], Millis(0), Millis(5000)))


def test_shares_of_a_metric_keep_the_rows_of_a_device_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.tsdb.build.BATCH_CELLS", 200)
    entries = [(index.rows[0].name, set(targets.tolist())) for index, _, targets in built(tmp_path, [Lot(3)]).census()]
    for metric in ("a", "b", "c"):
        devices = [found for name, found in entries if name == metric]
        assert len(devices) == 3
        # One more for each border between two shares.
        assert sum(map(len, devices)) <= len(TARGETS) + len(devices) - 1


def test_series_tell_their_first_and_last_times_whatever_these_are(tmp_path: Path) -> None:
    times = np.array([-(1 << 40), 1, 2])
    lines = [Line(times, None, 0), Line(times[1:], None, 0)]
    lot = Lot(1)
    line_of = np.array([0, *[1] * (len(ROWS.rows) - 1)], np.intp)
    lot.found = [lot._piece(TARGETS[0], lines, line_of, np.ones((len(ROWS.rows), 3)))]
    first, last = built(tmp_path, [lot]).spans()
    assert first.tolist() == [-(1 << 40), *[1] * (len(ROWS.rows) - 1)]
    assert last.tolist() == [2] * len(ROWS.rows)


def test_every_cut_and_every_flipped_byte_is_found(tmp_path: Path) -> None:
    block = built(tmp_path, [Lot(1)])
    assert not verify_block(block.path).problems
    whole = block.path.read_bytes()
    broken = tmp_path / "broken.blk"
    for cut in range(0, len(whole), EVERY):
        broken.write_bytes(whole[:cut])
        with pytest.raises(FormatError):
            Block(broken, DecodeCache(0), Interner())
    broken = tmp_path / f"{block.number:08d}.blk"
    for at in range(0, len(whole), EVERY):
        broken.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        assert verify_block(broken).problems
