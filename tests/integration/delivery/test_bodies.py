"""What a webhook tells: links alone, or the answers too, as it is or as a CloudEvent; the same bytes at every try."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

from standardwebhooks.webhooks import Webhook

from shared import endpoints, event_body, ids
from shared.database import Database
from shared.ledger.deletion import delete
from shared.ledger.retry import retry
from shared.ledger.submit import submit
from tests.integration.delivery.clinic import Clinic, Receive, Start, answering, claim, until
from tests.integration.ledger.factories import change, finish, new_image, new_job, submit_job, take
from tests.integration.ledger.said import said
from worker import full_bodies
from worker.deliveries import Owed

URL = "https://pox.example"
DONE = ("job.completed",)


def answered(clinic: Clinic, worker_db: Database, photos: int) -> UUID:
    """Submit a job and answer it: its end is an event."""
    job = submit_job(clinic.db, clinic.tenant, photos)
    finish(worker_db, take(worker_db, photos), label="mpox", **said())
    return job.id


def body(worker_db: Database, owed: Owed) -> dict[str, Any]:
    with worker_db.transaction() as session:
        return dict(json.loads(full_bodies.build(session, owed, URL) or b""))


def test_a_full_body_tells_the_answers_and_says_that_these_are_all(clinic: Clinic, worker_db: Database) -> None:
    clinic.endpoint("https://clinic.example/", DONE, detail="full")
    answered(clinic, worker_db, 3)
    (owed,) = claim(worker_db)
    told = body(worker_db, owed)["data"]
    assert [result["ordinal"] for result in told["results"]] == [0, 1, 2]
    first = told["results"][0]
    assert (first["outcome"], first["label"]) == ("classified", "mpox")
    assert sum(first["probabilities"].values()) == 1
    assert first["model"]["id"]
    assert "file_name" not in first
    assert told["results_complete"] is True
    assert told["use"] == "research-only"


def test_a_full_body_stays_under_20_kb_and_says_that_there_are_more(clinic: Clinic, worker_db: Database) -> None:
    clinic.endpoint("https://clinic.example/", DONE, detail="full")
    answered(clinic, worker_db, 200)
    (owed,) = claim(worker_db)
    with worker_db.transaction() as session:
        sent = full_bodies.build(session, owed, URL)
    assert sent is not None
    told = json.loads(sent)["data"]
    assert 15_000 < len(sent) < 20_000
    assert 0 < len(told["results"]) < 200
    assert told["results_complete"] is False
    assert told["links"]["results"].endswith("/results")


def test_what_was_sent_once_is_sent_again_though_the_answers_changed(
    clinic: Clinic, worker_db: Database, owner_db: Database, receive: Receive, deliverer: Start
) -> None:
    receiver = receive(answering(500, 200))
    endpoint_id, secret = clinic.endpoint(receiver.url, DONE, detail="full", form="cloudevents")
    job = answered(clinic, worker_db, 2)
    deliverer(receiver, POXVISIO_WEBHOOK_SCHEDULE="600")
    until(lambda: len(receiver.requests) == 1, "the first try")
    until(lambda: clinic.states(endpoint_id) == ["waiting"], "it waits")
    change(owner_db, "UPDATE result SET label = 'other' WHERE job_id = :job", job=str(job))
    change(owner_db, "UPDATE delivery SET next_at = now()")
    until(lambda: clinic.states(endpoint_id) == ["delivered"], "delivered")
    first, second = receiver.requests
    assert first.body == second.body
    assert first.headers["content-type"] == "application/cloudevents+json"
    assert Webhook(secret).verify(second.body, second.headers)["type"] == "job.completed"


def test_an_endpoint_that_became_thin_hears_of_no_answers_though_they_were_kept(
    clinic: Clinic, worker_db: Database, owner_db: Database, receive: Receive, deliverer: Start
) -> None:
    receiver = receive(answering(500, 200))
    endpoint_id, _ = clinic.endpoint(receiver.url, DONE, detail="full")
    answered(clinic, worker_db, 1)
    deliverer(receiver, POXVISIO_WEBHOOK_SCHEDULE="600")
    until(lambda: clinic.states(endpoint_id) == ["waiting"] and len(receiver.requests) == 1, "the first try")
    with clinic.db.transaction(clinic.tenant) as session:
        endpoints.update(session, endpoint_id, detail="thin")
    change(owner_db, "UPDATE delivery SET next_at = now()")
    until(lambda: clinic.states(endpoint_id) == ["delivered"], "delivered")
    first, second = (json.loads(request.body)["data"] for request in receiver.requests)
    assert "results" in first
    assert "results" not in second
    assert second["total"] == 1


def test_a_cloud_event_names_its_job_and_holds_the_same_data(clinic: Clinic, worker_db: Database) -> None:
    clinic.endpoint("https://clinic.example/", DONE, form="cloudevents")
    job = answered(clinic, worker_db, 1)
    (owed,) = claim(worker_db)
    event = json.loads(event_body.render(owed.event, URL, owed.previous_id, owed.form))
    assert event["specversion"] == "1.0"
    assert event["id"] == ids.text("event", owed.event.id)
    assert event["source"] == URL
    assert event["subject"] == ids.text("job", job)
    assert event["type"] == "job.completed"
    assert event["data"]["previous_id"] is None
    plain = json.loads(event_body.render(owed.event, URL, owed.previous_id))
    assert (event["data"], event["time"]) == (plain["data"], plain["timestamp"])


def test_answers_of_a_deleted_job_are_not_sent_again(clinic: Clinic, worker_db: Database) -> None:
    clinic.endpoint("https://clinic.example/", DONE, detail="full")
    job = answered(clinic, worker_db, 1)
    (owed,) = claim(worker_db)
    assert "results" in body(worker_db, owed)["data"]
    with clinic.db.transaction(clinic.tenant) as session:
        delete(session, clinic.tenant, job)
    with worker_db.transaction() as session:
        session.connection().exec_driver_sql("UPDATE delivery SET state = 'waiting', next_at = now()")
    (again,) = claim(worker_db)
    assert again.kept is None
    told = body(worker_db, again)["data"]
    assert "results" not in told
    assert told["total"] == 1


def test_a_full_body_of_one_photo_tells_its_answer(clinic: Clinic, worker_db: Database) -> None:
    clinic.endpoint("https://clinic.example/", ("image.completed",), detail="full")
    answered(clinic, worker_db, 2)
    first, second = (body(worker_db, owed)["data"] for owed in claim(worker_db))
    assert [first["ordinal"], second["ordinal"]] == [0, 1]
    assert second["previous_id"] == first["id"]
    assert second["result"]["image"] == second["image"]
    assert (second["result"]["outcome"], second["result"]["label"]) == (second["outcome"], "mpox")
    assert "results" not in second
    assert second["links"]["image"] == f"{URL}/v1/images/{second['image']}"


def test_the_answer_of_a_photo_is_not_told_of_a_round_it_is_not_of(
    clinic: Clinic, worker_db: Database, owner_db: Database
) -> None:
    clinic.endpoint("https://clinic.example/", ("image.completed",), detail="full")
    job = submit_job(clinic.db, clinic.tenant, 1)
    finish(worker_db, take(worker_db), "failed")
    (failed,) = claim(worker_db)
    with clinic.db.transaction(clinic.tenant) as session:
        retry(session, clinic.tenant, job.id, [0])
    assert "result" not in body(worker_db, failed)["data"]
    finish(worker_db, take(worker_db), label="mpox", **said())
    change(owner_db, "UPDATE delivery SET body = NULL")
    assert "result" not in body(worker_db, failed)["data"]
    (classified,) = claim(worker_db)
    told = body(worker_db, classified)["data"]
    assert (told["round"], told["outcome"], told["result"]["label"]) == (1, "classified", "mpox")


def test_a_failure_is_not_told_with_the_reasons_of_a_later_one(
    clinic: Clinic, worker_db: Database, owner_db: Database
) -> None:
    clinic.endpoint("https://clinic.example/", ("image.completed",), detail="full")
    job = submit_job(clinic.db, clinic.tenant, 1)
    finish(worker_db, take(worker_db), "failed", reasons=("storage_unreachable",))
    (first,) = claim(worker_db)
    with clinic.db.transaction(clinic.tenant) as session:
        retry(session, clinic.tenant, job.id, [0])
    finish(worker_db, take(worker_db), "failed", reasons=("out_of_memory",))
    assert "result" not in body(worker_db, first)["data"]
    (second,) = claim(worker_db)
    assert body(worker_db, second)["data"]["result"]["reasons"] == ["out_of_memory"]


def test_the_answer_of_a_deleted_photo_is_not_sent_again(
    clinic: Clinic, worker_db: Database, owner_db: Database
) -> None:
    clinic.endpoint("https://clinic.example/", ("image.completed",), detail="full")
    job = answered(clinic, worker_db, 1)
    (owed,) = claim(worker_db)
    assert "result" in body(worker_db, owed)["data"]
    with clinic.db.transaction(clinic.tenant) as session:
        delete(session, clinic.tenant, job)
    change(owner_db, "UPDATE delivery SET state = 'waiting', next_at = now()")
    (again,) = claim(worker_db)
    assert again.kept is None
    told = body(worker_db, again)["data"]
    assert "result" not in told
    assert told["outcome"] == "classified"


def test_what_a_photo_was_called_is_neither_told_nor_kept_where_it_was_deleted_after_the_claim(
    clinic: Clinic, worker_db: Database, owner_db: Database
) -> None:
    clinic.endpoint("https://clinic.example/", ("image.completed",), detail="full")
    job = new_job(clinic.tenant, 0, "normal", images=[new_image(0, custom_id="patient-7")])
    with clinic.db.transaction(clinic.tenant) as session:
        submit(session, job)
    finish(worker_db, take(worker_db), label="mpox", **said())
    (owed,) = claim(worker_db)
    assert owed.event.body["custom_id"] == "patient-7"
    with clinic.db.transaction(clinic.tenant) as session:
        delete(session, clinic.tenant, job.id)
    told = body(worker_db, owed)["data"]
    assert (told["custom_id"], told["outcome"]) == (None, "classified")
    with owner_db.transaction() as session:
        kept = session.connection().exec_driver_sql("SELECT body FROM delivery").scalars().one()
    assert b"patient-7" not in bytes(kept)


def test_answers_are_not_kept_past_a_deletion_that_comes_meanwhile(
    clinic: Clinic, worker_db: Database, owner_db: Database
) -> None:
    clinic.endpoint("https://clinic.example/", DONE, detail="full")
    job = answered(clinic, worker_db, 1)
    (owed,) = claim(worker_db)

    def delete_it() -> None:
        with clinic.db.transaction(clinic.tenant) as session:
            delete(session, clinic.tenant, job)

    with ThreadPoolExecutor(1) as pool:
        with worker_db.transaction() as session:
            assert b'"results"' in (full_bodies.build(session, owed, URL) or b"")
            deleting = pool.submit(delete_it)
            until(lambda: deleting.done() or somebody_waits(owner_db), "it waits or is done")
        deleting.result()
    with owner_db.transaction() as session:
        assert session.connection().exec_driver_sql("SELECT body FROM delivery").scalars().all() == [None]


def somebody_waits(owner_db: Database) -> bool:
    with owner_db.transaction() as session:
        found = session.connection().exec_driver_sql("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
        return bool(found.scalar())


def test_whoever_lost_the_lease_has_no_body_to_send(clinic: Clinic, worker_db: Database, owner_db: Database) -> None:
    clinic.endpoint("https://clinic.example/", DONE, detail="full")
    answered(clinic, worker_db, 1)
    (owed,) = claim(worker_db)
    change(owner_db, "UPDATE delivery SET fence = fence + 1")
    with worker_db.transaction() as session:
        assert full_bodies.build(session, owed, URL) is None
