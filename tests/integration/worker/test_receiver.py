"""Archives on their way into their jobs, over a real ledger and storage: whoever dies, every entry has one answer."""

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from shared.database import Database
from shared.errors import StorageAway
from shared.ledger import intake as ledger
from shared.ledger.cancel import cancel
from shared.ledger.intake import Intake
from shared.ledger.receiving import Archive, receive
from shared.ledger.sweep import sweep
from shared.settings import Settings
from shared.storage import Storage
from shared.storage.file import FileStorage
from shared.storage.keys import archive_key
from tests.integration.ledger.factories import (
    change,
    check_invariants,
    finish,
    job_row,
    let_leases_expire,
    new_job,
    result_rows,
    rows,
    take,
)
from tests.integration.worker.conftest import Receive, Worker, photo
from tests.security.archives.attacks import ENTRIES, FIRST, LAST, WHOLE
from tests.security.archives.packing import DEFLATED, Packed, pack
from worker import expansion, receiver
from worker.expansion import Expansion
from worker.housekeeping import Housekeeping
from worker.turn import Interrupted, Turn

Send = Callable[..., UUID]


@pytest.fixture
def send(app_db: Database, storage: Storage, tenant: UUID) -> Send:
    """Return a function that stores an archive and has it accepted, as the web side does."""

    def run(archive: bytes, name: str | None = "photos.zip", **fields: Any) -> UUID:
        job = new_job(tenant, 0, "bulk", **fields)
        key = archive_key(job.id)
        storage.write(key, archive)
        with app_db.transaction(tenant) as session:
            receive(session, job, Archive(name, key, hashlib.sha256(archive).digest(), len(archive)))
        return job.id

    return run


def packed(number: int) -> bytes:
    """Return an archive of so many small files, every third of which is encrypted."""
    return pack(*(Packed(b"%03d.jpg" % n, b"photo %d" % n, flags=int(n % 3 == 2)) for n in range(number)))


def names(owner_db: Database, job: UUID) -> list[str]:
    return [
        row.client_name
        for row in rows(owner_db, "SELECT client_name FROM image WHERE job_id = :job ORDER BY ordinal", job=job)
    ]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.02)


def test_an_archive_of_photos_is_expanded_and_answered_and_then_deleted(
    owner_db: Database,
    worker_db: Database,
    storage: Storage,
    send: Send,
    make_receiver: Receive,
    make_worker: Worker,
) -> None:
    first = photo(1)
    entries = (
        Packed(b"ward 1/", b""),
        Packed(b"ward 1/a.jpg", first, DEFLATED),
        Packed(b"ward 1/b.jpg", photo(2)),
        Packed(b"__MACOSX/ward 1/._a.jpg", b"x"),
        Packed(b"again.jpg", first),
        Packed(b"notes.txt", b"no photo"),
        Packed(b"secret.jpg", first, flags=1),
    )
    woken: list[str] = []
    job = send(pack(*entries))
    assert make_receiver(wake=woken.append).work_once()
    assert woken == ["bulk"]
    assert names(owner_db, job) == ["ward 1/a.jpg", "ward 1/b.jpg", "again.jpg", "notes.txt", "secret.jpg"]
    make_worker().drain()
    row = job_row(owner_db, job)
    assert (row.state, row.total, row.rejected, row.classified + row.abstained) == ("completed", 5, 2, 3)
    assert [found.reasons for found in result_rows(owner_db, job)[3:]] == [["unknown_type"], ["encrypted"]]
    [one, _, twin, *_] = rows(owner_db, "SELECT id, sha256, duplicate_of FROM image ORDER BY ordinal")
    assert (bytes(one.sha256), twin.duplicate_of) == (hashlib.sha256(first).digest(), one.id)
    check_invariants(owner_db)
    house = Housekeeping(worker_db, storage)
    house.delete_archives()
    assert archive_key(job) not in {item.key for item in storage.list("incoming")}
    house.delete_originals()
    assert list(storage.list("incoming")) == []


