"""``DELETE /v1/jobs/{id}``: from the moment of the answer there is a tombstone and nothing else."""

from typing import Any

import pytest

from shared import history, receipts
from shared.database import Database
from tests.integration.web.answering import answer_all
from tests.integration.web.conftest import JPEG, Caller, make_key
from web.api import results, streaming


def made(caller: Caller, photos: int = 3) -> dict[str, Any]:
    job = caller.send([(f"{n}.jpg", JPEG + b"%d" % n) for n in range(photos)], {"metadata": {"ward": "7"}}).json
    assert job is not None
    return dict(job)


def body(answer: Any) -> dict[str, Any]:
    assert answer.json is not None
    return dict(answer.json)


def test_a_deleted_job_is_gone_with_its_tombstone(clinic: Caller, worker_db: Database) -> None:
    job, other = made(clinic), made(clinic)
    answer_all(worker_db, ("classified", "rejected"))
    path = f"/v1/jobs/{job['id']}"
    closed = body(clinic.get(path))
    receipt = body(clinic.get(f"{path}/receipt"))
    image = body(clinic.get(f"{path}/results"))["results"][0]["image"]

    deleted = clinic.open(path, "DELETE")
    assert (deleted.status_code, deleted.data) == (204, b"")

    for address in (
        "",
        "/results",
        "/results?format=csv",
        "/results?format=ndjson",
        "/receipt",
        "/receipt?stage=accepted",
    ):
        answer = clinic.get(path + address)
        assert (answer.status_code, answer.mimetype) == (410, "application/problem+json"), address
        told = body(answer)
        assert told["type"].endswith("/problems/gone")
        tombstone = told["tombstone"]
        assert tombstone.pop("deleted_at") > closed["closed_at"]
        assert tombstone == {
            "id": job["id"],
            "state": "completed",
            "total": 3,
            "counts": closed["counts"],
            "round": 0,
            "created_at": closed["created_at"],
            "closed_at": closed["closed_at"],
            "purged_at": None,
            "receipt": receipts.digest(receipt),
        }
        assert "ward" not in answer.text
    unknown = clinic.get("/v1/images/img_" + "0" * 32, X_Request_Id="the-same-one")
    for address in ("", "/photo", "/heatmap"):
        answer = clinic.get(f"/v1/images/{image}{address}", X_Request_Id="the-same-one")
        assert (answer.status_code, answer.data) == (404, unknown.data)
    assert [job["id"] for job in body(clinic.get("/v1/jobs"))["jobs"]] == [other["id"]]
    assert len(body(clinic.get(f"/v1/jobs/{other['id']}/results"))["results"]) == 3


def test_what_is_deleted_can_be_neither_deleted_again_nor_cancelled(clinic: Caller, worker_db: Database) -> None:
    path = f"/v1/jobs/{made(clinic)['id']}"
    answer_all(worker_db)
    assert clinic.open(path, "DELETE").status_code == 204
    again, cancelled = clinic.open(path, "DELETE"), clinic.post(f"{path}/cancel")
    assert (again.status_code, cancelled.status_code) == (410, 410)
    assert body(again)["tombstone"] == body(cancelled)["tombstone"] == body(clinic.get(path))["tombstone"]


def test_an_open_job_must_be_cancelled_first(clinic: Caller) -> None:
    path = f"/v1/jobs/{made(clinic)['id']}"
    refused = clinic.open(path, "DELETE")
    assert refused.status_code == 409
    assert "cancel it first" in body(refused)["detail"]
    assert clinic.post(f"{path}/cancel").status_code == 200
    assert clinic.open(path, "DELETE").status_code == 204


def test_a_key_that_only_reads_deletes_nothing(clinic: Caller, owner_db: Database, worker_db: Database) -> None:
    path = f"/v1/jobs/{made(clinic)['id']}"
    answer_all(worker_db)
    reader = Caller(clinic.client, make_key(owner_db, clinic.tenant, ["jobs:read"]), clinic.tenant)
    assert reader.open(path, "DELETE").status_code == 403
    assert clinic.get(path).status_code == 200


def test_a_tombstone_is_shown_to_its_own_tenant_alone(clinic: Caller, stranger: Caller, worker_db: Database) -> None:
    path = f"/v1/jobs/{made(clinic)['id']}"
    answer_all(worker_db)
    assert stranger.open(path, "DELETE").status_code == 404
    assert clinic.open(path, "DELETE").status_code == 204
    unknown = stranger.get("/v1/jobs/job_" + "0" * 32, X_Request_Id="the-same-one")
    assert stranger.get(path, X_Request_Id="the-same-one").data == unknown.data


def test_the_post_that_made_a_deleted_job_replays_its_answer_and_makes_no_other(
    clinic: Caller, worker_db: Database
) -> None:
    sent = clinic.send([("a.jpg", JPEG)], Idempotency_Key="once")
    answer_all(worker_db)
    assert clinic.open(f"/v1/jobs/{body(sent)['id']}", "DELETE").status_code == 204
    assert clinic.send([("a.jpg", JPEG)], Idempotency_Key="once").data == sent.data
    assert body(clinic.get("/v1/jobs"))["jobs"] == []


@pytest.mark.parametrize("form", ["ndjson", "csv"])
def test_a_stream_whose_job_is_deleted_meanwhile_says_that_it_is_incomplete(
    form: str, clinic: Caller, worker_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "_STREAMED", 2)
    monkeypatch.setattr(streaming, "_PIECE", 1)
    path = f"/v1/jobs/{made(clinic, 5)['id']}"
    answer_all(worker_db)
    answer = clinic.client.get(
        f"{path}/results?format={form}", headers={"Authorization": f"Bearer {clinic.key}"}, buffered=False
    )
    pieces = answer.iter_encoded()
    for _ in range(2 + (form == "csv")):
        next(pieces)
    assert clinic.open(path, "DELETE").status_code == 204
    rest = list(pieces)
    assert len(rest) == 1
    assert b"INCOMPLETE: the job was deleted" in rest[0]


def test_a_receipt_is_of_one_moment(
    clinic: Caller, worker_db: Database, app_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job is deleted between the reading of its row and that of its photos."""
    path = f"/v1/jobs/{made(clinic)['id']}"
    answer_all(worker_db)
    read, readings = history.job, 0

    def job_then_delete(*given: Any) -> Any:
        nonlocal readings
        readings += 1
        view = read(*given)
        if readings == 1:
            assert clinic.client.delete(path, headers={"Authorization": f"Bearer {clinic.key}"}).status_code == 204
        return view

    monkeypatch.setattr(history, "job", job_then_delete)
    receipt = clinic.get(f"{path}/receipt")
    assert receipt.status_code == 200
    assert receipt.json is not None
    assert len(receipt.json["payload"]["entries"]) == receipt.json["payload"]["total"]
    assert clinic.get(f"{path}/receipt").status_code == 410
