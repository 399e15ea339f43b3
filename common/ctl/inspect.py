"""`bramblectl tsdb analyze` and `verify`: what a directory consists of, and whether it is whole."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.clock import Clock
from common.ctl.stores import Kind, OpenStore, kind_of, open_directory
from common.ctl.table import number, printable, render
from common.edgelog.contents import Contents, contents
from common.edgelog.verify import verify_log
from common.times import rfc3339
from common.tsdb.census import Census, encodings
from common.tsdb.store import Store
from common.tsdb.verify import Verdict, verify_store
from common.units import format_size

RIGHT = frozenset({1, 2, 3, 4, 5, 6, 7})


def verify(directory: Path) -> int:
    """Print a line for each file; 1 if one is damaged."""
    kind = kind_of(directory)
    counts: Counter[Verdict] = Counter()
    for report in verify_store(directory) if kind is Kind.STORE else verify_log(directory):
        counts[report.verdict] += 1
        print("\n".join(map(printable, report.lines())), flush=True)
    bad = counts[Verdict.BAD]
    print(f"{kind}: {counts.total()} files, {bad} damaged, {counts[Verdict.NOTE]} with a note")
    if bad:
        program = "hub" if kind is Kind.STORE else "agent"
        print(f"The {program} starts all the same, sets aside or leaves out what is damaged, and counts it.")
    return 1 if bad else 0


def analyze(directory: Path, limit: int, clock: Clock) -> int:
    """Print what the directory holds; 1 if some of it is damaged."""
    opened = open_directory(directory, clock)
    try:
        if isinstance(opened, OpenStore):
            store = opened.querier
            parts, census = _store(store), Census.of(store.blocks, store.parts())
        else:
            found = contents(opened.files)
            parts, census = _log(directory, found), found.census
        for part in parts:
            print(part, end="\n\n", flush=True)
        names = {name for name, _ in census.pairs}
        print(f"Series: {census.series}\nLabel names: {len(names)}\nLabel pairs: {len(census.pairs)}")
        for title, ranking in census.rankings(limit):
            print(f"\n{title}:")
            print("\n".join(f"{count} {printable(what)}" for what, count in ranking) or "none")
        damage = opened.damage()
    finally:
        opened.close()
    for line in damage:
        print(f"\n{line}: see `bramblectl tsdb verify {directory}`")
    return 1 if damage else 0


def _store(store: Store) -> Iterator[str]:
    stats = store.stats()
    rows = [
        (
            f"blocks/{block.path.name}", rfc3339(block.min), rfc3339(block.max), number(block.series),
            number(block.footer.samples), format_size(block.size), number(block.size / max(1, block.footer.samples), 3),
        )
        for block in sorted(store.blocks, key=lambda block: block.min)
    ]  # fmt: skip
    samples = sum(block.footer.samples for block in store.blocks)
    rows.append(
        ("all blocks", "", "", "", number(samples), format_size(stats.block_bytes),
         number(stats.block_bytes / max(1, samples), 3))
    )  # fmt: skip
    yield f"{Kind.STORE} {store.path}: {_range(stats.first, stats.last)}"
    yield render(("BLOCK", "FROM", "TO", "SERIES", "SAMPLES", "SIZE", "BYTES/SAMPLE"), rows, RIGHT)
    yield (
        f"Log: {stats.wal_segments} segments, {format_size(stats.wal_bytes)}; in no block yet: {stats.samples} samples "
        f"of {stats.series} series"
    )
    yield _encodings(encodings(store.blocks))


def _log(directory: Path, found: Contents) -> Iterator[str]:
    total = found.total
    rows = [
        (
            each.name, _time(each.first), _time(each.last), number(each.frames), number(each.samples),
            format_size(each.size), number(each.size / max(1, each.samples), 3),
        )
        for each in [*found.segments, total]
    ]  # fmt: skip
    yield f"{Kind.LOG} {directory}: {_range(total.first, total.last)}, {found.schemas} schemas"
    yield render(("SEGMENT", "FROM", "TO", "FRAMES", "SAMPLES", "SIZE", "BYTES/SAMPLE"), rows, RIGHT)
    yield _encodings(found.encodings)


def _time(ms: int | None) -> str:
    return "" if ms is None else rfc3339(ms)


def _range(first: int | None, last: int | None) -> str:
    return "empty" if first is None or last is None else f"{rfc3339(first)} to {rfc3339(last)}"


def _encodings(found: Sequence[tuple[str, int, int]]) -> str:
    total = max(1, sum(cells for _, _, cells in found))
    rows = [(what, number(rows), number(cells), number(100 * cells / total, 1, " %")) for what, rows, cells in found]
    return render(("ROW ENCODING", "ROWS", "CELLS", "SHARE"), rows, RIGHT) if rows else "No rows in blocks."
