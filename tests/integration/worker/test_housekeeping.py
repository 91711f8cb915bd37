"""Tidying up: originals go when their job closes, orphans after a day, old keys when their time is over."""

import os
import time
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa

from shared.database import Database, new_id
from shared.errors import StorageAway
from shared.ledger.cancel import cancel
from shared.ledger.deletion import delete
from shared.ledger.retry import retry
from shared.settings import Settings
from shared.storage import Storage
from shared.storage.keys import copy_key
from tests.integration.worker.conftest import Submit, Worker, photo
from worker.housekeeping import _ORIGINALS_DELETED, _WITH_ORIGINALS, Housekeeping


@pytest.fixture
def house(worker_db: Database, storage: Storage) -> Housekeeping:
    return Housekeeping(worker_db, storage)


def keys(storage: Storage, prefix: str) -> set[str]:
    return {item.key for item in storage.list(prefix)}


def test_originals_go_when_their_job_closes_and_working_copies_stay(
    submit_photos: Submit, make_worker: Worker, house: Housekeeping, storage: Storage, owner_db: Database
) -> None:
    job = submit_photos([photo(1), b"no photo"])
    house.delete_originals()
    assert len(keys(storage, f"incoming/{job.hex}")) == 2
    make_worker().drain()
    house.delete_originals()
    assert keys(storage, "incoming") == set()
    assert len(keys(storage, f"copies/{job.hex}")) == 1
    with owner_db.transaction() as session:
        assert session.execute(sa.text("SELECT originals_deleted_at FROM job")).scalar_one() is not None


def test_originals_of_failed_photos_stay_for_another_try(
    submit_photos: Submit, make_worker: Worker, house: Housekeeping, storage: Storage, owner_db: Database
) -> None:
    job = submit_photos([photo(1), photo(2)])
    make_worker().drain()
    with owner_db.transaction() as session:
        session.execute(sa.text("UPDATE result SET outcome = 'failed' WHERE ordinal = 1"))
        session.execute(sa.text("UPDATE job SET failed = 1, classified = classified - (classified > 0)::int,"
                                " abstained = abstained - (classified = 0)::int"))  # fmt: skip
    house.delete_originals()
    assert keys(storage, "incoming") == {f"incoming/{job.hex}/00001"}


def test_a_tenant_that_keeps_originals_keeps_them(
    submit_photos: Submit, make_worker: Worker, house: Housekeeping, storage: Storage, owner_db: Database
) -> None:
    job = submit_photos([photo(1)])
    with owner_db.transaction() as session:
        session.execute(sa.text("UPDATE job SET keep_originals = true"))
    make_worker().drain()
    house.delete_originals()
    assert keys(storage, "incoming") == {f"incoming/{job.hex}/00000"}


def test_what_a_late_expander_stored_for_a_closed_job_is_deleted_after_a_day(
    submit_photos: Submit,
    make_worker: Worker,
    house: Housekeeping,
    storage: Storage,
    settings: Settings,
    owner_db: Database,
) -> None:
    closed, fresh = submit_photos([photo(1)]), submit_photos([photo(2)])
    make_worker().drain()
    house.delete_originals()
    with owner_db.transaction() as session:
        session.execute(
            sa.text("UPDATE job SET originals_deleted_at = now() - interval '2 hours' WHERE id = :id"), {"id": closed}
        )
    folder = Path(settings.storage_url.removeprefix("file://"))
    for job in (closed, fresh):
        storage.write(f"incoming/{job.hex}/00007", b"late")
        os.utime(folder / "incoming" / job.hex / "00007", (time.time() - 90_000,) * 2)
    house.delete_orphans()
    assert keys(storage, "incoming") == {f"incoming/{fresh.hex}/00007"}


def test_photos_that_no_job_names_are_deleted_after_a_day(
    submit_photos: Submit, house: Housekeeping, storage: Storage, settings: Settings, tenant: UUID
) -> None:
    named = submit_photos([photo(1)])
    orphan, fresh = new_id(), new_id()
    for job in (orphan, fresh):
        storage.write(f"incoming/{job.hex}/00000", b"photo")
    folder = Path(settings.storage_url.removeprefix("file://"))
    for job in (named, orphan):
        os.utime(folder / "incoming" / job.hex / "00000", (time.time() - 90_000,) * 2)

    house.delete_orphans()

    assert keys(storage, "incoming") == {f"incoming/{named.hex}/00000", f"incoming/{fresh.hex}/00000"}


