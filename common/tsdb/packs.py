"""Blocks in memory: what the head held, packed metric-major until blocks on the disk are due.

They hold nothing that the log doesn't hold too, and go with the process. Of samples of one series and timestamp those
in blocks came first, then those in packs by rank, then the head's: a cut takes all below its limit out of packs, so
what a later pack has there came later; and a pack takes all that is in the head.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from common.sample import MetricMeta
from common.tsdb.block import Block
from common.tsdb.blocks import DAY, WINDOW, BlockOrigin
from common.tsdb.build import Origin, Shape, build
from common.tsdb.cache import DecodeCache
from common.tsdb.deletion import Deletion
from common.tsdb.index import Interner

FEW: Final = 3
"""Packs of one window that need no merging."""
SHAPE: Final = Shape(level=1)
_NOWHERE = Path("memory")


@dataclass(frozen=True, slots=True, eq=False)
class Pack:
    """A block in memory, and what was deleted from it since it is there."""

    block: Block
    deletions: tuple[Deletion, ...] = ()

    @property
    def rank(self) -> int:
        """Packs that were made earlier have lower ones."""
        return self.block.footer.rank

    @property
    def samples(self) -> int:
        """How many samples it has."""
        return self.block.footer.samples

    @property
    def size(self) -> int:
        """How many bytes it takes while nobody reads it."""
        return self.block.size

    def origin(self, start: int, end: int) -> BlockOrigin:
        """Its samples between two times (inclusive), for another block."""
        return BlockOrigin(self.block, self.deletions, start, end)


class Packs:
    """All packs of a store. `current` is a snapshot, by rank; changing it needs the store's lock."""

    def __init__(self, number: Callable[[], int], cache: DecodeCache, interner: Interner) -> None:
        """`number()` is a number that no block and no pack has had: the rank of a new one."""
        self._number = number
        self._cache = cache
        self._interner = interner
        self.current: tuple[Pack, ...] = ()
        self.duplicates = 0
        """Samples found to be repeats of another's timestamp when packs were made."""

    @property
    def size(self) -> int:
        """Bytes of all."""
        return sum(pack.size for pack in self.current)

    @property
    def bounds(self) -> tuple[int, int] | None:
        """Lowest and highest timestamp."""
        blocks = [pack.block for pack in self.current]
        return (min(block.min for block in blocks), max(block.max for block in blocks)) if blocks else None

    def below(self, before: int) -> list[Pack]:
        """Those with samples below `before`."""
        return [pack for pack in self.current if pack.block.min < before]

    def between(self, start: int, end: int) -> list[tuple[Block, Sequence[Deletion]]]:
        """As Blocks.between."""
        return [
            (pack.block, pack.deletions) for pack in self.current if pack.block.min <= end and pack.block.max >= start
        ]

    def delete(self, deletion: Deletion) -> None:
        """Leave samples out of what is read from packs that are there now."""
        self.current = tuple(
            replace(pack, deletions=(*pack.deletions, deletion))
            if pack.block.min <= deletion.end and pack.block.max >= deletion.start
            else pack
            for pack in self.current
        )

    def make(
        self, origins: Sequence[Origin], meta: Callable[[str], Sequence[MetricMeta]], rank: int | None = None
    ) -> list[Pack]:
        """Pack all rows of `origins` (none, if there are none); they are read only after `swap`."""
        memory = _Memory()
        paths = build(
            memory, _NOWHERE, self._number, origins,
            rank=rank, log=0, meta=meta, shape=SHAPE, dropped=self._dropped,
        )  # fmt: skip
        return [Pack(Block(path, self._cache, self._interner, memory.take(path))) for path in paths]

    def _dropped(self, count: int) -> None:
        self.duplicates += count

    def swap(self, add: Sequence[Pack], remove: Sequence[Pack]) -> None:
        """Make new packs readable in place of others. The caller has the lock."""
        kept = [pack for pack in self.current if pack not in remove]
        self.current = tuple(sorted([*kept, *add], key=lambda pack: pack.rank))

    def without(self, packs: Sequence[Pack], before: int, meta: Callable[[str], Sequence[MetricMeta]]) -> list[Pack]:
        """What is left of some packs from `before` on, at their ranks."""
        straddling = [pack for pack in packs if pack.block.max >= before]
        return [
            each for pack in straddling for each in self.make([pack.origin(before, pack.block.max)], meta, pack.rank)
        ]


def merges(packs: Sequence[tuple[int, int, int]]) -> Iterator[list[int]]:
    """Packs that are better one: positions in `packs` (min, max, samples; by rank), ascending.

    The newest of a window that has many, none of them much larger than all after it. No other pack that shares a time
    with them has a rank between theirs: merged, they may take the highest one.
    """
    windows: dict[tuple[int, int], list[int]] = {}
    for i, (low, high, _) in enumerate(packs):
        width = WINDOW if low // WINDOW == high // WINDOW else DAY
        windows.setdefault((width, low // width), []).append(i)
    for members in windows.values():
        if len(members) <= FEW:
            continue
        run = [members.pop()]
        total = packs[run[0]][2]
        while members and packs[members[-1]][2] <= 2 * total:
            longer = [members.pop(), *run]
            low, high = min(packs[i][0] for i in longer), max(packs[i][1] for i in longer)
            between = [packs[i] for i in range(longer[0], longer[-1]) if i not in longer]
            if any(each[0] <= high and each[1] >= low for each in between):
                break
            run = longer
            total += packs[run[0]][2]
        if len(run) > 1:
            yield run


class _Memory:
    """An Output that keeps the bytes."""

    def __init__(self) -> None:
        self._sinks: dict[Path, _Sink] = {}

    def create(self, path: Path) -> "_Sink":
        """As Output.create."""
        self._sinks[path] = _Sink()
        return self._sinks[path]

    def unlink(self, path: Path) -> None:
        """As Output.unlink."""
        self._sinks.pop(path, None)

    def take(self, path: Path) -> bytes:
        """What was written."""
        return b"".join(self._sinks.pop(path).parts)


class _Sink:
    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0

    def write(self, data: bytes) -> None:
        self.parts.append(data)
        self.size += len(data)

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass
