"""What the operator should know now: notes that hold until they are taken back, and who listens for changes."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from common.errors import LimitError
from common.sample import Millis

RELOAD_FAILED = "Configuration reload has failed."
MAX_WAITING = 64
"""Notes that a slow subscriber may have waiting; it then loses the oldest."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A note since `at` (ms); `active` is false in the message that takes it back."""

    text: str
    at: Millis
    active: bool = True


class Notices:
    """The notes of now, and who listens for changes. Used on the event loop only."""

    def __init__(self, most_subscribers: int = 16) -> None:
        self._notes: dict[str, Notice] = {}
        self._listeners: list[asyncio.Queue[Notice]] = []
        self._most = most_subscribers

    def current(self) -> list[Notice]:
        """What holds now, oldest first."""
        return list(self._notes.values())

    @property
    def listeners(self) -> int:
        """How many listen now."""
        return len(self._listeners)

    def add(self, text: str, at: Millis) -> None:
        """Something holds from now on; said once, however often it is added."""
        if text not in self._notes:
            self._notes[text] = Notice(text, at)
            self._tell(self._notes[text])

    def remove(self, text: str) -> None:
        """It holds no longer."""
        if (note := self._notes.pop(text, None)) is not None:
            self._tell(Notice(note.text, note.at, active=False))

    def _tell(self, note: Notice) -> None:
        for queue in self._listeners:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(note)

    @contextmanager
    def listening(self) -> Iterator[asyncio.Queue[Notice]]:
        """A queue of what holds now and of every change; LimitError if too many listen."""
        if len(self._listeners) >= self._most:
            raise LimitError(f"{self._most} clients listen already (--web.max-notifications-subscribers)")
        queue: asyncio.Queue[Notice] = asyncio.Queue(MAX_WAITING)
        for note in self.current()[-MAX_WAITING:]:
            queue.put_nowait(note)
        self._listeners.append(queue)
        try:
            yield queue
        finally:
            self._listeners.remove(queue)
