"""Rows joined to batches of bounded size."""

import numpy as np

from common.labels import Labels
from common.tsdb.join import Line, Piece, join


def test_a_batch_is_bounded_where_all_rows_together_have_more_cells_than_32_bits_count() -> None:
    rows, width, max_cells = 100_000, 50_000, 100_000
    line = Line(np.arange(width, dtype=np.int64), None, 0)
    piece = Piece(
        np.arange(rows, dtype=np.uint64),
        [line],
        np.zeros(rows, np.intp),
        lambda some: np.zeros((len(some), width)),
        lambda some: [Labels.of(row=str(row)) for row in some.tolist()],
    )
    batch = next(join([piece], max_cells=max_cells))
    assert batch.values.shape == (2, width)
