"""People's photos beside bulk: two drains of one process, over real PostgreSQL, files, tokens and decoding children."""

import hashlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import sqlalchemy as sa
from numpy.typing import NDArray

from shared import history
from shared.announcing import Announced, Announcing
from shared.broker import Broker
from shared.database import Database
from shared.settings import Settings
from shared.storage import Storage
from shared.vocabulary import LANES
from tests.integration.worker.conftest import Submit, photo, until
from worker.classification import Classification
from worker.company import Company
from worker.inference.answers import Answer
from worker.inference.classifier import Classifier
from worker.inference.preprocess import Quality
from worker.models import OneModel
from worker.people import People
from worker.photos import PhotoReader, Request
from worker.tokens import Tokens

LONG = 600.0
SOON = 30.0


class Held:
    """A network that lets nothing through until it may ``go``; ``reached`` says that something has come."""

    def __init__(self, network: Classifier) -> None:
        self.bundle, self._network = network.bundle, network
        self.reached, self.go = threading.Event(), threading.Event()

    def classify(self, pixels: NDArray[np.uint8], quality: Sequence[Quality]) -> list[Answer]:
        self.reached.set()
        assert self.go.wait(SOON)
        return self._network.classify(pixels, quality)


class Endless:
    """A network that brings one more person with each photo that it has looked at."""

    def __init__(self, network: Classifier, bring: Callable[[], object]) -> None:
        self.bundle, self._network, self._bring = network.bundle, network, bring

    def classify(self, pixels: NDArray[np.uint8], quality: Sequence[Quality]) -> list[Answer]:
        self._bring()
        return self._network.classify(pixels, quality)


class Broken:
    """A storage whose library has a fault."""

    is_near = True

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def read_into(self, key: str, room: memoryview) -> int:
        raise RuntimeError("a fault of the library")


Make = Callable[..., Classification]


@pytest.fixture
def company() -> Company:
    return Company()


@pytest.fixture
def make(
    settings: Settings, worker_db: Database, storage: Storage, network: Classifier, company: Company
) -> Iterator[Make]:
    made: list[Classification] = []

    def run(
        seen_by: Any = network,
        *,
        store: Any = storage,
        people_only: bool = False,
        reader: type[PhotoReader] = PhotoReader,
        **more: Any,
    ) -> Classification:
        own = settings.model_copy(update={"decoders": 1})
        drain = Classification(
            settings=own,
            database=worker_db,
            storage=store,
            models=OneModel(seen_by),
            photos=reader(own, store, for_people=people_only),
            holder="host/people/1/1" if people_only else "host/1/1",
            company=company,
            people_only=people_only,
            **more,
        )
        made.append(drain)
        return drain

    yield run
    for drain in made:
        drain.close()


def nobody() -> None:
    pass


def state_of(database: Database, tenant: UUID, job: UUID) -> str:
    with database.transaction(tenant) as session:
        return history.job(session, job).state


def drained_aside(drain: Classification) -> threading.Thread:
    thread = threading.Thread(target=drain.drain)
    thread.start()
    return thread


def test_a_persons_photo_is_answered_while_the_network_holds_bulk(
    make: Make, network: Classifier, settings: Settings, worker_db: Database, app_db: Database, tenant: UUID,
    submit_photos: Submit,
) -> None:  # fmt: skip
    held = Held(network)
    tokens = Tokens(settings, lanes=LANES[:1], seconds=0.05)
    with closing(People(worker_db, make(people_only=True), tokens, nobody)) as people:
        people.start()
        bulk = submit_photos([photo(seed) for seed in range(8)])
        drain = drained_aside(make(held, beside=people))
        assert held.reached.wait(SOON)
        person = submit_photos([photo(9)], "interactive")
        until(lambda: state_of(app_db, tenant, person) == "completed")
        assert state_of(app_db, tenant, bulk) == "running"
        held.go.set()
        drain.join(SOON)
    assert state_of(app_db, tenant, bulk) == "completed"


def test_a_token_ends_the_wait_of_who_listens_for_people(
    make: Make, settings: Settings, worker_db: Database, app_db: Database, tenant: UUID, submit_photos: Submit
) -> None:
    tokens = Tokens(settings, lanes=LANES[:1], seconds=LONG)
    with (
        closing(Broker(settings)) as broker,
        closing(People(worker_db, make(people_only=True), tokens, nobody)) as people,
    ):
        people.start()
        people.attend()
        person = submit_photos([photo(1)], "interactive")
        assert broker.wake(["interactive"])
        until(lambda: state_of(app_db, tenant, person) == "completed")


def test_a_token_that_was_not_about_people_is_passed_on_once_the_other_drain_has_ended(
    make: Make, settings: Settings, worker_db: Database, submit_photos: Submit
) -> None:
    passed_on: list[str] = []
    tokens = Tokens(settings, lanes=LANES[:1], seconds=0.05)
    drain = make(people_only=True)
    with closing(Broker(settings)) as broker, closing(Tokens(settings, lanes=LANES[:1], seconds=0.01)) as left, closing(
        People(worker_db, drain, tokens, lambda: passed_on.append("passed on"))
    ) as people:  # fmt: skip
        people.start()
        people.attend()
        submit_photos([photo(seed) for seed in range(5)], "interactive")
        assert broker.wake(["interactive"])
        until(lambda: people._took_in_vain)
        assert not left.take()
        assert passed_on == []
        people.rest()
        assert passed_on == ["passed on"]
        people.rest()
        assert passed_on == ["passed on"]


