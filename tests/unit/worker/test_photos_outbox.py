"""The memory through which a decoding child hands pictures to its worker."""

import errno
import mmap
import os
import sys
from collections.abc import Iterator

import pytest

from worker.decoding.outbox import ChildsOutbox, Outbox

linux = pytest.mark.skipif(sys.platform != "linux", reason="what other systems promise is less")
SIZE = 1 << 20


@pytest.fixture
def outbox() -> Iterator[Outbox]:
    made = Outbox(SIZE)
    yield made
    made.close()


def test_what_the_child_lays_down_is_taken_in_two_parts(outbox: Outbox) -> None:
    childs = ChildsOutbox.open(os.dup(outbox.descriptor))
    for parts in ((b"pixels", b"copy"), (b"x",), ()):
        size = childs.put(parts)
        whole = b"".join(parts)
        for first in (0, 3, 6, SIZE):
            assert outbox.take(first, size) == (whole[:first], whole[first:])


def test_what_was_taken_stays_as_it_was_whatever_the_child_does_later(outbox: Outbox) -> None:
    childs = ChildsOutbox.open(os.dup(outbox.descriptor))
    taken = outbox.take(2, childs.put([b"a good picture"]))
    childs.put([b"another one..."])
    assert taken == (b"a ", b"good picture")


def test_more_than_there_is_room_for_is_neither_laid_down_nor_taken(outbox: Outbox) -> None:
    childs = ChildsOutbox.open(os.dup(outbox.descriptor))
    with pytest.raises((ValueError, IndexError)):
        childs.put([bytes(SIZE - 1), b"xx"])
    with pytest.raises(ValueError, match="more than there is room for"):
        outbox.take(0, SIZE + 1)
    assert len(outbox.take(0, SIZE)[1]) == SIZE


@linux
def test_neither_side_can_change_how_long_the_memory_is(outbox: Outbox) -> None:
    for size in (0, 2 * SIZE):
        with pytest.raises(PermissionError) as refused:
            os.ftruncate(outbox.descriptor, size)
        assert refused.value.errno == errno.EPERM


@linux
def test_the_worker_itself_cannot_write_what_it_reads(outbox: Outbox) -> None:
    with pytest.raises(TypeError):
        outbox._memory[0] = 1
    assert isinstance(outbox._memory, mmap.mmap)
