"""Reading photos ahead of the network: fetching, bounds, neighbours, faults of the storage."""

import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from shared.errors import StorageAway
from shared.priority import STANDING_BACK
from shared.settings import Settings
from shared.storage.file import FileStorage
from tests.unit.worker import photo_files as files
from worker import photos
from worker.decoding.decoder import Decoder
from worker.decoding.outcomes import Limits
from worker.photos import UNREADABLE, Decoded, Outcome, PhotoReader, Rejected, Request, Unreadable

GOOD = files.encoded(files.photo(320, 240))
SLOW = files.png_bomb(6000, 6000)


class _Watched(FileStorage):
    """A folder that tells what is read from it, and is away for some keys."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reads: list[str] = []
        self.away: set[str] = set()

    def read(self, key: str, *, limit: int) -> bytes:
        self.reads.append(key)
        if key in self.away:
            raise StorageAway("The photo storage is out of reach (ReadTimeoutError).")
        return super().read(key, limit=limit)

    def read_into(self, key: str, room: memoryview) -> int:
        self.reads.append(key)
        if key in self.away:
            raise StorageAway("The photo storage is out of reach (ReadTimeoutError).")
        return super().read_into(key, room)


class _Far(_Watched):
    """The same beyond a network: fetched by threads of the reader's own."""

    is_near = False


@pytest.fixture(params=[_Watched, _Far])
def storage(tmp_path: Path, request: pytest.FixtureRequest) -> _Watched:
    made: _Watched = request.param(tmp_path)
    return made


def _settings(**changes: str) -> Settings:
    return Settings.load(
        {
            "DATABASE_URL": "postgresql://nobody@127.0.0.1/none",
            "BROKER_URL": "redis://127.0.0.1/0",
            "SECRET_KEY": "s" * 32,
            "STORAGE_URL": "file:///nowhere",
            "POXVISIO_DECODERS": "2",
            "POXVISIO_MICRO_BATCH": "2",
            **changes,
        }
    )


@pytest.fixture
def reader(storage: _Watched) -> Iterator[PhotoReader]:
    with PhotoReader(_settings(), storage, seconds=60) as made:
        yield made


def _put(storage: _Watched, *contents: bytes) -> list[Request]:
    requests: list[Request] = []
    for data in contents:
        key = f"incoming/{len(list(storage.list('incoming')))}"
        storage.write(key, data)
        requests.append(Request(key, len(data), context=len(requests)))
    return requests


def _by_context(outcomes: Iterable[tuple[Request, Outcome]]) -> list[Outcome]:
    found = {request.context: outcome for request, outcome in outcomes}
    return [found[n] for n in range(len(found))]


def _until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.002)


def test_every_request_comes_back_once_with_its_outcome(storage: _Watched, reader: PhotoReader) -> None:
    requests = _put(storage, *[GOOD, b"no photo", b"", GOOD[:2000]] * 5)
    outcomes = _by_context(reader.read(requests))
    kinds = [outcome.reason if isinstance(outcome, Rejected) else type(outcome).__name__ for outcome in outcomes]
    assert kinds == ["Decoded", "unknown_type", "empty", "damaged"] * 5
    assert len(reader.pids) <= 2


def test_nothing_to_read_is_no_trouble_and_starts_no_child(reader: PhotoReader) -> None:
    assert list(reader.read([])) == []
    assert reader.pids == []


def test_children_stand_back_but_for_the_one_of_people_which_waits_for_its_first_photo(
    storage: _Watched, reader: PhotoReader
) -> None:
    list(reader.read(_put(storage, GOOD)))
    with PhotoReader(_settings(), storage, seconds=60, for_people=True) as for_people:
        for_people.warm_up()
        _until(lambda: for_people.pids)
        here = os.getpriority(os.PRIO_PROCESS, 0)
        pids = (*reader.pids, *for_people.pids)
        found = [(os.getpriority(os.PRIO_PROCESS, pid), os.sched_getscheduler(pid)) for pid in pids]
    behind = (min(19, here + STANDING_BACK), os.SCHED_BATCH)
    assert found == [behind] * (len(found) - 1) + [(here, os.SCHED_OTHER)]


