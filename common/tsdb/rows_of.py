"""What a query reads from blocks and head: floats and, where there are any, native histograms. Pure."""

from collections.abc import Iterator, Sequence

from common.labels import Labels, Matcher
from common.tsdb.block import Block
from common.tsdb.blocks import block_pieces
from common.tsdb.cache import DecodeCache
from common.tsdb.deletion import Deletion
from common.tsdb.index import LabelCache
from common.tsdb.join import Piece, join
from common.tsdb.kept import kept
from common.tsdb.kinds import Pool, batches
from common.tsdb.lanes import Chosen, chosen_histograms, chosen_pieces
from common.tsdb.querier import Budget, RowBatch


def rows_of(
    blocks: Sequence[tuple[Block, Sequence[Deletion]]],
    chosen: Chosen,
    matchers: Sequence[Matcher],
    start: int,
    end: int,
    cache: LabelCache,
    decoded: DecodeCache,
    budget: Budget | None,
    newest: bool = False,
) -> Iterator[RowBatch]:
    """Rows of series that satisfy every matcher, between two times (inclusive), as Querier.select.

    `newest` is that of SelectHints.
    """
    found: list[Piece[Labels]] = []
    whole = [block for block, deletions in blocks if not deletions]
    few = kept(whole, matchers, decoded, cache, budget) if len(whole) == len(blocks) > 0 else None
    if few is not None:
        found.extend(each.between(start, end) for each in few)
    else:
        for block, deletions in blocks:
            found.extend(block_pieces(block, deletions, matchers, start, end, cache))
    found.extend(chosen_pieces(chosen, matchers, start, end, cache, newest))
    pool = Pool()
    native: list[Piece[Labels]] = []
    for block, deletions in blocks:
        if block.has_histograms:
            native.extend(block_pieces(block, deletions, matchers, start, end, cache, pool))
    native.extend(chosen_histograms(chosen, matchers, start, end, cache, pool))
    return batches(found, native, pool, budget, newest) if native else join(found, budget)
