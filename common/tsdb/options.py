"""What a store is told, what it answers to appends, and what it says of itself."""

from dataclasses import dataclass
from enum import StrEnum

from common.tsdb.wal import Loss

_DAY = 86_400_000


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Limits and sizes; every refusal names the field that caused it."""

    retention_ms: int = 15 * _DAY
    """Samples older than this, counted from the newest one (or now, if that is earlier), are dropped; 0 keeps all."""
    retention_bytes: int = 0
    """Log and blocks together, oldest blocks go first; 0 for no limit."""
    cache_bytes: int = 64 << 20
    """Of decoded row groups."""
    index_bytes: int = 64 << 20
    """Of indexes of blocks that are open; the latest one stays in any case."""
    cached_labels: int = 200_000
    """Label sets of answers that are kept for the next ones."""
    wal_segment_bytes: int = 32 << 20
    max_series: int = 2_000_000
    max_series_per_source: int = 200_000
    max_labels: int = 64
    max_label_name_bytes: int = 1024
    max_label_value_bytes: int = 4096
    max_histogram_buckets: int = 16_384
    """Of a native histogram, on one side, from the lowest to the highest that is populated; and custom bounds."""
    max_schemas_per_hour: int = 120
    """New schemas of one source in an hour."""
    seal_bytes: int = 64 << 20
    """Samples in memory as they came, beyond which they are packed there."""
    max_head_bytes: int = 0
    """Samples in memory, packed or not, beyond which appends are refused until the next cut; 0 for no limit."""
    max_provisional_ms: int = 6 * 3_600_000
    """How long samples with an estimated time wait, in memory and in the log, for the correction that moves them."""
    max_pending_bytes: int = 64 << 20
    """Appended but not committed."""
    max_quarantine_bytes: int = 64 << 20
    """Of damaged records kept for inspection; the oldest go first."""


class Outcome(StrEnum):
    """What became of a frame."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    QUARANTINED = "quarantined"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Appended:
    """An outcome, why (empty if accepted; a short fixed word, fit for a metric label) and in how many words."""

    outcome: Outcome
    reason: str = ""
    detail: str = ""
    samples: int = 0


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Counters since the store was opened, and gauges; bytes, milliseconds."""

    series: int
    sources: int
    schemas: int
    chunks: int
    head_bytes: int
    """Samples in memory, packed or not."""
    packs: int
    pack_bytes: int
    loose_samples: int
    first: int | None
    last: int | None
    samples: int
    histograms: int
    frames: dict[str, int]
    refused: dict[str, int]
    duplicate_samples: int
    late_slots: int
    provisional_slots: int
    given_up_slots: int
    blocks: int
    block_bytes: int
    cache_bytes: int
    cache_hits: int
    cache_misses: int
    wal_segments: int
    wal_bytes: int
    wal_pending_bytes: int
    bytes_written: int
    commits: int
    failed_commits: int
    paused: str
    loss: Loss