def test_photos_are_read_where_the_system_lets_nobody_stand_back(
    storage: _Watched, reader: PhotoReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", forbidden)
    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    requests = _put(storage, GOOD)
    found: list[tuple[Request, Outcome]] = []
    thread = threading.Thread(target=lambda: found.extend(reader.read(requests)), daemon=True)
    thread.start()
    thread.join(60)
    assert [type(outcome) for _, outcome in found] == [Decoded]


def test_children_live_on_from_one_reading_to_the_next(storage: _Watched, reader: PhotoReader) -> None:
    requests = _put(storage, *[GOOD] * 8)
    list(reader.read(requests))
    before = set(reader.pids)
    list(reader.read(requests))
    assert before <= set(reader.pids)


def _asked_for(request: Request, data: bytes) -> Request:
    return replace(request, context=0, sha256=hashlib.sha256(data).digest())


def test_a_photo_that_was_announced_is_read_once_and_by_the_child_of_people(storage: _Watched) -> None:
    [request] = _put(storage, GOOD)
    request = _asked_for(request, GOOD)
    with (
        PhotoReader(_settings(), storage, seconds=60, for_people=True) as people,
        PhotoReader(_settings(), storage, seconds=60, people=people) as reader,
    ):
        usual = _by_context(reader.read([request]))
        reader.look_ahead(replace(request, context=None))
        _until(lambda: storage.reads.count(request.key) == 2)
        assert reader.looks_ahead
        ahead = _by_context(reader.read([request]))
        assert not reader.looks_ahead
        assert people.pids
    assert storage.reads.count(request.key) == 2
    assert [_without_time(outcome) for outcome in ahead] == [_without_time(outcome) for outcome in usual]


def _without_time(outcome: Outcome) -> tuple[object, ...]:
    assert isinstance(outcome, Decoded)
    return outcome.pixels.tobytes(), outcome.copy, outcome.quality, outcome.width, outcome.height, outcome.format


def test_what_was_announced_is_used_for_no_other_photo(storage: _Watched, reader: PhotoReader) -> None:
    request, other = _put(storage, GOOD, GOOD[:2000])
    reader.look_ahead(_asked_for(request, GOOD))
    [outcome] = _by_context(reader.read([_asked_for(other, GOOD[:2000])]))
    assert isinstance(outcome, Rejected)
    assert reader.looks_ahead
    reader.forget()
    assert not reader.looks_ahead
    assert isinstance(_by_context(reader.read([_asked_for(request, GOOD)]))[0], Decoded)


def test_a_photo_that_was_not_there_when_it_was_announced_is_read_when_it_is_asked_for(
    storage: _Watched, reader: PhotoReader
) -> None:
    request = _asked_for(Request("incoming/late", len(GOOD)), GOOD)
    reader.look_ahead(request)
    _until(lambda: storage.reads)
    storage.write(request.key, GOOD)
    assert isinstance(_by_context(reader.read([request]))[0], Decoded)


def test_empty_and_too_large_files_are_never_fetched(storage: _Watched) -> None:
    with PhotoReader(_settings(POXVISIO_MAX_PHOTO_BYTES="2048"), storage) as reader:
        outcomes = _by_context(reader.read([Request("incoming/none", 0, 0), Request("incoming/none", 2049, 1)]))
    assert outcomes == [
        Rejected("empty", "The file has no bytes."),
        Rejected("too_large", "The file has 2049 bytes; 2048 are the limit."),
    ]
    assert storage.reads == []


def test_a_fault_of_the_storage_is_no_rejection_and_no_matter_of_the_neighbours(
    storage: _Watched, reader: PhotoReader
) -> None:
    requests = _put(storage, *[GOOD] * 6)
    storage.away = {requests[1].key}
    storage.delete([requests[3].key])
    outcomes = _by_context(reader.read(requests))
    assert outcomes[1] == Unreadable("storage_unreachable", "The photo storage is out of reach (ReadTimeoutError).")
    assert outcomes[3] == Unreadable("photo_missing", "The photo storage has no such object.")
    assert [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Decoded)] == [0, 2, 4, 5]


