"""Notes for the operator."""

import pytest

from common.errors import LimitError
from common.sample import Millis
from hub.notices import MAX_WAITING, Notice, Notices


def test_a_note_is_said_once_however_often_it_is_added() -> None:
    notices = Notices()
    with notices.listening() as queue:
        notices.add("a", Millis(1))
        notices.add("a", Millis(2))
        assert queue.get_nowait() == Notice("a", Millis(1))
        assert queue.empty()


def test_who_listens_later_gets_what_holds_then() -> None:
    notices = Notices()
    notices.add("a", Millis(1))
    notices.add("b", Millis(2))
    notices.remove("a")
    with notices.listening() as queue:
        assert [queue.get_nowait() for _ in range(queue.qsize())] == [Notice("b", Millis(2))]


def test_a_slow_listener_loses_the_oldest() -> None:
    notices = Notices()
    with notices.listening() as queue:
        for i in range(MAX_WAITING + 1):
            notices.add(str(i), Millis(i))
        assert queue.qsize() == MAX_WAITING
        assert queue.get_nowait().text == "1"


def test_more_listeners_than_allowed_are_refused_until_one_leaves() -> None:
    notices = Notices(most_subscribers=1)
    with notices.listening(), pytest.raises(LimitError, match="max-notifications-subscribers"), notices.listening():
        pass
    with notices.listening():
        pass
