"""One look for all who wait: each is told what is news to it, and of its own tenant alone."""

from collections.abc import Sequence

import pytest

from shared import accounts, history, ids
from shared.accounts import Proof
from shared.database import Database, new_id
from tests.integration.web.answering import answer_all
from tests.integration.web.conftest import Caller, make_key
from web import news
from web.news import AnswerOf, Answers, AsKnown, Reader
from web.services import Services


@pytest.fixture
def here(clinic: Caller) -> Services:
    found: Services = clinic.client.application.extensions["poxvisio"]
    return found


def proof_of(database: Database, clinic: Caller) -> Proof:
    with database.transaction() as session:
        return accounts.authenticate(session, clinic.key).proof


def numbers(here: Services, clinic: Caller, *after: int) -> list[Sequence[int] | None]:
    """Return the numbers of the events that readers at these numbers are told of."""
    readers = [Reader(number, proof_of(here.database, clinic)) for number in after]
    told = news.for_readers(here.database, clinic.tenant, readers)
    return [[event.seq for event in told[reader].events] if reader in told else None for reader in readers]


def test_each_reader_is_told_what_lies_behind_its_number(here: Services, clinic: Caller, stranger: Caller) -> None:
    for n in range(3):
        clinic.send([("a.jpg", b"%d" % n)])
    assert numbers(here, clinic, 0, 2, 3, 9) == [[1, 2, 3], [3], None, None]
    assert numbers(here, stranger, 0) == [None]


def test_who_is_far_behind_comes_first_and_nobody_is_told_with_a_gap(
    here: Services, clinic: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news, "PAGE", 2)
    for n in range(5):
        clinic.send([("a.jpg", b"%d" % n)])
    assert numbers(here, clinic, 0, 1, 3) == [[1, 2], [2], None]
    assert numbers(here, clinic, 3) == [[4, 5]]


def test_a_proof_of_another_tenant_is_none(here: Services, clinic: Caller, stranger: Caller) -> None:
    reader = Reader(0, proof_of(here.database, stranger))
    assert news.for_readers(here.database, clinic.tenant, [reader])[reader].is_refused


def test_a_job_is_news_when_its_counts_change_and_when_it_is_gone_or_of_another_tenant(
    here: Services, clinic: Caller, stranger: Caller
) -> None:
    job = clinic.send([("a.jpg", b"1")]).json
    assert job is not None
    job_id = ids.parse("job", job["id"])
    with here.database.transaction(clinic.tenant) as session:
        view = history.job(session, job_id)
    proof = proof_of(here.database, clinic)
    as_it_is = AsKnown(job_id, frozenset({"another", news.mark(view)}), proof)
    otherwise = AsKnown(job_id, frozenset({"another"}), proof)
    unknown = AsKnown(new_id(), frozenset({news.mark(view)}), proof)
    asked = [as_it_is, otherwise, unknown]
    assert set(news.of_jobs(here.database, clinic.tenant, asked)) == {otherwise, unknown}
    assert set(news.of_jobs(here.database, stranger.tenant, asked)) == set(asked)
    clinic.post(f"/v1/jobs/{job['id']}/cancel")
    assert set(news.of_jobs(here.database, clinic.tenant, asked)) == set(asked)


def test_whose_key_ended_hears_of_no_change_and_of_no_answer(
    here: Services, clinic: Caller, owner_db: Database, worker_db: Database
) -> None:
    job = clinic.send([("a.jpg", b"1")]).json
    assert job is not None
    job_id = ids.parse("job", job["id"])
    answer_all(worker_db)
    ended = make_key(owner_db, clinic.tenant, ["jobs:read"])
    proofs = [proof_of(here.database, Caller(clinic.client, key, clinic.tenant)) for key in (clinic.key, ended)]
    clock = [0.0]
    answers = Answers(here.database, lambda: clock[0])

    def refused() -> list[list[bool]]:
        changed = news.of_jobs(here.database, clinic.tenant, [AsKnown(job_id, frozenset(), proof) for proof in proofs])
        answered = answers.look(clinic.tenant, [AnswerOf(job_id, proof) for proof in proofs])
        return [
            [changed[AsKnown(job_id, frozenset(), proof)].is_refused for proof in proofs],
            [answered[AnswerOf(job_id, proof)].answer is None for proof in proofs],
        ]

    assert refused() == [[False, False], [False, False]]
    with owner_db.transaction(clinic.tenant) as session:
        accounts.revoke_key(session, clinic.tenant, proofs[1].key_id)
    assert refused() == [[False, True], [False, False]]
    clock[0] += 1
    assert refused() == [[False, True], [False, True]]
