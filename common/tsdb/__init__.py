"""Storage: row groups, WAL, head, blocks, and the `Querier` through which everything reads."""
