"""Sums and means of native histograms by group and step: in columns as long as those of a cell agree in kind."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.histogram import Accumulator, FloatHistogram, IncompatibleError, ResetHint
from common.histogram_grid import Block, Cells, Columns, Grid, Index, Kind, Spread
from common.promql.ast import Aggregate
from common.promql.column_ranges import compensated
from common.promql.gotext import quote
from common.promql.matrix import Bools, Floats, Matrix
from common.promql.preprocess import unwrap

if TYPE_CHECKING:
    from common.promql.evaluator import Evaluator

_EXACT = float(1 << 53)
_NO_KIND = -1
_OBJECTS = -2


class HistogramFold:
    """What an aggregation does with histograms: sum and mean of them, counting, or an info that they are ignored."""

    def __init__(self, ev: "Evaluator", expr: Aggregate, steps: int) -> None:
        self._ev = ev
        self._op = expr.op
        self._position = unwrap(expr.expr).span.start
        self._steps = steps
        self._kind_of = np.empty(0, np.int64)
        """Of each cell (group * steps + step) the number of its columns, or how it is summed else."""
        self._columns: list[_Sums] = []
        self._sums: dict[int, Accumulator] = {}
        self._incompatible: dict[int, str] = {}
        """Metric of the first histogram that could not be added."""
        self._taken: list[tuple[Grid, Index]] = []
        """For means of what overflows: all that came, with the cells it belongs to."""

    def take(self, part: Matrix, number: Index) -> Matrix:
        """Take the histograms of `part` into account; what is left is for the fold of floats."""
        mask = part.is_histogram()
        if mask is None or not mask.any():
            return part if part.histograms is None else replace(part, histograms=None)
        if self._op in ("count", "group"):
            return replace(part, histograms=None)
        if self._op in ("sum", "avg"):
            assert part.histograms is not None
            with np.errstate(all="ignore"):
                self._add(part.histograms.only(mask), number, [labels.name for labels in part.labels])
        else:
            self._ev.notes.info(f"ignored histogram in {self._op} aggregation", self._position)
        return part.floats_only()

    def _add(self, grid: Grid, number: Index, names: list[str]) -> None:
        size = self._steps * (int(number.max()) + 1)
        if size > len(self._kind_of):
            more = np.full(max(size, 2 * len(self._kind_of)) - len(self._kind_of), _NO_KIND)
            self._kind_of = np.concatenate((self._kind_of, more))
        cell_of = number[:, None] * self._steps + np.arange(self._steps)
        flat = cell_of.reshape(-1)
        own, block_of, row_of = (np.full(flat.shape, _NO_KIND) for _ in range(3))
        blocks: list[Columns] = []
        for block, where, rows in grid.parts():
            if isinstance(block, Columns):
                own[where], block_of[where], row_of[where] = self._number(block.kind), len(blocks), rows
                blocks.append(block)
            else:
                own[where] = _OBJECTS
        places = np.flatnonzero(own != _NO_KIND)
        cells = flat[places]
        self._leave_columns(cells, own[places])
        objects = self._kind_of[cells] == _OBJECTS
        self._add_columns(_Items(flat, own, block_of, row_of, blocks), places[~objects])
        if objects.any():
            left = np.zeros(flat.shape, np.bool_)
            left[places[objects]] = True
            made = grid.only(left.reshape(grid.shape)).cells
            for s, k in np.argwhere(left.reshape(grid.shape)).tolist():
                self._add_object(int(cell_of[s, k]), made[s, k], names[s])
        if self._op == "avg":
            self._taken.append((grid, cell_of))

    def _number(self, kind: Kind) -> int:
        for number, each in enumerate(self._columns):
            if each.kind == kind:
                return number
        self._columns.append(_Sums(kind))
        return len(self._columns) - 1

    def _leave_columns(self, cells: Index, own: NDArray[np.int64]) -> None:
        """Go on with objects for cells in which not all differ by nothing but their resolution."""
        names: dict[tuple[float, tuple[float, ...]], int] = {}
        of_kind = [names.setdefault((s.kind.zero_threshold, s.kind.custom), len(names)) for s in self._columns]
        # The last two stand for _OBJECTS and _NO_KIND.
        family = np.array([*of_kind, _OBJECTS, _NO_KIND])
        first = family[self._kind_of]
        fresh = first[cells] == _NO_KIND
        first[cells[fresh][::-1]] = family[own[fresh]][::-1]
        odd = np.unique(cells[(first[cells] != family[own]) | (own == _OBJECTS)])
        odd = odd[self._kind_of[odd] != _OBJECTS]
        started = odd[self._kind_of[odd] != _NO_KIND]
        if self._op == "avg":
            self._again(started)
        else:
            for number in np.unique(self._kind_of[started]).tolist():
                mine = started[self._kind_of[started] == number]
                states = self._columns[number].states(mine)
                self._sums.update(zip(mine.tolist(), states, strict=True))
        self._kind_of[odd] = _OBJECTS

    def _add_columns(self, items: "_Items", places: Index) -> None:
        """Add some of the items to their cells, in their order."""
        places = places[np.argsort(items.cells[places], kind="stable")]
        schema_of = np.array([sums.kind.schema for sums in self._columns])
        while len(places):
            cells, own = items.cells[places], items.own[places]
            begins = np.flatnonzero(np.diff(cells, prepend=-1))
            counts = np.diff(begins, append=len(cells))
            coarsest = np.minimum.reduceat(schema_of[own], begins)
            states = self._kind_of[cells[begins]]
            fresh = states == _NO_KIND
            finest = np.maximum.reduceat(schema_of[own], begins)
            settled = np.where(fresh, finest, schema_of[states]) <= coarsest
            kinds = np.where(fresh, own[begins], states)
            # Where the resolution won't fall any more, all at once.
            for kind in np.unique(kinds[settled]).tolist():
                self._add_settled(items, places[np.repeat(settled & (kinds == kind), counts)], kind)
            if settled.all():
                return
            first = begins[~settled]
            self._add_turn(items, places[first])
            left = np.repeat(~settled, counts)
            left[first] = False
            places = places[left]
            schema_of = np.array([sums.kind.schema for sums in self._columns])

    def _add_settled(self, items: "_Items", places: Index, kind: int) -> None:
        """Add items to cells of a kind that is coarse enough for all of them."""
        sums, cells, block_of = self._columns[kind], items.cells[places], items.block_of[places]
        self._kind_of[cells] = kind
        parts = []
        for number in np.unique(block_of).tolist():
            mine = np.flatnonzero(block_of == number)
            block, rows = items.blocks[number], items.row_of[places[mine]]
            if len(mine) == len(places) and block.kind == sums.kind:
                sums.add(cells, block, rows)
                return
            parts.append((block.take(rows).coarser(sums.kind.schema), mine))
        spread = Spread()
        for columns, _ in parts:
            spread = spread.union(columns.spread)
        out = Columns(sums.kind, spread, np.zeros((len(places), spread.width)), np.zeros(len(places), np.uint8))
        for columns, mine in parts:
            columns.put(out, mine)
        sums.add(cells, out, np.arange(len(places)))

    def _add_turn(self, items: "_Items", places: Index) -> None:
        """Add items of which each cell has one at most."""
        cells = items.cells[places]
        states, own, block_of = self._kind_of[cells], items.own[places], items.block_of[places]
        for state, number in np.unique(np.stack((states, block_of)), axis=1).T.tolist():
            mine = np.flatnonzero((states == state) & (block_of == number))
            kind = int(own[mine[0]])
            columns = items.blocks[number].take(items.row_of[places[mine]])
            if state not in (kind, _NO_KIND):
                schema = min(self._columns[state].kind.schema, columns.kind.schema)
                columns = columns.coarser(schema)
                kind = self._number(columns.kind)
                if kind != state:
                    self._columns[kind].move(self._columns[state], cells[mine])
            self._kind_of[cells[mine]] = kind
            self._columns[kind].add(cells[mine], columns, np.arange(len(mine)))

    def _add_object(self, cell: int, histogram: FloatHistogram, name: str) -> None:
        if cell not in self._sums:
            self._sums[cell] = Accumulator(histogram)
        elif cell not in self._incompatible:
            try:
                self._sums[cell].add(histogram)
            except IncompatibleError:
                self._incompatible[cell] = name

    def result(self, presence: Bools) -> tuple[Bools, Grid | None]:
        """Presence with the histograms' results, and those; groups of both kinds give nothing, with a warning."""
        if not len(self._kind_of):
            return presence, None
        flat = presence.copy().reshape(-1)
        taken = np.flatnonzero(self._kind_of[: flat.size] != _NO_KIND)
        clash = taken[flat[taken]]
        if len(clash):
            self._ev.notes.warn("encountered a mix of histograms and floats for aggregation", self._position)
            flat[clash] = False
            self._kind_of[clash] = _NO_KIND
        places = np.full(flat.shape, -1, np.intp)
        blocks: list[Block] = []
        at = 0
        for number, sums in enumerate(self._columns):
            mine = np.flatnonzero(self._kind_of[: flat.size] == number)
            if not len(mine):
                continue
            found, collision, infinite = sums.result(mine, self._op == "avg")
            if collision:
                self._ev.notes.warn("conflicting counter resets during histogram aggregation", self._position)
            if len(infinite):
                self._again(mine[infinite])
                kept = np.setdiff1d(np.arange(len(mine)), infinite)
                mine, found = mine[kept], found.take(kept)
            blocks.append(found)
            places[mine] = np.arange(at, at + len(mine))
            at += len(mine)
        objects = self._objects()
        if objects:
            cells: Cells = np.empty(len(objects), dtype=object)
            cells[:] = list(objects.values())
            blocks.append(cells)
            places[list(objects)] = np.arange(at, at + len(objects))
        flat[places >= 0] = True
        return flat.reshape(presence.shape), Grid(places.reshape(presence.shape), blocks)

    def _again(self, cells: Index) -> None:
        """Sum some cells up anew, as objects, which know how to take the mean of what overflows."""
        wanted = np.zeros(len(self._kind_of), np.bool_)
        wanted[cells] = True
        self._kind_of[cells] = _OBJECTS
        for grid, cell_of in self._taken:
            there = wanted[cell_of] & grid.there
            objects = grid.only(there).cells
            for s, k in np.argwhere(there).tolist():
                self._add_object(int(cell_of[s, k]), objects[s, k], "")

    def _objects(self) -> dict[int, FloatHistogram]:
        out: dict[int, FloatHistogram] = {}
        for cell, total in self._sums.items():
            if self._kind_of[cell] == _NO_KIND:
                continue
            if cell in self._incompatible:
                text = "vector contains a mix of histograms with exponential and custom buckets schemas for metric name"
                self._ev.notes.warn(f"{text} {quote(self._incompatible[cell])}", self._position)
                continue
            if total.collision:
                self._ev.notes.warn("conflicting counter resets during histogram aggregation", self._position)
            if total.reconciled:
                self._ev.notes.info("mismatched custom buckets were reconciled during aggregation", self._position)
            out[cell] = total.sum() if self._op == "sum" else total.mean()
        return out