def test_an_archive_goes_also_where_originals_are_kept(
    owner_db: Database, worker_db: Database, storage: Storage, send: Send, make_receiver: Receive
) -> None:
    job = send(packed(2), keep_originals=True)
    house = Housekeeping(worker_db, storage)
    house.delete_archives()
    assert archive_key(job) in {item.key for item in storage.list("incoming")}
    make_receiver().work_once()
    finish(worker_db, take(worker_db))
    house.delete_archives()
    house.delete_originals()
    assert {item.key for item in storage.list("incoming")} == {f"incoming/{job.hex}/{n:05d}" for n in (0, 1)}


@pytest.mark.parametrize("attack", ["names that lead away", "archives in the archive", "checksums that lie"])
def test_what_is_hostile_is_rejected_visibly_and_the_rest_is_taken(
    owner_db: Database, storage: Storage, send: Send, make_receiver: Receive, attack: str
) -> None:
    made = ENTRIES[attack]()
    job = send(made.archive)
    make_receiver().work_once()
    assert [row.reasons[0] for row in result_rows(owner_db, job)] == list(made.refused)
    kept = {item.key: storage.read(item.key, limit=1 << 20) for item in storage.list(f"incoming/{job.hex}")}
    kept.pop(archive_key(job))
    assert list(kept.values()) == [FIRST.data, LAST.data]
    assert [name for name in names(owner_db, job) if name and not name.isprintable()] == []
    check_invariants(owner_db)


def test_an_archive_that_is_none_is_one_visible_answer(owner_db: Database, send: Send, make_receiver: Receive) -> None:
    job = send(WHOLE["no archive"]().archive)
    make_receiver().work_once()
    row = job_row(owner_db, job)
    assert (row.state, row.total, row.rejected) == ("completed", 1, 1)
    assert names(owner_db, job) == ["photos.zip"]
    assert result_rows(owner_db, job)[0].reasons == ["archive_damaged"]


def claim(worker_db: Database) -> Intake:
    with worker_db.transaction() as session:
        for suspect in (False, True):
            found = ledger.claim(session, "host/one", lease_seconds=60, kinds=("archive",), suspect=suspect)
            if found is not None:
                return found
    raise AssertionError("nothing to claim")


