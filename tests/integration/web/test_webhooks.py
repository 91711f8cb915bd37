"""Managing webhooks over HTTP: making, changing, testing, reading the log, sending again."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask

from shared.database import Database
from shared.settings import Settings
from tests.integration.web.answering import answer_all
from tests.integration.web.conftest import JPEG, Caller, make_key
from web.app import create_app
from web.services import Services
from worker import deliveries

URL = "https://example.org/hook"


@pytest.fixture
def hook(clinic: Caller) -> dict[str, Any]:
    made = clinic.post("/v1/webhooks", {"url": URL, "events": ["job.completed"], "description": "ward 7"})
    assert made.status_code == 201
    assert made.json is not None
    assert made.headers["Location"].endswith(f"/v1/webhooks/{made.json['id']}")
    return dict(made.json)


def test_the_secret_is_shown_once(clinic: Caller, hook: dict[str, Any]) -> None:
    assert hook["secret"].startswith("whsec_")
    read = clinic.get(f"/v1/webhooks/{hook['id']}").json
    assert read == {name: value for name, value in hook.items() if name != "secret"}
    listed = clinic.get("/v1/webhooks").json
    assert listed == {"webhooks": [read]}


@pytest.mark.parametrize(
    ("wrong", "pointer"),
    [
        ({"url": "http://example.org/"}, "#/url"),
        ({"url": "https://127.0.0.1/"}, "#/url"),
        ({"url": "https://user:pass@example.org/"}, "#/url"),
        ({"url": "https://example.org:22/"}, "#/url"),
        ({"url": "https://localhost/"}, "#/url"),
        ({"url": "https://2130706433/"}, "#/url"),
        ({"url": URL, "events": ["job.vanished"]}, "#/events/0"),
        ({"url": URL, "events": ["image.completed", "image.accepted"]}, "#/events/1"),
        ({"url": URL, "secret": "whsec_short"}, "#/secret"),
        ({"url": URL, "urls": []}, "#/urls"),
        ({}, "#/url"),
    ],
)
def test_a_wrong_webhook_is_refused(clinic: Caller, wrong: dict[str, Any], pointer: str) -> None:
    answer = clinic.post("/v1/webhooks", wrong)
    assert answer.status_code == 422
    assert answer.json is not None
    assert answer.json["errors"][0]["pointer"] == pointer
    assert clinic.get("/v1/webhooks").json == {"webhooks": []}


def test_the_form_of_a_body_is_chosen_and_changed(clinic: Caller, hook: dict[str, Any]) -> None:
    assert (hook["detail"], hook["format"]) == ("thin", "standard")
    made = clinic.post("/v1/webhooks", {"url": URL, "detail": "full", "format": "cloudevents"}).json
    assert made is not None
    assert (made["detail"], made["format"]) == ("full", "cloudevents")
    changed = clinic.open(f"/v1/webhooks/{made['id']}", "PATCH", json={"format": "standard"}).json
    assert changed is not None
    assert (changed["detail"], changed["format"]) == ("full", "standard")
    refused = clinic.open(f"/v1/webhooks/{made['id']}", "PATCH", json={"detail": "whole"})
    assert refused.status_code == 422


def test_a_key_that_may_not_read_answers_has_none_sent_to_it(
    app: Flask, clinic: Caller, owner_db: Database, hook: dict[str, Any]
) -> None:
    full = clinic.post("/v1/webhooks", {"url": URL, "events": ["ping"], "detail": "full"}).json
    assert full is not None
    keeper = Caller(app.test_client(), make_key(owner_db, clinic.tenant, ["webhooks"]), clinic.tenant)
    assert keeper.post("/v1/webhooks", {"url": URL, "detail": "full"}).status_code == 403
    assert keeper.open(f"/v1/webhooks/{hook['id']}", "PATCH", json={"detail": "full"}).status_code == 403
    changes: list[dict[str, Any]] = [{"url": "https://example.org/elsewhere"}, {"events": []}]
    for change in changes:
        assert keeper.open(f"/v1/webhooks/{full['id']}", "PATCH", json=change).status_code == 403
    listed = {endpoint["id"]: endpoint for endpoint in (clinic.get("/v1/webhooks").json or {})["webhooks"]}
    assert listed == {
        made["id"]: made for made in ({k: v for k, v in each.items() if k != "secret"} for each in (hook, full))
    }
    assert keeper.open(f"/v1/webhooks/{full['id']}", "PATCH", json={"state": "disabled"}).status_code == 200
    assert keeper.open(f"/v1/webhooks/{full['id']}", "PATCH", json={"detail": "thin"}).status_code == 200
    assert keeper.post("/v1/webhooks", {"url": URL}).status_code == 201


def test_a_key_that_may_not_read_answers_hears_of_no_photo(app: Flask, clinic: Caller, owner_db: Database) -> None:
    named = clinic.post("/v1/webhooks", {"url": URL, "events": ["image.completed"]}).json
    every = clinic.post("/v1/webhooks", {"url": URL}).json
    assert named is not None
    assert every is not None
    keeper = Caller(app.test_client(), make_key(owner_db, clinic.tenant, ["webhooks"]), clinic.tenant)
    assert keeper.post("/v1/webhooks", {"url": URL, "events": ["ping", "image.completed"]}).status_code == 403
    wanted: list[tuple[str, dict[str, Any]]] = [
        (every["id"], {"events": ["image.completed"]}),
        (named["id"], {"url": "https://example.org/elsewhere"}),
    ]
    for webhook, change in wanted:
        assert keeper.open(f"/v1/webhooks/{webhook}", "PATCH", json=change).status_code == 403
    assert (clinic.get(f"/v1/webhooks/{every['id']}").json or {})["events"] == []
    assert keeper.open(f"/v1/webhooks/{named['id']}", "PATCH", json={"events": []}).status_code == 200


def test_a_kind_asked_for_twice_is_kept_once(clinic: Caller) -> None:
    made = clinic.post("/v1/webhooks", {"url": URL, "events": ["ping", "job.started", "ping"]}).json
    assert made is not None
    assert made["events"] == ["ping", "job.started"]


def test_making_a_webhook_replays_with_its_secret(clinic: Caller) -> None:
    first = clinic.post("/v1/webhooks", {"url": URL}, Idempotency_Key="h")
    second = clinic.post("/v1/webhooks", {"url": URL}, Idempotency_Key="h")
    assert second.data == first.data
    assert second.headers["Location"] == first.headers["Location"]
    listed = clinic.get("/v1/webhooks").json
    assert listed is not None
    assert len(listed["webhooks"]) == 1


def test_changing_and_deleting(clinic: Caller, hook: dict[str, Any]) -> None:
    path = f"/v1/webhooks/{hook['id']}"
    changed = clinic.open(path, "PATCH", json={"state": "disabled", "events": []}).json
    assert changed is not None
    assert (changed["state"], changed["events"], changed["description"]) == ("disabled", [], "ward 7")
    assert clinic.post(f"{path}/test").status_code == 409
    assert clinic.open(path, "PATCH", json={"url": "https://10.0.0.1/"}).status_code == 422
    assert clinic.open(path, "DELETE").status_code == 204
    assert clinic.get(path).status_code == 404


def test_rotating_keeps_the_old_secret_for_a_while(clinic: Caller, hook: dict[str, Any]) -> None:
    bodies: list[dict[str, str] | None] = [None, {}]
    for body in bodies:
        rotated = clinic.post(f"/v1/webhooks/{hook['id']}/rotate-secret", body).json
        assert rotated is not None
        assert rotated["secret"].startswith("whsec_")
        assert rotated["secret"] != hook["secret"]
        assert rotated["previous_until"] is not None


def test_the_log_shows_what_is_owed_and_sends_it_again(
    clinic: Caller, hook: dict[str, Any], worker_db: Database
) -> None:
    path = f"/v1/webhooks/{hook['id']}"
    ping = clinic.post(f"{path}/test")
    assert ping.status_code == 202
    for n in range(3):
        clinic.send([("a.jpg", JPEG + b"%d" % n)])
        answer_all(worker_db)
    first = clinic.get(f"{path}/deliveries?limit=2")
    assert first.json is not None
    second = clinic.get(f"{path}/deliveries?limit=2&cursor={first.json['next']}").json
    assert second is not None
    assert 'rel="next"' in first.headers["Link"]
    kinds = [delivery["type"] for delivery in first.json["deliveries"] + second["deliveries"]]
    assert kinds == ["job.completed"] * 3 + ["ping"]
    assert second["next"] is None
    newest, before = first.json["deliveries"]
    with worker_db.transaction() as session:
        assert len(deliveries.claim(session, 1, 60)) == 1
    under_way = clinic.get(f"{path}/deliveries?state=sending").json
    assert under_way is not None
    assert [delivery["state"] for delivery in under_way["deliveries"]] == ["sending"]
    assert clinic.get(f"{path}/deliveries?state=leased").status_code == 422
    assert newest["previous_id"] == before["event"]

    one = clinic.get(f"{path}/deliveries/{newest['id']}").json
    assert one is not None
    assert (one["event"], one["attempts"]) == (newest["event"], [])
    again = clinic.post(f"{path}/deliveries/{newest['id']}/redeliver")
    assert again.status_code == 202
    assert again.json is not None
    assert (again.json["state"], again.json["event"]) == ("waiting", newest["event"])


def test_replay_counts_before_it_sends(clinic: Caller, worker_db: Database) -> None:
    clinic.send([("a.jpg", JPEG)])
    answer_all(worker_db)
    made = clinic.post("/v1/webhooks", {"url": URL, "events": ["job.completed"]}).json
    assert made is not None
    path = f"/v1/webhooks/{made['id']}"
    since = {"since": "2020-01-01T00:00:00Z"}
    assert clinic.post(f"{path}/replay", {**since, "preview": True}).json == {"count": 1, "preview": True}
    assert clinic.post(f"{path}/replay", since).json == {"count": 1, "preview": False}
    assert clinic.post(f"{path}/replay", {**since, "preview": True}).json == {"count": 0, "preview": True}
    assert clinic.post(f"{path}/recover", {**since, "preview": True}).json == {"count": 0, "preview": True}
    for wrong in ("yesterday", 1577836800, "1577836800", "2020-01-01T00:00:00"):
        assert clinic.post(f"{path}/recover", {"since": wrong}).status_code == 422
    assert clinic.post(f"{path}/recover", {**since, "preview": "yes"}).status_code == 422


def test_a_tenant_has_so_many_webhooks_and_no_more_however_many_are_made_at_once(
    environment: dict[str, str], clinic: Caller, stranger: Caller, owner_db: Database
) -> None:
    app = create_app(Settings.load({**environment, "POXVISIO_MAX_WEBHOOKS": "3"}))
    mine, other = replace(clinic, client=app.test_client()), replace(stranger, client=app.test_client())
    assert mine.send([("a.jpg", JPEG)], {"webhook": {"url": URL}}).status_code == 202  # does not count
    barrier = threading.Barrier(6)

    def make(_: int) -> int:
        one = replace(mine, client=app.test_client())
        barrier.wait()
        return one.post("/v1/webhooks", {"url": URL}).status_code

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(make, range(6))) == [201] * 3 + [409] * 3
    full = mine.post("/v1/webhooks", {"url": URL}).json or {}
    assert full["type"].endswith("/problems/too-many-webhooks")
    assert "there are 3 webhooks already" in full["detail"].lower()
    assert (mine.get("/v1/limits").json or {})["max_webhooks"] == 3
    assert other.post("/v1/webhooks", {"url": URL}).status_code == 201
    one, *_ = (mine.get("/v1/webhooks").json or {})["webhooks"]
    assert mine.open(f"/v1/webhooks/{one['id']}", "DELETE").status_code == 204
    assert mine.post("/v1/webhooks", {"url": URL}, Idempotency_Key="k").status_code == 201
    assert mine.post("/v1/webhooks", {"url": URL}, Idempotency_Key="k").status_code == 201  # the same one
    assert mine.send([("b.jpg", JPEG)], {"webhook": {"url": URL}}).status_code == 202
    services: Services = app.extensions["poxvisio"]
    services.close()
