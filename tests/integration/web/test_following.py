"""Following a job: ETag, waiting, history and cancelling."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from shared.database import Database
from shared.hints import Hinting
from shared.settings import Settings
from tests.integration.web.answering import answer_all
from tests.integration.web.conftest import Caller, make_key
from web.app import create_app
from web.asking import preferred_wait
from web.services import Services

PHOTOS = [("a.jpg", b"1"), ("b.jpg", b"2"), ("c.jpg", b"3")]


def sent(clinic: Caller, photos: list[tuple[str, bytes]] = PHOTOS) -> dict[str, Any]:
    job = clinic.send(photos).json
    assert job is not None
    return dict(job)


def test_an_unchanged_job_is_not_sent_again(clinic: Caller, worker_db: Database) -> None:
    job = sent(clinic)
    first = clinic.get(f"/v1/jobs/{job['id']}")
    assert int(first.headers["Retry-After"]) > 0
    etag = first.headers["ETag"]
    unchanged = clinic.get(f"/v1/jobs/{job['id']}", If_None_Match=etag)
    assert (unchanged.status_code, unchanged.data, unchanged.headers["ETag"]) == (304, b"", etag)
    answer_all(worker_db)
    changed = clinic.get(f"/v1/jobs/{job['id']}", If_None_Match=etag)
    assert changed.status_code == 200
    assert changed.headers["ETag"] != etag
    assert "Retry-After" not in changed.headers


def test_counts_always_sum_to_the_total(clinic: Caller, worker_db: Database) -> None:
    job = sent(clinic, [(f"{n}.jpg", b"%d" % n) for n in range(70)])
    now: dict[str, Any] = {}
    for units in (1, 1, 1):
        answer_all(worker_db, ("classified", "abstained", "rejected", "failed"), units=units)
        now = clinic.get(f"/v1/jobs/{job['id']}").json or {}
        assert sum(now["counts"].values()) == now["total"] == 70
        assert now["progress"] == pytest.approx(1 - now["counts"]["waiting"] / 70)
    assert (now["state"], now["progress"], now["eta"]) == ("completed", 1, None)
    assert now["images_per_second"] > 0


def test_waiting_returns_when_the_job_changes(clinic: Caller, worker_db: Database) -> None:
    job = sent(clinic)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(clinic.get, f"/v1/jobs/{job['id']}", Prefer="wait=60")
        answer_all(worker_db)
        answer = waiting.result(30)
    assert answer.status_code == 200
    assert answer.json is not None
    # Claiming and completing are two changes, and the first may be the one that is seen.
    assert answer.json["state"] in ("running", "completed")


def test_waiting_ends_with_304_where_nothing_changes(clinic: Caller) -> None:
    job = sent(clinic)
    etag = clinic.get(f"/v1/jobs/{job['id']}").headers["ETag"]
    answer = clinic.get(f"/v1/jobs/{job['id']}", Prefer="respond-async, wait=1", If_None_Match=etag)
    assert answer.status_code == 304
    assert answer.headers["Preference-Applied"] == "wait=1"


def test_what_changed_since_is_answered_at_once(clinic: Caller) -> None:
    job = sent(clinic)
    answer = clinic.get(f"/v1/jobs/{job['id']}", Prefer="wait=60", If_None_Match='W/"another"')
    assert answer.status_code == 200
    assert "Preference-Applied" not in answer.headers


def test_a_closed_job_is_not_waited_for(clinic: Caller, worker_db: Database) -> None:
    job = sent(clinic)
    answer_all(worker_db)
    answer = clinic.get(f"/v1/jobs/{job['id']}", Prefer="wait=60")
    assert "Preference-Applied" not in answer.headers


@pytest.fixture
def one_waiter(environment: dict[str, str]) -> Iterator[Flask]:
    app = create_app(Settings.load({**environment, "POXVISIO_MAX_WAITING_CLIENTS": "1", "POXVISIO_DATABASE_POOL": "1"}))
    yield app
    app.extensions["poxvisio"].close()


def test_further_clients_are_answered_at_once_and_nobody_holds_a_connection(one_waiter: Flask, clinic: Caller) -> None:
    job = sent(clinic)
    path = f"/v1/jobs/{job['id']}"
    first = Caller(one_waiter.test_client(), clinic.key, clinic.tenant)
    second = Caller(one_waiter.test_client(), clinic.key, clinic.tenant)
    waiting = one_waiter.extensions["poxvisio"].waiting
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(first.get, path, Prefer="wait=60")
        while not waiting.taken and not held.done():
            time.sleep(0.01)
        # The pool's one connection must be free while the first client waits.
        for waited_for in (path, "/v1/events?after=99"):
            answer = second.get(waited_for, Prefer="wait=60")
            assert (answer.status_code, "Preference-Applied" in answer.headers) == (200, False)
            assert 15 <= int(answer.headers["Retry-After"]) <= 30  # no sooner than if it had waited, or nearly
        assert second.post(f"{path}/cancel").status_code == 200
        released = held.result(30)
    assert released.json is not None
    assert released.json["state"] == "cancelled"


def test_a_tenant_has_half_of_the_places_to_wait_and_another_gets_the_other_half(
    environment: dict[str, str], clinic: Caller, stranger: Caller
) -> None:
    app = create_app(Settings.load({**environment, "POXVISIO_MAX_WAITING_CLIENTS": "2"}))
    waiting, clients = (
        app.extensions["poxvisio"].waiting,
        [Caller(app.test_client(), caller.key, caller.tenant) for caller in (clinic, clinic, stranger)],
    )
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(clients[0].get, "/v1/events", Prefer="wait=60")
        while not waiting.taken and not held.done():
            time.sleep(0.01)
        refused, let_in = (client.get("/v1/events", Prefer="wait=1") for client in clients[1:])
        app.extensions["poxvisio"].end_waiting()
        assert held.result(30).status_code == 200
    app.extensions["poxvisio"].close()
    assert [answer.headers.get("Preference-Applied") for answer in (refused, let_in)] == [None, "wait=1"]


def test_whoever_waits_for_a_job_hears_that_it_was_deleted(clinic: Caller, worker_db: Database) -> None:
    job = sent(clinic)
    path = f"/v1/jobs/{job['id']}"
    waiting = clinic.client.application.extensions["poxvisio"].waiting
    known = clinic.get(path).headers["ETag"]
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(clinic.get, path, Prefer="wait=60", If_None_Match=known)
        while not waiting.taken and not held.done():
            time.sleep(0.01)
        answer_all(worker_db)
        assert clinic.open(path, "DELETE").status_code == 204
        # It may have seen the job close first.
        assert held.result(30).status_code in (200, 410)
    assert clinic.get(path, Prefer="wait=60", If_None_Match=known).status_code == 410


def test_history_pages_from_the_newest(clinic: Caller) -> None:
    made = [sent(clinic, [("a.jpg", b"%d" % n)])["id"] for n in range(5)]
    path: str | None = "/v1/jobs?limit=2"
    seen = []
    while path:
        page = clinic.get(path)
        assert page.json is not None
        seen += [job["id"] for job in page.json["jobs"]]
        link = page.headers.get("Link")
        assert (link is None) == (page.json["next"] is None)
        path = link.partition(">")[0].removeprefix("<http://127.0.0.1:8000") if link else None
    assert seen == made[::-1]


def test_history_filters_by_state(clinic: Caller, worker_db: Database) -> None:
    closed = sent(clinic)
    answer_all(worker_db)
    opened = sent(clinic)
    for state, expected in (("completed", closed), ("queued", opened)):
        page = clinic.get(f"/v1/jobs?state={state}").json
        assert page is not None
        assert [job["id"] for job in page["jobs"]] == [expected["id"]]
    assert clinic.get("/v1/jobs?state=lost").status_code == 422
    assert clinic.get("/v1/jobs?cursor=bad").status_code == 422


def test_cancelling_keeps_what_is_done(clinic: Caller, worker_db: Database) -> None:
    job = sent(clinic, [(f"{n}.jpg", b"%d" % n) for n in range(40)])
    answer_all(worker_db, units=1)
    cancelled = clinic.post(f"/v1/jobs/{job['id']}/cancel")
    assert cancelled.json is not None
    assert cancelled.json["state"] == "cancelled"
    assert cancelled.json["counts"]["classified"] == 32
    assert cancelled.json["counts"]["cancelled"] == 8
    assert clinic.post(f"/v1/jobs/{job['id']}/cancel").status_code == 200


def test_a_completed_job_cannot_be_cancelled(clinic: Caller, worker_db: Database) -> None:
    job = sent(clinic)
    answer_all(worker_db)
    answer = clinic.post(f"/v1/jobs/{job['id']}/cancel")
    assert answer.status_code == 409
    assert "completed" in answer.text


def test_a_single_photo_may_be_waited_for_where_it_is_sent(
    app: Flask, clinic: Caller, owner_db: Database, worker_db: Database, rows: Callable[[str], int]
) -> None:
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(
            clinic.post,
            "/v1/jobs",
            data=b"1",
            content_type="image/jpeg",
            Prefer="respond-async, wait=60",
            Idempotency_Key="k",
        )
        while not rows("job") and not sending.done():
            time.sleep(0.01)
        answer_all(worker_db)
        answer = sending.result(30)
    assert answer.status_code == 200
    assert answer.json is not None
    assert (answer.json["outcome"], answer.json["label"], answer.json["use"]) == ("classified", "mpox", "research-only")
    assert answer.headers["Preference-Applied"] == "wait=60"
    assert answer.headers["Location"].endswith(answer.json["job"])
    assert answer.headers["Content-Location"].endswith(answer.json["image"])
    again = clinic.post("/v1/jobs", data=b"1", content_type="image/jpeg", Prefer="wait=5", Idempotency_Key="k")
    assert (again.status_code, again.json) == (200, answer.json)
    # A key that may not read is answered as ever.
    writer = Caller(app.test_client(), make_key(owner_db, clinic.tenant, ["jobs:write"]), clinic.tenant)
    assert (
        writer.post("/v1/jobs", data=b"1", content_type="image/jpeg", Prefer="wait=5", Idempotency_Key="k").status_code
        == 202
    )


def test_an_answer_that_is_hinted_at_is_told_at_once(
    app: Flask, clinic: Caller, worker_db: Database, rows: Callable[[str], int], settings: Settings
) -> None:
    here: Services = app.extensions["poxvisio"]
    watch: Any = here.watch
    watch.usual, watch._longest = 600.0, 600.0  # nobody looks by itself
    here.hearing.begin()
    assert here.hearing.listens.wait(30)
    with ThreadPoolExecutor(1) as pool, closing(Hinting(settings)) as hinting:
        sending = pool.submit(clinic.post, "/v1/jobs", data=b"1", content_type="image/jpeg", Prefer="wait=60")
        while not rows("job") and not sending.done():
            time.sleep(0.01)
        answer_all(worker_db)
        with worker_db.transaction() as session:
            closed = session.execute(sa.text("SELECT id FROM job WHERE closed_at IS NOT NULL")).scalars().all()
        began = time.monotonic()
        assert hinting.tell(closed)
        assert sending.result(60).status_code == 200
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("preferred", "applied"),
    [
        ("wait=1", "wait=1"),
        ("respond-async, wait=1", "respond-async, wait=1"),
        ("Respond-Async", "respond-async"),
        ("wait=0, respond-async; foo=bar", "respond-async"),
        ("respond-asynchronously", None),
        (None, None),
    ],
)
def test_a_single_photo_that_takes_longer_is_a_job_and_says_what_was_done_of_the_preference(
    preferred: str | None, applied: str | None, clinic: Caller
) -> None:
    headers = {"Prefer": preferred} if preferred else {}
    answer = clinic.post("/v1/jobs", data=b"1", content_type="image/jpeg", **headers)
    assert (answer.status_code, answer.headers.get("Preference-Applied")) == (202, applied)


def test_several_photos_are_never_waited_for(clinic: Caller) -> None:
    answer = clinic.send(PHOTOS, Prefer="respond-async, wait=60")
    assert (answer.status_code, answer.headers["Preference-Applied"]) == (202, "respond-async")


def test_the_feed_has_every_event_once_and_waits_for_the_next(clinic: Caller, worker_db: Database) -> None:
    job = sent(clinic)
    first = clinic.get("/v1/events").json
    assert first is not None
    assert [event["type"] for event in first["events"]] == ["job.accepted"]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(clinic.get, f"/v1/events?after={first['next']}", Prefer="wait=60")
        answer_all(worker_db)
        seen = waiting.result(30).json
    assert seen is not None
    assert seen["events"]
    everything = clinic.get("/v1/events").json
    assert everything is not None
    assert [event["data"]["sequence"] for event in everything["events"]] == [1, 2, 3]
    assert everything["events"][-1]["type"] == "job.completed"
    assert {event["data"]["job"] for event in everything["events"]} == {job["id"]}
    assert clinic.get(f"/v1/events?after={everything['next']}").json == {"events": [], "next": everything["next"]}


def test_the_feed_comes_in_two_formats_and_no_other(clinic: Caller) -> None:
    answer = clinic.get("/v1/events", Accept="text/html, image/*")
    assert (answer.status_code, answer.mimetype) == (406, "application/problem+json")
    assert answer.json is not None
    assert "application/json" in answer.json["detail"]
    assert "text/event-stream" in answer.json["detail"]
    for taken in ("*/*", "application/json", "application/json, text/event-stream;q=0.9"):
        answer = clinic.get("/v1/events", Accept=taken)
        assert (answer.status_code, answer.mimetype) == (200, "application/json"), taken
        assert answer.headers["Vary"] == "Accept"


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("wait=7", 7),
        ("wait=60", 60),
        ("wait=9999999", 60),
        ("respond-async, wait=" + "9" * 5000, 60),
        ("wait=" + "0" * 20 + "5", 5),
        ("wait=0", 0),
        ("wait=-1", None),
        ("wait=soon", None),
        ("", None),
    ],
)
def test_a_wait_is_cut_to_the_longest_there_is(given: str, seconds: int | None, app: Flask) -> None:
    with app.test_request_context(headers={"Prefer": given}):
        assert preferred_wait(60) == seconds