class Killed(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("deaths", [(1,), (2, 1), (1, 1, 1, 1)])
def test_a_killed_expander_has_a_successor_that_goes_on_where_it_was(
    owner_db: Database,
    worker_db: Database,
    storage: Storage,
    settings: Settings,
    send: Send,
    monkeypatch: pytest.MonkeyPatch,
    deaths: tuple[int, ...],
) -> None:
    monkeypatch.setattr(expansion, "_BATCH", 8)
    job = send(packed(50))
    for dies in (*deaths, None):
        intake = claim(worker_db)
        assert intake.archive is not None
        left = dies

        def appended() -> None:
            nonlocal left
            if left is not None:
                left -= 1
                if left == 0:
                    raise Killed

        turn = Turn(lambda: True, lambda: True, appended)
        work = Expansion(settings, worker_db, storage, intake=intake, archive=intake.archive, turn=turn)
        try:
            assert work.run()
        except Killed:
            check_invariants(owner_db)
            let_leases_expire(owner_db)
            sweep(worker_db)
    while units := take(worker_db):
        finish(worker_db, units)
    row = job_row(owner_db, job)
    assert (row.state, row.total, row.rejected, row.classified) == ("completed", 50, 16, 34)
    for image in rows(owner_db, "SELECT * FROM image WHERE bytes > 0"):
        assert storage.read(image.storage_key, limit=100) == b"photo %d" % image.ordinal
        assert bytes(image.sha256) == hashlib.sha256(b"photo %d" % image.ordinal).digest()
    check_invariants(owner_db)


def test_an_expander_that_lost_its_lease_writes_nothing(
    owner_db: Database, worker_db: Database, storage: Storage, settings: Settings, send: Send
) -> None:
    send(packed(5))
    intake = claim(worker_db)
    assert intake.archive is not None
    let_leases_expire(owner_db)
    sweep(worker_db)
    for holds in (True, False):  # it does not know, and it does
        turn = Turn(lambda holds=holds: holds, lambda: True, lambda: None)  # type: ignore[misc]  # binds this round's
        with pytest.raises(Interrupted):
            Expansion(settings, worker_db, storage, intake=intake, archive=intake.archive, turn=turn).run()
    assert rows(owner_db, "SELECT count(*) FROM image")[0][0] == 0
    check_invariants(owner_db)


def test_a_cancel_in_the_middle_ends_the_expansion(
    owner_db: Database,
    app_db: Database,
    worker_db: Database,
    send: Send,
    make_receiver: Receive,
    tenant: UUID,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(expansion, "_BATCH", 8)

    def end(_: str) -> None:
        with app_db.transaction(tenant) as session:
            cancel(session, tenant, job)

    job = send(packed(30))
    assert make_receiver(wake=end).work_once()
    row = job_row(owner_db, job)
    assert (row.state, row.total, row.cancelled) == ("cancelled", 3, 3)
    check_invariants(owner_db)


def test_a_turn_ends_and_the_next_goes_on(
    owner_db: Database, send: Send, make_receiver: Receive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver, "_TURN_SECONDS", 0.0)
    job = send(packed(4))
    one = make_receiver()
    for turn in range(1, 5):
        assert one.work_once()
        assert job_row(owner_db, job).total == turn
    assert not one.work_once()
    assert job_row(owner_db, job).state == "queued"
    check_invariants(owner_db)


class Moody(FileStorage):
    """A folder that is away at some of the calls."""

    moods: Iterator[bool] = iter(())

    def read_part(self, key: str, *, offset: int, length: int) -> bytes:
        if next(self.moods, False):
            raise StorageAway("not now")
        return super().read_part(key, offset=offset, length=length)


def test_a_storage_that_is_away_puts_an_archive_off_and_is_no_crash(
    owner_db: Database, worker_db: Database, send: Send, make_receiver: Receive, settings: Settings
) -> None:
    moody = Moody(Path(settings.storage_url.removeprefix("file://")))
    moody.moods = iter([True])
    job = send(packed(3))
    one = make_receiver(store=moody)
    assert one.work_once()
    [unit] = rows(owner_db, "SELECT * FROM unit")
    assert (unit.state, unit.crashes) == ("waiting", 0)
    change(owner_db, "UPDATE unit SET available_at = now()")
    sweep(worker_db)
    assert one.work_once()
    assert job_row(owner_db, job).total == 3
    check_invariants(owner_db)


def test_an_archive_that_cannot_be_read_in_forty_minutes_is_given_up_visibly(
    owner_db: Database, send: Send, make_receiver: Receive, settings: Settings
) -> None:
    moody = Moody(Path(settings.storage_url.removeprefix("file://")))
    moody.moods = iter([True])
    job = send(packed(3))
    change(owner_db, "UPDATE unit SET attempt = 11")
    assert make_receiver(store=moody).work_once()
    assert (job_row(owner_db, job).state, job_row(owner_db, job).failed) == ("completed", 1)
    assert result_rows(owner_db, job)[0].reasons == ["storage_unreachable"]


def test_an_archive_that_is_gone_is_answered(
    owner_db: Database, storage: Storage, send: Send, make_receiver: Receive
) -> None:
    job = send(packed(3))
    storage.delete([archive_key(job)])
    assert make_receiver().work_once()
    assert result_rows(owner_db, job)[0].reasons == ["photo_missing"]
    check_invariants(owner_db)


def test_a_suspect_is_taken_up_between_two_drains_alone(
    owner_db: Database, worker_db: Database, send: Send, make_receiver: Receive
) -> None:
    job = send(packed(3))
    claim(worker_db)
    let_leases_expire(owner_db)
    sweep(worker_db)
    one = make_receiver()
    assert not one.work_once()
    one.look()
    # One entry was enough to clear it; the rest goes on beside the network.
    assert job_row(owner_db, job).total == 1
    assert one.work_once()
    assert job_row(owner_db, job).total == 3


def test_the_threads_take_in_what_comes(owner_db: Database, send: Send, make_receiver: Receive) -> None:
    one = make_receiver()
    one.start()
    jobs = [send(packed(3)) for _ in range(3)]
    one.look()
    until(lambda: all(job_row(owner_db, job).state != "receiving" for job in jobs))
    one.close()
    assert rows(owner_db, "SELECT count(*) FROM unit WHERE state = 'leased'")[0][0] == 0
    check_invariants(owner_db)
