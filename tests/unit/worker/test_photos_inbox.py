"""The memory through which a worker hands files to its decoding child."""

import errno
import mmap
import os
import sys
from collections.abc import Iterator

import pytest

from worker.decoding.inbox import Inbox, open_inbox

linux = pytest.mark.skipif(sys.platform != "linux", reason="what other systems promise is less")
SIZE = 40 << 20


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    made = Inbox(SIZE)
    yield made
    made.close()


def _stored(inbox: Inbox) -> int:
    return os.fstat(inbox.descriptor).st_blocks * 512


def test_what_is_laid_down_is_seen_by_who_opened_it_before(inbox: Inbox) -> None:
    seen = open_inbox(os.dup(inbox.descriptor), SIZE)
    for data in (b"a photo", b"another, longer photo", b"x"):
        inbox.put(data)
        assert seen[: len(data)] == data
    seen.close()


@linux
def test_nobody_can_write_through_the_childs_descriptor_or_make_the_memory_shorter(inbox: Inbox) -> None:
    with pytest.raises(PermissionError):
        mmap.mmap(inbox.descriptor, SIZE)
    with pytest.raises(OSError, match=r"Bad file descriptor|Invalid argument"):
        os.ftruncate(inbox.descriptor, 0)
    again = os.open(f"/proc/self/fd/{inbox.descriptor}", os.O_RDWR)
    with pytest.raises(PermissionError) as refused:
        os.ftruncate(again, 0)
    assert refused.value.errno == errno.EPERM
    os.close(again)


@linux
def test_memory_is_taken_as_files_need_it_and_what_a_large_one_needed_is_given_back(inbox: Inbox) -> None:
    assert _stored(inbox) == 0
    inbox.put(bytes(30 << 20))
    assert _stored(inbox) >= 30 << 20
    inbox.put(b"small")
    assert _stored(inbox) <= 9 << 20


def test_a_file_larger_than_the_room_is_refused(inbox: Inbox) -> None:
    with pytest.raises((ValueError, IndexError)):
        inbox.put(bytes(SIZE + 1))