def test_other_bytes_than_were_taken_in_are_a_fault_of_the_storage(storage: _Watched, reader: PhotoReader) -> None:
    [stored] = _put(storage, GOOD)
    true, false = hashlib.sha256(GOOD).digest(), hashlib.sha256(b"").digest()
    requests = [
        Request(stored.key, stored.size + 1, 0),
        Request(stored.key, stored.size, 1, sha256=false),
        Request(stored.key, stored.size, 2, sha256=true),
    ]
    outcomes = _by_context(reader.read(requests))
    assert outcomes[:2] == [Unreadable("bytes_changed", UNREADABLE["bytes_changed"])] * 2
    assert isinstance(outcomes[2], Decoded)


def test_a_killed_child_harms_no_photo(storage: _Watched, reader: PhotoReader) -> None:
    requests = _put(storage, *[GOOD] * 30)
    reading = reader.read(requests)
    outcomes = [next(reading)]
    for pid in reader.pids:
        os.kill(pid, signal.SIGKILL)
    outcomes += reading
    assert len(outcomes) == 30
    assert all(isinstance(outcome, Decoded) for _, outcome in outcomes)


def test_a_hanging_child_costs_its_own_photo_alone(storage: _Watched) -> None:
    requests = _put(storage, *[GOOD] * 20)
    with PhotoReader(_settings(), storage, seconds=5) as reader:
        _until(lambda: all(isinstance(outcome, Decoded) for _, outcome in reader.read(requests[:4])))
        _until(lambda: all(psutil.Process(pid).rlimit(psutil.RLIMIT_NOFILE)[0] == 16 for pid in reader.pids))
        stopped = reader.pids[0]
        os.kill(stopped, signal.SIGSTOP)
        outcomes = [outcome for _, outcome in reader.read(requests)]
        assert stopped not in reader.pids
    hung = [outcome for outcome in outcomes if not isinstance(outcome, Decoded)]
    assert {outcome.reason for outcome in hung} <= {"decoder_unavailable"}
    assert len(hung) <= 1
    assert len(outcomes) == 20


def test_each_photo_gets_what_it_would_get_alone_whatever_lay_there_before(tmp_path: Path) -> None:
    storage = _Watched(tmp_path)
    sizes = ((640, 480), (320, 240), (500, 400), (320, 240))
    different = [files.encoded(files.photo(*size, seed=seed)) for seed, size in enumerate(sizes)]
    requests = _put(storage, *different)
    requests[2] = replace(requests[2], sha256=hashlib.sha256(b"").digest())
    settings = _settings(POXVISIO_DECODERS="1", POXVISIO_COPY_SIDE="512")
    found: list[Outcome] = []
    with PhotoReader(settings, storage, seconds=60) as reader:
        found += _by_context(reader.read(requests))
        [child] = reader.pids
        os.kill(child, signal.SIGKILL)
        [again] = [outcome for _, outcome in reader.read(requests[3:])]
        assert reader.pids != [child]
    with closing(Decoder(Limits(settings.max_photo_bytes, settings.max_photo_pixels, 512), seconds=60)) as one:
        alone = [one.decode(data) for data in different]
    assert found[2] == Unreadable("bytes_changed", UNREADABLE["bytes_changed"])
    for outcome, expected in zip([*found[:2], found[3], again], [*alone[:2], alone[3], alone[3]], strict=True):
        assert isinstance(outcome, Decoded)
        assert isinstance(expected, Decoded)
        assert (outcome.pixels == expected.pixels).all()
        assert outcome.copy == expected.copy