def test_a_token_that_comes_to_who_rests_by_now_is_passed_on_and_nothing_is_claimed(
    make: Make, settings: Settings, worker_db: Database, submit_photos: Submit
) -> None:
    class Noting(Tokens):
        waits = threading.Event()

        def take(self, hear: Callable[[Announced], None] | None = None) -> bool:
            self.waits.set()
            return super().take(hear)

    passed_on: list[str] = []
    tokens = Noting(settings, lanes=LANES[:1], seconds=LONG)
    with (
        closing(Broker(settings)) as broker,
        closing(People(worker_db, make(people_only=True), tokens, lambda: passed_on.append("passed on"))) as people,
    ):
        people.start()
        people.attend()
        assert tokens.waits.wait(SOON)
        people.rest()
        submit_photos([photo(1)], "interactive")
        assert broker.wake(["interactive"])
        until(lambda: passed_on == ["passed on"])
        assert people.answered == 0


def test_a_photo_that_is_announced_under_bulk_is_decoded_ahead_and_forgotten_where_its_job_does_not_come(
    make: Make, network: Classifier, settings: Settings, worker_db: Database, storage: Storage, submit_photos: Submit
) -> None:
    heard: list[str] = []

    class Noting(PhotoReader):
        def look_ahead(self, request: Request) -> None:
            super().look_ahead(request)
            heard.append(request.key)

    data = photo(99)
    announced = Announced("incoming/0123456789abcdef/00000", len(data), hashlib.sha256(data).digest())
    storage.write(announced.key, data)
    held = Held(network)
    tokens = Tokens(settings, lanes=LANES[:1], seconds=0.05)
    aside = make(people_only=True, reader=Noting)
    with closing(Announcing(settings)) as announcing, closing(People(worker_db, aside, tokens, nobody)) as people:
        people.start()
        submit_photos([photo(seed) for seed in range(8)])
        drain = drained_aside(make(held, beside=people))
        assert held.reached.wait(SOON)
        until(lambda: announcing.tell(announced) and bool(heard))
        assert set(heard) == {announced.key}
        until(lambda: not aside._photos.looks_ahead)
        held.go.set()
        drain.join()
    assert people.answered == 0


def test_nobody_listens_for_people_while_there_is_nothing_else_to_do(
    make: Make, settings: Settings, worker_db: Database, submit_photos: Submit
) -> None:
    told: list[str] = []

    class Noting:
        takes_people = False

        def attend(self) -> None:
            told.append("attend")

        def rest(self) -> None:
            told.append("rest")

    drain = make(beside=Noting())
    submit_photos([photo(1)], "interactive")
    drain.drain()
    assert told == []
    submit_photos([photo(seed) for seed in range(5)], "interactive")
    drain.drain()
    assert told == ["attend", "rest"]


def test_a_suspect_waits_until_nobody_of_the_process_holds_anything(
    make: Make, network: Classifier, owner_db: Database, app_db: Database, tenant: UUID, submit_photos: Submit
) -> None:
    held = Held(network)
    person = submit_photos([photo(1)], "interactive")
    aside = drained_aside(make(held, people_only=True))
    assert held.reached.wait(SOON)
    suspect = submit_photos([photo(2)])
    make_suspect(owner_db, suspect)
    main = make()

    assert main.drain() == 0
    held.go.set()
    aside.join(SOON)
    assert main.drain() == 1

    assert {state_of(app_db, tenant, job) for job in (person, suspect)} == {"completed"}


@pytest.mark.parametrize("lane", ["interactive", "normal"])
def test_beside_a_suspect_no_person_is_put_at_risk_and_who_serves_people_takes_none(
    make: Make,
    network: Classifier,
    owner_db: Database,
    app_db: Database,
    tenant: UUID,
    submit_photos: Submit,
    lane: str,
) -> None:
    aside, held = make(people_only=True), Held(network)
    suspect = submit_photos([photo(2)], lane)
    make_suspect(owner_db, suspect)
    assert aside.drain() == 0
    main = drained_aside(make(held))
    assert held.reached.wait(SOON)
    person = submit_photos([photo(1)], "interactive")
    assert aside.drain() == 0
    held.go.set()
    main.join(SOON)
    assert {state_of(app_db, tenant, job) for job in (person, suspect)} == {"completed"}