def test_foreign_objects_below_incoming_are_left_alone(
    house: Housekeeping, storage: Storage, settings: Settings
) -> None:
    storage.write("incoming/README", b"whoever put this here")
    folder = Path(settings.storage_url.removeprefix("file://"))
    os.utime(folder / "incoming" / "README", (time.time() - 90_000,) * 2)
    house.delete_orphans()
    assert keys(storage, "incoming") == {"incoming/README"}


class Stubborn:
    """A storage that refuses to delete one job's originals."""

    def __init__(self, storage: Storage, refused: UUID) -> None:
        self._storage = storage
        self._refused = refused.hex

    def delete_prefix(self, prefix: str) -> None:
        if self._refused in prefix:
            raise StorageAway("the photo storage refused")
        self._storage.delete_prefix(prefix)


def test_a_job_whose_originals_cannot_be_deleted_holds_up_no_other(
    submit_photos: Submit, make_worker: Worker, storage: Storage, worker_db: Database
) -> None:
    jobs = [submit_photos([photo(seed)]) for seed in range(3)]
    make_worker().drain()
    Housekeeping(worker_db, Stubborn(storage, jobs[0])).delete_originals()  # type: ignore[arg-type]  # of a storage it has what is asked for
    assert keys(storage, "incoming") == {f"incoming/{jobs[0].hex}/00000"}
    Housekeeping(worker_db, storage).delete_originals()
    assert keys(storage, "incoming") == set()


def test_copies_stored_just_before_a_cancel_do_not_stay(
    submit_photos: Submit, app_db: Database, house: Housekeeping, storage: Storage, tenant: UUID
) -> None:
    job = submit_photos([photo(1)])
    storage.write(copy_key(job, new_id()), b"a picture of somebody")
    with app_db.transaction(tenant) as session:
        cancel(session, tenant, job)
    house.delete_originals()
    assert keys(storage, "copies") == set()


def test_every_old_key_is_forgotten_and_no_other(house: Housekeeping, owner_db: Database, tenant: UUID) -> None:
    with owner_db.transaction() as session:
        session.execute(
            sa.text(
                "INSERT INTO idempotency_key (tenant_id, key, fence, lease_until, expires_at)"
                " SELECT :tenant, 'key ' || g, g, now(), now() + make_interval(secs => g - 2500.5)"
                " FROM generate_series(1, 2600) AS g"
            ),
            {"tenant": tenant},
        )
    house.forget_old_keys()
    with owner_db.transaction() as session:
        assert session.execute(sa.text("SELECT min(fence), count(*) FROM idempotency_key")).one() == (2501, 100)


def remove(app_db: Database, tenant: UUID, job: UUID) -> None:
    with app_db.transaction(tenant) as session:
        delete(session, tenant, job)


def purge_row(owner_db: Database, job: UUID) -> tuple[bool, bool]:
    """Return whether the photos of a deleted job are gone, and whether they are to be looked for again."""
    with owner_db.transaction() as session:
        asked = sa.text("SELECT purged_at IS NOT NULL, purge_at IS NOT NULL FROM job WHERE id = :job")
        return tuple(session.execute(asked, {"job": job}).one())


def test_photos_and_copies_of_a_deleted_job_go_and_those_of_others_stay(
    submit_photos: Submit,
    make_worker: Worker,
    house: Housekeeping,
    storage: Storage,
    app_db: Database,
    owner_db: Database,
    tenant: UUID,
) -> None:
    jobs = [submit_photos([photo(seed), photo(seed + 10)]) for seed in range(2)]
    with owner_db.transaction() as session:
        session.execute(sa.text("UPDATE job SET keep_originals = true"))
    make_worker().drain()
    assert len(keys(storage, "copies")) == len(keys(storage, "incoming")) == 4
    remove(app_db, tenant, jobs[0])
    house.purge()
    assert {key.split("/")[1] for key in keys(storage, "copies") | keys(storage, "incoming")} == {jobs[1].hex}
    assert purge_row(owner_db, jobs[0]) == (True, True)
    assert purge_row(owner_db, jobs[1]) == (False, False)


