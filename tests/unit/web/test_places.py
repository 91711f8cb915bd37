"""Who sends slowly stands aside: it takes no place from others, and no tenant's slow clients take every thread."""

import io
import threading
from uuid import UUID

import pytest

from web.intake import body as bodies
from web.intake.body import Body
from web.places import Place, Places
from web.problems import Problem

ONE, OTHER, THIRD = UUID(int=1), UUID(int=2), UUID(int=3)


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def entered(places: Places, tenant: UUID) -> Place:
    place = places.enter(tenant, 0)
    assert place is not None
    return place


def test_so_many_may_move_and_a_place_that_is_left_is_free() -> None:
    places = Places(2, 0, clock=Clock())
    first, _ = entered(places, ONE), entered(places, ONE)
    assert places.enter(OTHER, 0) is None
    places.leave(first)
    assert places.enter(OTHER, 0) is not None


def test_nobody_waits_whose_tenant_has_its_share_and_no_more_wait_than_may() -> None:
    """Waiting takes a thread: with patience for an hour these come back at once."""
    places = Places(3, 0, of_tenant=1, waiting=1)
    entered(places, ONE)
    assert places.enter(ONE, 3600) is None
    entered(places, OTHER)
    held = entered(places, THIRD)
    waiting = threading.Thread(target=places.enter, args=(UUID(int=4), 3600))
    waiting.start()
    while waiting.is_alive() and not places._waiting.total():
        pass
    assert places.enter(UUID(int=5), 3600) is None
    places.leave(held)
    waiting.join(30)
    assert not waiting.is_alive()


def test_of_those_who_wait_the_tenant_with_the_fewest_goes_first() -> None:
    places = Places(2, 8, waiting=20)
    first, second = entered(places, ONE), entered(places, ONE)
    came: list[UUID] = []

    def wait(tenant: UUID) -> None:
        if places.enter(tenant, 30) is not None:
            came.append(tenant)

    threads = [threading.Thread(target=wait, args=(tenant,)) for tenant in (*[ONE] * 5, OTHER)]
    for thread in threads:
        thread.start()
    while places._waiting.total() < len(threads):
        pass
    places.leave(first)
    threads[-1].join(30)
    assert came == [OTHER]
    for place in (second, *places._held):
        places.leave(place)
    while any(thread.is_alive() for thread in threads):
        for place in list(places._held):
            places.leave(place)
    assert came.count(ONE) == 5


def test_who_waits_gets_the_place_that_is_left() -> None:
    places = Places(1, 0)
    held = entered(places, ONE)
    threading.Timer(0.05, places.leave, [held]).start()
    assert places.enter(OTHER, 30) is not None


def test_a_slow_body_holds_up_nobody_and_counts_again_when_it_moves() -> None:
    clock = Clock()
    places = Places(1, 2, clock=clock)
    slow = entered(places, ONE)
    slow.wait()
    assert places.enter(OTHER, 0) is None
    clock.now = 2.0
    second = entered(places, OTHER)
    places.leave(second)
    assert slow.go_on() == 2.0
    assert places.enter(OTHER, 0) is None
    # What is being written down is not slow, however long it takes.
    clock.now = 100.0
    assert places.enter(OTHER, 0) is None


def test_slow_bodies_are_bounded_for_one_tenant_more_than_for_all() -> None:
    clock = Clock()
    places = Places(2, 4, clock=clock)

    def slow(tenant: UUID) -> bool:
        place = places.enter(tenant, 0)
        if place is not None:
            place.wait()
            clock.now += 2
        return place is not None

    assert [slow(ONE) for _ in range(5)] == [True] * 4 + [False]
    assert [slow(OTHER) for _ in range(3)] == [True] * 2 + [False]
    # These have filled all there is; who comes with one or two is taken in all the same, as many as may move.
    assert [slow(THIRD) for _ in range(3)] == [True, True, False]
    assert not slow(UUID(int=4))


class Line(io.RawIOBase):
    """A body that comes in at so many bytes a second, read as the server reads: until a reading is whole."""

    def __init__(self, clock: Clock, rate: float) -> None:
        self._clock, self._rate = clock, rate
        self.asked: list[int] = []

    def read(self, size: int = -1) -> bytes:
        self.asked.append(size)
        self._clock.now += size / self._rate
        return b"x" * size


def body_of(line: Line, clock: Clock, length: int) -> Body:
    environ = {"wsgi.input": line, "CONTENT_LENGTH": str(length)}
    return Body(environ, 1 << 30, Place(ONE, clock))


def test_who_is_fast_is_asked_for_much_and_who_is_slow_for_little() -> None:
    for rate, largest in ((1e9, bodies.PIECE), (100_000, 64 * 1024), (3_000, 4 * 1024)):
        clock = Clock()
        line = Line(clock, rate)
        body = body_of(line, clock, 1_000_000)
        assert sum(len(piece) for piece in iter(body.read, b"")) == 1_000_000
        assert max(line.asked) == largest


def test_a_body_that_hardly_moves_is_ended() -> None:
    clock = Clock()
    with pytest.raises(Problem) as raised:
        body_of(Line(clock, 100.0), clock, 1_000_000).read()
    assert (raised.value.kind.name, raised.value.kind.status) == ("too-slow", 408)
