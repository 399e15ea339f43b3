"""Room in memory: counted seldom, refused at the limit, and again there when something was freed."""

from common.testing import FakeClock
from common.tsdb.room import Room


class Taken:
    """What is taken, and how often that was asked."""

    def __init__(self) -> None:
        self.size = 0
        self.looks = 0

    def measure(self) -> int:
        self.looks += 1
        return self.size


def test_room_is_counted_only_as_the_limit_comes_near() -> None:
    taken = Taken()
    room = Room(1000, FakeClock(), taken.measure)
    for _ in range(90):
        assert room.take(10)
        taken.size += 10
    assert taken.looks == 1


def test_beyond_the_limit_nothing_is_taken_until_something_was_freed() -> None:
    taken = Taken()
    room = Room(1000, FakeClock(), taken.measure)
    taken.size = 995
    assert not room.take(10)
    taken.size = 0
    assert not room.take(10)
    room.changed()
    assert room.take(10)


def test_a_while_later_it_is_counted_again() -> None:
    taken, clock = Taken(), FakeClock()
    room = Room(1000, clock, taken.measure)
    taken.size = 1000
    assert not room.take(1)
    taken.size = 0
    clock.pass_by(2)
    assert room.take(1)


def test_without_a_limit_there_is_always_room() -> None:
    taken = Taken()
    room = Room(0, FakeClock(), taken.measure)
    assert room.take(1 << 60)
    assert taken.looks == 0