def test_a_copy_that_a_late_worker_stores_for_a_deleted_job_goes_an_hour_later(
    submit_photos: Submit, house: Housekeeping, storage: Storage, app_db: Database, owner_db: Database, tenant: UUID
) -> None:
    job = submit_photos([photo(1)])
    with app_db.transaction(tenant) as session:
        cancel(session, tenant, job)
    remove(app_db, tenant, job)
    house.purge()
    storage.write(copy_key(job, new_id()), b"a picture of somebody")
    house.purge()
    assert len(keys(storage, "copies")) == 1
    with owner_db.transaction() as session:
        session.execute(sa.text("UPDATE job SET deleted_at = deleted_at - interval '2 hours',"
                                " purge_at = purge_at - interval '2 hours'"))  # fmt: skip
    house.purge()
    assert keys(storage, "copies") == set()
    assert purge_row(owner_db, job) == (True, False)


def test_what_a_storage_refuses_to_delete_is_found_again(
    submit_photos: Submit, make_worker: Worker, storage: Storage, worker_db: Database, app_db: Database,
    owner_db: Database, tenant: UUID,
) -> None:  # fmt: skip
    jobs = [submit_photos([photo(seed)]) for seed in range(2)]
    make_worker().drain()
    for job in jobs:
        remove(app_db, tenant, job)
    Housekeeping(worker_db, Stubborn(storage, jobs[0])).purge()  # type: ignore[arg-type]  # of a storage it has what is asked for
    assert {key.split("/")[1] for key in keys(storage, "copies")} == {jobs[0].hex}
    assert [purge_row(owner_db, job)[0] for job in jobs] == [False, True]
    Housekeeping(worker_db, storage).purge()  # another process, which knows nothing but the rows
    assert keys(storage, "copies") == keys(storage, "incoming") == set()


def test_two_who_purge_at_once_count_as_one(
    submit_photos: Submit, storage: Storage, worker_db: Database, app_db: Database, owner_db: Database, tenant: UUID
) -> None:
    job = submit_photos([photo(1)])
    with app_db.transaction(tenant) as session:
        cancel(session, tenant, job)
    remove(app_db, tenant, job)

    class Slow(Stubborn):
        """A storage in whose time another process does the same."""

        def delete_prefix(self, prefix: str) -> None:
            Housekeeping(worker_db, storage).purge()

    Housekeeping(worker_db, Slow(storage, new_id())).purge()  # type: ignore[arg-type]  # of a storage it has what is asked for
    assert purge_row(owner_db, job) == (True, True)


def test_originals_of_a_job_that_is_tried_again_stay_until_it_closes_again(
    submit_photos: Submit,
    make_worker: Worker,
    house: Housekeeping,
    storage: Storage,
    app_db: Database,
    owner_db: Database,
    tenant: UUID,
) -> None:
    job = submit_photos([photo(1), photo(2)])
    make_worker().drain()
    with owner_db.transaction() as session:
        session.execute(sa.text("UPDATE result SET outcome = 'failed', has_copy = false WHERE ordinal = 1"))
        session.execute(sa.text("UPDATE job SET failed = 1, classified = classified - (classified > 0)::int,"
                                " abstained = abstained - (classified = 0)::int"))  # fmt: skip
    with owner_db.transaction() as session:
        seen = session.execute(_WITH_ORIGINALS).one()
    with app_db.transaction(tenant) as session:
        retry(session, tenant, job, [1])
    # A look at the job from before the retry does no harm after it.
    house._delete_originals_of(seen.id, keep_failed=seen.some_failed)
    with owner_db.transaction() as session:
        session.execute(_ORIGINALS_DELETED, {"jobs": [str(job)], "rounds": [seen.round]})
    assert keys(storage, "incoming") == {f"incoming/{job.hex}/00001"}
    make_worker().drain()
    house.delete_originals()
    assert keys(storage, "incoming") == set()
    assert len(keys(storage, "copies")) == 2
