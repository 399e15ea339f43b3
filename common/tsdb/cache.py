"""A byte-bounded cache of what reading a block costs most: unpacked row groups, decoded values, timelines."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any


class DecodeCache:
    """Least recently used entries go first. Safe for many threads; two may load the same entry at once."""

    def __init__(self, limit: int, least: int = 0) -> None:
        """At most `limit` bytes, as the loaders count them, but the `least` latest entries in any case."""
        self.limit = limit
        self.least = least
        self.size = 0
        self.hits = 0
        self.misses = 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def peek(self, key: Hashable) -> Any:
        """The entry, or None; counts as use."""
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                return None
            self._entries.move_to_end(key)
            self.hits += 1
            return found[0]

    def get(self, key: Hashable, load: Callable[[], tuple[Any, int]]) -> Any:
        """The entry, loaded as (value, bytes) if it is not there; one larger than the limit is mostly not kept."""
        found = self.peek(key)
        if found is not None:
            return found
        value, size = load()
        with self._lock:
            self.misses += 1
            if key not in self._entries:
                self._add(key, value, size)
        return value

    def put(self, key: Hashable, value: Any, size: int) -> None:
        """Have an entry of so many bytes, in place of the one that there was."""
        with self._lock:
            if key in self._entries:
                self.size -= self._entries.pop(key)[1]
            self._add(key, value, size)

    def _add(self, key: Hashable, value: Any, size: int) -> None:
        if size > self.limit and not self.least:
            return
        self._entries[key] = value, size
        self.size += size
        while self.size > self.limit and len(self._entries) > self.least:
            _, (_, gone) = self._entries.popitem(last=False)
            self.size -= gone

    def clear(self) -> None:
        """Empty it, as benchmarks of cold reads do."""
        with self._lock:
            self._entries.clear()
            self.size = 0
