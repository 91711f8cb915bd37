"""``POST /v1/jobs/{id}/retry``: another round for the failed photos, and a receipt that names the one before."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared import receipts, verification
from shared.database import Database
from tests.integration.ledger.factories import check_invariants
from tests.integration.web.answering import answer_all
from tests.integration.web.conftest import JPEG, Caller, make_key


def failed_job(caller: Caller, worker_db: Database, *outcomes: str) -> str:
    """Return the path of a closed job of three photos with these outcomes in turn."""
    job = caller.send([(f"{n}.jpg", JPEG + b"%d" % n) for n in range(3)]).json
    assert job is not None
    answer_all(worker_db, outcomes or ("classified", "failed"))
    return f"/v1/jobs/{job['id']}"


def body(answer: Any) -> dict[str, Any]:
    assert answer.json is not None
    return dict(answer.json)


def test_a_retried_job_opens_again_and_closes_with_a_receipt_that_names_the_one_before(
    clinic: Caller, worker_db: Database, owner_db: Database
) -> None:
    path = failed_job(clinic, worker_db)
    accepted = clinic.get(f"{path}/receipt?stage=accepted").data
    keys = body(clinic.get("/.well-known/poxvisio-keys.json"))
    digests = [receipts.digest(body(clinic.get(f"{path}/receipt")))]
    for number in (1, 2):
        opened = clinic.post(f"{path}/retry")
        assert opened.status_code == 200
        job = body(opened)
        assert (job["state"], job["round"], job["closed_at"]) == ("queued", number, None)
        assert (job["counts"]["waiting"], job["counts"]["failed"], job["counts"]["classified"]) == (1, 0, 2)
        assert clinic.get(f"{path}/receipt?stage=closed").status_code == 409
        answer_all(worker_db, ("failed",) if number == 1 else ("classified",))
        receipt = body(clinic.get(f"{path}/receipt"))
        assert verification.verify(receipt, keys).ok
        assert (receipt["payload"]["round"], receipt["payload"]["previous"]) == (number, digests[-1])
        digests.append(receipts.digest(receipt))
    assert body(clinic.get(path))["counts"]["classified"] == 3
    assert clinic.get(f"{path}/receipt?stage=accepted").data == accepted
    check_invariants(owner_db)
    kinds = [(event["type"], event["data"].get("round")) for event in body(clinic.get("/v1/events"))["events"]]
    assert [number for kind, number in kinds if kind == "job.completed"] == [0, 1, 2]
    # The tombstone of a retried job names the receipt of its last round.
    assert clinic.open(path, "DELETE").status_code == 204
    assert body(clinic.get(path))["tombstone"]["receipt"] == digests[-1]
    assert body(clinic.post(f"{path}/retry"))["status"] == 410


def test_a_retry_is_done_once_for_its_key(clinic: Caller, worker_db: Database) -> None:
    path = failed_job(clinic, worker_db, "failed")
    first = clinic.post(f"{path}/retry", Idempotency_Key="again")
    answer_all(worker_db, ("failed",))
    second = clinic.post(f"{path}/retry", Idempotency_Key="again")
    assert (second.data, second.headers["Idempotency-Replayed"]) == (first.data, "true")
    assert body(clinic.get(path))["round"] == 1


def test_what_cannot_be_retried_is_refused_with_the_reason(
    clinic: Caller, worker_db: Database, objects: Callable[[], list[Path]]
) -> None:
    whole = failed_job(clinic, worker_db, "classified", "rejected")
    assert "no failed photos" in body(clinic.post(f"{whole}/retry"))["detail"]
    failed = failed_job(clinic, worker_db, "failed")
    for original in objects():
        original.unlink()
    refused = clinic.post(f"{failed}/retry")
    assert (refused.status_code, "originals of the failed photos are gone" in refused.text) == (409, True)
    made = clinic.send([("a.jpg", JPEG)]).json
    assert made is not None
    still_open = clinic.post(f"/v1/jobs/{made['id']}/retry")
    assert (still_open.status_code, "queued" in body(still_open)["detail"]) == (409, True)


def test_only_photos_whose_original_is_there_are_tried_again(
    clinic: Caller, worker_db: Database, objects: Callable[[], list[Path]]
) -> None:
    path = failed_job(clinic, worker_db, "failed")
    objects()[1].unlink()
    counts = body(clinic.post(f"{path}/retry"))["counts"]
    assert (counts["waiting"], counts["failed"]) == (2, 1)


def test_a_key_that_only_reads_retries_nothing(clinic: Caller, owner_db: Database, worker_db: Database) -> None:
    path = failed_job(clinic, worker_db)
    reader = Caller(clinic.client, make_key(owner_db, clinic.tenant, ["jobs:read"]), clinic.tenant)
    assert reader.post(f"{path}/retry").status_code == 403
    assert body(clinic.get(path))["round"] == 0
