"""PromQL: parser, AST, printer, and a vectorised engine over the `Querier` protocol. Pure: no I/O, no clock."""
