"""Photos of a request made durable while others arrive, over a real folder."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from uuid import uuid4

import pytest

from shared.errors import StorageAway
from shared.storage.file import FileStorage
from web.intake import durability
from web.intake.reception import Reception

MANY = durability._PHOTOS


class Watched(FileStorage):
    """A folder that tells in which order it was asked, and whose disk can be held up or broken."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked: list[tuple[str, list[str]]] = []
        self.may_settle = threading.Event()
        self.may_settle.set()
        self.is_broken = False

    def settle(self, keys: Sequence[str]) -> None:
        assert self.may_settle.wait(60)
        if self.is_broken:
            raise StorageAway("The disk fails.")
        super().settle(keys)
        self.asked.append(("settle", list(keys)))

    def delete(self, keys: Iterable[str]) -> None:
        gone = list(keys)
        super().delete(gone)
        self.asked.append(("delete", gone))


@pytest.fixture
def storage(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def _reception(storage: Watched) -> Reception:
    return Reception(storage, uuid4(), max_photos=1000, max_photo_bytes=1 << 30, keep=True)


def _arrive(reception: Reception, count: int, data: bytes = b"photo") -> None:
    for _ in range(count):
        reception.begin("a.jpg")
        reception.write(data)
        reception.finish()


def _until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.002)


def test_many_photos_are_durable_before_the_last_one_is_there_and_each_is_asked_for_once(storage: Watched) -> None:
    reception = _reception(storage)
    _arrive(reception, MANY)
    _until(lambda: storage.asked)
    assert storage.asked == [("settle", [photo.storage_key for photo in reception.photos])]
    _arrive(reception, MANY // 2)
    reception.settle()
    asked = [key for _, keys in storage.asked for key in keys]
    assert asked == [photo.storage_key for photo in reception.photos]


def test_photos_that_come_while_the_disk_is_busy_are_one_question_together(storage: Watched) -> None:
    reception = _reception(storage)
    storage.may_settle.clear()
    _arrive(reception, 3 * MANY)
    storage.may_settle.set()
    reception.settle()
    assert [len(keys) for _, keys in storage.asked] == [MANY, 2 * MANY]


def test_few_large_photos_are_begun_with_too(storage: Watched) -> None:
    reception = _reception(storage)
    _arrive(reception, 2, bytes(durability._BYTES // 2))
    _until(lambda: storage.asked)
    reception.settle()
    assert len(storage.asked) == 1


def test_a_few_photos_wait_for_the_end_of_the_request(storage: Watched) -> None:
    reception = _reception(storage)
    before = set(threading.enumerate())
    _arrive(reception, MANY - 1)
    assert storage.asked == []
    assert set(threading.enumerate()) <= before, "nobody was set to work"
    reception.settle()
    assert [len(keys) for _, keys in storage.asked] == [MANY - 1]


@pytest.mark.parametrize("later", [1, MANY])
def test_a_disk_that_failed_meanwhile_fails_the_request_and_leaves_nothing(storage: Watched, later: int) -> None:
    reception = _reception(storage)
    storage.is_broken = True

    def take_in() -> None:
        _arrive(reception, MANY)
        _until(reception._settling._asked.done if reception._settling._asked else lambda: False)
        storage.is_broken = False  # a disk that has lost a photo once may say that all is well the next time
        _arrive(reception, later)
        reception.settle()

    with pytest.raises(StorageAway, match=r"The disk fails\."):
        take_in()
    reception.discard()
    assert list(storage.list("")) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("settle")]


def test_nothing_is_deleted_while_the_disk_is_still_asked_about_it(storage: Watched) -> None:
    reception = _reception(storage)
    storage.may_settle.clear()
    _arrive(reception, MANY)
    discarding = threading.Thread(target=reception.discard)
    discarding.start()
    discarding.join(0.1)
    assert (discarding.is_alive(), storage.asked) == (True, [])
    storage.may_settle.set()
    discarding.join()
    assert [what for what, _ in storage.asked] == ["settle", "delete"]
    assert list(storage.list("")) == []
