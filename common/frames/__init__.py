"""Frames: the unit of the edge's log, of transfer and of the hub's WAL. FORMAT.md has the bytes."""