def test_a_fault_beside_makes_no_suspects_of_bulk(
    make: Make, network: Classifier, owner_db: Database, storage: Storage, submit_photos: Submit
) -> None:
    held = Held(network)
    bulk = submit_photos([photo(seed) for seed in range(5)])
    main = drained_aside(make(held))
    assert held.reached.wait(SOON)
    person = submit_photos([photo(1)], "interactive")
    with pytest.raises(RuntimeError):
        make(people_only=True, store=Broken(storage)).drain()
    with owner_db.transaction() as session:
        found = {row.job_id: row.crashes for row in session.execute(sa.text("SELECT job_id, crashes FROM unit"))}
    assert found == {bulk: 0, person: 1}
    held.go.set()
    main.join(SOON)


def test_the_main_drain_ends_after_what_was_begun_beside_it(
    make: Make, network: Classifier, settings: Settings, worker_db: Database, submit_photos: Submit
) -> None:
    slow = Held(network)
    tokens = Tokens(settings, lanes=LANES[:1], seconds=0.05)
    with closing(People(worker_db, make(slow, people_only=True), tokens, nobody)) as people:
        people.start()
        people.attend()
        submit_photos([photo(1)], "interactive")
        assert slow.reached.wait(SOON)
        resting = threading.Thread(target=people.rest)
        resting.start()
        resting.join(0.3)
        assert resting.is_alive()
        slow.go.set()
        resting.join(SOON)
        assert not resting.is_alive()
        assert people.answered == 1


def test_the_main_drain_ends_though_people_keep_coming_and_answers_suspects_and_who_is_left(
    make: Make, network: Classifier, settings: Settings, owner_db: Database, worker_db: Database, app_db: Database,
    tenant: UUID, submit_photos: Submit,
) -> None:  # fmt: skip
    jobs: list[UUID] = []
    busy = Endless(network, lambda: jobs.append(submit_photos([photo(1)], "interactive")))
    held = Held(network)
    tokens = Tokens(settings, lanes=LANES[:1], seconds=0.05)
    with closing(People(worker_db, make(busy, people_only=True), tokens, nobody)) as people:
        people.start()
        jobs += [submit_photos([photo(seed) for seed in range(5)])]
        main = make(held, beside=people)
        drain = drained_aside(main)
        assert held.reached.wait(SOON)
        jobs += [submit_photos([photo(7)]), submit_photos([photo(8)], "interactive")]
        make_suspect(owner_db, jobs[1])
        until(lambda: people.answered > 0)
        held.go.set()
        drain.join(SOON)
        assert not drain.is_alive()
    assert {state_of(app_db, tenant, job) for job in jobs} == {"completed"}


def test_the_main_drain_answers_people_too_where_they_are_too_many_for_the_other(
    make: Make, network: Classifier, settings: Settings, worker_db: Database, app_db: Database, tenant: UUID,
    submit_photos: Submit,
) -> None:  # fmt: skip
    held = Held(network)
    tokens = Tokens(settings, lanes=LANES[:1], seconds=0.05)
    persons = [submit_photos([photo(1)], "interactive") for _ in range(20)]
    with closing(People(worker_db, make(held, people_only=True), tokens, nobody)) as people:
        people.start()
        people.attend()
        assert held.reached.wait(SOON)
        submit_photos([photo(seed) for seed in range(5)])
        drain = drained_aside(make(beside=people))
        until(lambda: state_of(app_db, tenant, persons[-1]) == "completed")
        held.go.set()
        drain.join(SOON)
    assert {state_of(app_db, tenant, job) for job in persons} == {"completed"}


def test_people_are_not_left_to_a_drain_whose_child_does_not_start_until_one_does(
    make: Make, settings: Settings, worker_db: Database, owner_db: Database, app_db: Database, tenant: UUID,
    submit_photos: Submit, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    tokens = Tokens(settings, lanes=LANES[:1], seconds=0.05)
    with closing(People(worker_db, make(people_only=True), tokens, nobody)) as people:
        with monkeypatch.context() as broken:
            broken.setattr(sys, "executable", "/nowhere/python")
            people.start()
            people.attend()
            assert people.takes_people
            person = submit_photos([photo(1)], "interactive")
            until(lambda: not people.takes_people)
        with owner_db.transaction() as session:
            later = sa.text("UPDATE unit SET state = 'ready' WHERE job_id = :job AND state = 'waiting'")
            until(lambda: session.execute(later, {"job": person}).rowcount == 1)  # type: ignore[attr-defined]
        until(lambda: state_of(app_db, tenant, person) == "completed")
        assert people.takes_people


def test_a_signal_may_ask_for_an_end_while_the_main_drain_says_that_it_holds_bulk(
    make: Make, settings: Settings, worker_db: Database
) -> None:
    tokens = Tokens(settings, lanes=LANES[:1], seconds=0.05)
    people = People(worker_db, make(people_only=True), tokens, nobody)
    lock: threading.Condition = people._attending._cond  # type: ignore[attr-defined]  # typeshed names no lock
    with closing(people), lock:  # as ``attend`` holds it when the signal comes
        handler = threading.Thread(target=people.stop, daemon=True)
        handler.start()
        handler.join(SOON / 10)
        assert not handler.is_alive()


def make_suspect(owner_db: Database, job: UUID) -> None:
    with owner_db.transaction() as session:
        session.execute(sa.text("UPDATE unit SET crashes = 1 WHERE job_id = :job"), {"job": job})