@dataclass(frozen=True, slots=True, eq=False)
class _Items:
    """Histograms that come: of each its cell, the number of its kind, its block and its row in that; int64 [N]."""

    cells: Index
    own: NDArray[np.int64]
    block_of: NDArray[np.int64]
    row_of: NDArray[np.int64]
    blocks: Sequence[Columns]


class _Sums:
    """Compensated sums of histograms of one kind, by cell."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self._spread = Spread()
        self._slot_of = np.empty(0, np.intp)
        self._used = 0
        self._total = np.zeros((0, self._spread.width))
        self._lost = np.zeros((0, self._spread.width))
        self._count = np.zeros(0, np.int64)
        self._hints = np.zeros(0, np.uint8)
        """A bit for each hint that came."""

    def _room(self, cells: Index, spread: Spread) -> None:
        """Have slots for some cells and columns for their buckets."""
        top = int(cells.max()) + 1
        if top > len(self._slot_of):
            self._slot_of = np.concatenate((self._slot_of, np.full(top - len(self._slot_of), -1, np.intp)))
        fresh = np.unique(cells[self._slot_of[cells] < 0])
        self._slot_of[fresh] = np.arange(self._used, self._used + len(fresh))
        self._used += len(fresh)
        wider = self._spread.union(spread)
        grow = max(0, self._used - len(self._count))
        if grow:
            grow = max(grow, len(self._count))
            self._count = np.concatenate((self._count, np.zeros(grow, np.int64)))
            self._hints = np.concatenate((self._hints, np.zeros(grow, np.uint8)))
        if grow or wider != self._spread:
            for name in ("_total", "_lost"):
                numbers: Floats = getattr(self, name)
                new = np.zeros((len(self._count), wider.width))
                old = Columns(self.kind, self._spread, numbers, np.zeros(len(numbers), np.uint8))
                new[: len(numbers)] = old.over(wider)
                setattr(self, name, new)
            self._spread = wider

    def add(self, cells: Index, columns: Columns, rows: Index) -> None:
        """Add histograms to cells, in their order where several are for one."""
        self._room(cells, columns.spread)
        slots = self._slot_of[cells]
        bits = (1 << columns.hints[rows].astype(np.int64)).astype(np.uint8)
        np.bitwise_or.at(self._hints, slots, bits)
        order = np.argsort(slots, kind="stable")
        begins = np.flatnonzero(np.diff(slots[order], prepend=-1))
        counts = np.diff(begins, append=len(order))
        numbers = columns.over(self._spread)
        for turn in range(int(counts.max())):
            some = order[begins[counts > turn] + turn]
            to = slots[some]
            self._add_once(to, numbers[rows[some]])

    def _add_once(self, slots: Index, numbers: Floats) -> None:
        where: Index | slice = slots
        if len(slots) and int(slots[-1]) - int(slots[0]) == len(slots) - 1:
            where = slice(int(slots[0]), int(slots[-1]) + 1)
        first = self._count[where] == 0
        self._count[where] += 1
        if first.all():
            self._total[where] = numbers
            return
        total, lost = compensated(self._total[where], numbers, self._lost[where])
        if first.any():
            total[first], lost[first] = numbers[first], 0.0
        self._total[where], self._lost[where] = total, lost

    def move(self, other: "_Sums", cells: Index) -> None:
        """Take over the sums of cells from those of a finer resolution."""
        slots = other._slot_of[cells]
        hints = other._hints[slots]
        total, lost = (
            Columns(other.kind, other._spread, numbers[slots], hints).coarser(self.kind.schema)
            for numbers in (other._total, other._lost)
        )
        self._room(cells, total.spread)
        to = self._slot_of[cells]
        self._total[to], self._lost[to] = total.over(self._spread), lost.over(self._spread)
        self._count[to], self._hints[to] = other._count[slots], hints
        other._slot_of[cells] = -1

    def _held(self, slots: Index) -> NDArray[np.uint8]:
        """The hints of sums."""
        bits = self._hints[slots]
        hints = np.full(len(slots), ResetHint.UNKNOWN, np.uint8)
        for hint in (ResetHint.RESET, ResetHint.NOT_RESET):
            hints[bits == 1 << hint] = hint
        hints[bits & (1 << ResetHint.GAUGE) != 0] = ResetHint.GAUGE
        return hints

    def result(self, cells: Index, mean: bool) -> tuple[Columns, bool, Index]:
        """Sums or means of cells, whether hints contradict each other in one, and which of them overflow a mean."""
        slots = self._slot_of[cells]
        both = 1 << ResetHint.RESET | 1 << ResetHint.NOT_RESET
        collision = bool((self._hints[slots] & both == both).any())
        total, lost, count = self._total[slots], self._lost[slots], self._count[slots, None]
        infinite = np.flatnonzero(np.isinf(total).any(axis=1)) if mean else np.empty(0, np.intp)
        with np.errstate(all="ignore"):
            if mean:
                total, lost = total / count, lost / count
            numbers = np.where(count > 1, total + lost, total)
        return Columns(self.kind, self._spread, numbers, self._held(slots)), collision, infinite

    def states(self, cells: Index) -> list[Accumulator]:
        """The sums of cells as objects, to go on with; not for means."""
        slots = self._slot_of[cells]
        hints = self._held(slots)
        totals = Columns(self.kind, self._spread, self._total[slots], hints).histograms()
        losts = Columns(self.kind, self._spread, self._lost[slots], hints).histograms()
        return [
            Accumulator.resumed(
                total, lost, int(self._count[slot]), {h for h in ResetHint if self._hints[slot] >> h & 1}
            )
            for total, lost, slot in zip(totals, losts, slots.tolist(), strict=True)
        ]