def test_the_look_ahead_is_bounded_in_number(storage: _Watched, reader: PhotoReader) -> None:
    requests = _put(storage, *[GOOD] * 40)
    drawn, taken, most = 0, 0, 2 * (2 + 2)

    def draw() -> Iterator[Request]:
        nonlocal drawn
        for request in requests:
            drawn += 1
            yield request

    for _ in reader.read(draw()):
        assert len(storage.reads) - taken <= most
        assert drawn - taken <= most + 1
        taken += 1
    assert taken == 40


def test_the_look_ahead_goes_on_while_the_caller_is_busy(storage: _Watched, reader: PhotoReader) -> None:
    reading = reader.read(_put(storage, *[GOOD] * 40))
    next(reading)
    _until(lambda: len(storage.reads) == 2 * (2 + 2))
    reading.close()  # type: ignore[attr-defined]  # it is a generator


def test_the_look_ahead_is_bounded_in_bytes(
    storage: _Watched, reader: PhotoReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = GOOD + bytes(300_000)
    monkeypatch.setattr(photos, "_BYTES_AHEAD", 2 * len(large))
    for taken, (_, outcome) in enumerate(reader.read(_put(storage, *[large] * 10))):
        assert len(storage.reads) - taken <= 2
        assert isinstance(outcome, Decoded)
    monkeypatch.setattr(photos, "_BYTES_AHEAD", 1)
    assert len(list(reader.read(_put(storage, large, large)))) == 2


def test_a_caller_that_stops_early_leaves_nothing_behind(storage: _Watched, reader: PhotoReader) -> None:
    requests = _put(storage, *[GOOD] * 30)
    reading = reader.read(requests)
    next(reading)
    reading.close()  # type: ignore[attr-defined]  # it is a generator
    fresh = [request.context for request, _ in reader.read(requests[:3])]
    assert sorted(fresh) == [0, 1, 2]


def test_a_fault_of_the_caller_reaches_the_caller(storage: _Watched, reader: PhotoReader) -> None:
    def draw() -> Iterator[Request]:
        yield from _put(storage, GOOD)
        raise LookupError("the claim failed")

    with pytest.raises(LookupError, match="claim"):
        list(reader.read(draw()))
    with pytest.raises(ValueError, match="key"):
        list(reader.read([Request("../../etc/passwd", 10)]))


def test_threads_share_a_reader_and_get_their_own_photos(storage: _Watched, reader: PhotoReader) -> None:
    requests = _put(storage, *[GOOD] * 12)
    found: list[list[int]] = []

    def read(own: list[Request]) -> None:
        found.append(sorted(request.context for request, _ in reader.read(own)))

    threads = [threading.Thread(target=read, args=(requests[n::3],)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [list(range(n, 12, 3)) for n in range(3)]


def test_closing_ends_every_child(storage: _Watched) -> None:
    reader = PhotoReader(_settings(), storage)
    list(reader.read(_put(storage, *[GOOD] * 8)))
    pids = reader.pids
    assert pids
    reader.close()
    reader.close()
    assert reader.pids == []
    assert not any(psutil.pid_exists(pid) for pid in pids)
    with pytest.raises(RuntimeError, match="closed"):
        list(reader.read([]))


def test_no_answer_names_the_file(storage: _Watched, reader: PhotoReader) -> None:
    names = ("mary_smith", "john")
    storage.write("incoming/mary_smith", b"text")
    storage.write("incoming/john", GOOD[:500])
    requests = [Request(f"incoming/{name}", size) for name, size in (("mary_smith", 4), ("john", 500), ("john", 501))]
    for _, outcome in reader.read(requests):
        assert isinstance(outcome, Rejected | Unreadable)
        assert not any(name in outcome.detail for name in names)
