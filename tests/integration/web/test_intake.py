"""What a request may have wrong: it is refused whole, with one clear problem, and nothing half done is left."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from flask import Flask
from werkzeug.datastructures import MultiDict

from shared.database import Database
from shared.settings import Settings
from tests.integration.web.conftest import JPEG, Caller, make_key
from web.app import create_app

BOUNDARY = "----boundary"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"


def part(name: str | None, data: bytes, file_name: str | None = "a.jpg") -> bytes:
    disposition = (
        "form-data" + (f'; name="{name}"' if name else "") + (f'; filename="{file_name}"' if file_name else "")
    )
    return f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + data + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()
PHOTO = part("photos", JPEG)
MANY = b"".join(part("photos", b"x" * 100_000) for _ in range(5))

REFUSED: dict[str, tuple[bytes, str, int, str]] = {
    "cut off in a photo": (PHOTO + part("photos", JPEG)[:60], TYPE, 400, "broken-body"),
    "cut off late in many photos": (MANY[:-70_000], TYPE, 400, "broken-body"),
    "without the final boundary": (PHOTO, TYPE, 400, "broken-body"),
    "without a boundary in its type": (PHOTO + END, "multipart/form-data", 400, "broken-body"),
    "under another boundary": (PHOTO + END, "multipart/form-data; boundary=other", 400, "broken-body"),
    "with a part of another name": (PHOTO + part("files", JPEG) + END, TYPE, 400, "broken-body"),
    "with a part of no name": (PHOTO + part(None, JPEG) + END, TYPE, 400, "broken-body"),
    "with a part without disposition": (
        PHOTO + f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\n\r\nx\r\n".encode() + END,
        TYPE,
        400,
        "broken-body",
    ),
    "with endless part headers": (
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; ".encode() + b"a" * 3_000_000 + END,
        TYPE,
        400,
        "broken-body",
    ),
    "with two job parts": (PHOTO + part("job", b"{}", None) + part("job", b"{}", None) + END, TYPE, 400, "broken-body"),
    "with options that are no JSON": (PHOTO + part("job", b"{not json", None) + END, TYPE, 400, "broken-body"),
    "with options that are no object": (PHOTO + part("job", b"[]", None) + END, TYPE, 422, "invalid-options"),
    "without photos": (part("job", b"{}", None) + END, TYPE, 422, "no-photos"),
    "with nothing chosen in a form": (part("photos", b"", "") + END, TYPE, 400, "broken-body"),
    "with no part at all": (END, TYPE, 422, "no-photos"),
    "an empty raw photo": (b"", "image/jpeg", 400, "broken-body"),
    "an empty archive": (b"", "application/zip", 400, "broken-body"),
    "JSON without photos": (b"{}", "application/json", 422, "invalid-options"),
    "a list of no photos": (b'{"images": []}', "application/json", 422, "invalid-options"),
    "JSON that ends early": (b'{"images": [{"content": "AAAA', "application/json", 400, "broken-body"),
    "JSON that ends behind a photo": (b'{"images": [{"content": "AAAA"}', "application/json", 400, "broken-body"),
    "a photo that is no base64": (b'{"images": [{"content": "A!"}]}', "application/json", 422, "invalid-options"),
    "a photo that is nowhere": (b'{"images": [{"content": "AAAA"}, {}]}', "application/json", 422, "invalid-options"),
    "text": (b"hello", "text/plain", 415, "unsupported-type"),
    "a form": (b"photos=1", "application/x-www-form-urlencoded", 415, "unsupported-type"),
    "of no type": (b"hello", "", 415, "unsupported-type"),
}
# A file input in which nothing was chosen comes with an empty name; its disposition must say so.
REFUSED["with nothing chosen in a form"] = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="photos"; filename=""\r\n\r\n\r\n'.encode() + END,
    TYPE,
    422,
    "no-photos",
)


@pytest.mark.parametrize("what", REFUSED)
def test_a_request_is_refused_whole(what: str, clinic: Caller, nothing_half_done: Callable[[], None]) -> None:
    body, content_type, status, problem = REFUSED[what]
    answer = clinic.post("/v1/jobs", data=body, content_type=content_type, Idempotency_Key="once")
    assert (answer.status_code, answer.mimetype) == (status, "application/problem+json"), answer.text
    told = answer.json
    assert told is not None
    assert told["type"].endswith(f"/problems/{problem}")
    assert told["status"] == status
    nothing_half_done()
    # The key is free again: the mended request goes through.
    assert clinic.send([("a.jpg", JPEG)], Idempotency_Key="once").status_code == 202


WRONG_OPTIONS: dict[str, tuple[dict[str, object], str, str]] = {
    "an unknown option": ({"prioritty": "bulk"}, "#/prioritty", "invalid-options"),
    "an unknown lane": ({"priority": "urgent"}, "#/priority", "invalid-options"),
    "a deadline in the past": ({"deadline": "2020-01-01T00:00:00Z"}, "#/deadline", "invalid-options"),
    "a deadline as a number": ({"deadline": 1999999999}, "#/deadline", "invalid-options"),
    "a deadline as digits": ({"deadline": "1999999999"}, "#/deadline", "invalid-options"),
    "a deadline as a day": ({"deadline": "2099-01-01"}, "#/deadline", "invalid-options"),
    "a deadline without zone": ({"deadline": "2099-01-01T00:00:00"}, "#/deadline", "invalid-options"),
    "a deadline beyond the calendar": ({"deadline": "9999-12-31T23:59:59-12:00"}, "#/deadline", "invalid-options"),
    "a rate above one": ({"max_failure_rate": 1.5}, "#/max_failure_rate", "invalid-options"),
    "a rate that is no number": ({"max_failure_rate": "0.5"}, "#/max_failure_rate", "invalid-options"),
    "a rate that is true": ({"max_failure_rate": True}, "#/max_failure_rate", "invalid-options"),
    "an unknown model": ({"model": "other"}, "#/model", "unknown-model"),
    "metadata that is no text": ({"metadata": {"a": {"b": 1}}}, "#/metadata/a", "invalid-options"),
    "metadata with NUL": ({"metadata": {"a": "\x00"}}, "#/metadata/a", "invalid-options"),
    "a webhook to this host": ({"webhook": {"url": "https://127.0.0.1/"}}, "#/webhook/url", "invalid-options"),
    "a webhook without TLS": ({"webhook": {"url": "http://example.org/"}}, "#/webhook/url", "invalid-options"),
    "a weak webhook secret": (
        {"webhook": {"url": "https://example.org/", "secret": "whsec_eA=="}},
        "#/webhook/secret",
        "invalid-options",
    ),
    "a custom_id twice": (
        {"photos": [{"custom_id": "p1"}, {"custom_id": "p1"}]},
        "#/photos/1/custom_id",
        "duplicate-custom-id",
    ),
    "more photos listed than came": ({"photos": [{}, {}, {}]}, "#/photos", "invalid-options"),
    "photos listed in another order": (
        {"photos": [{"file_name": "b.jpg"}, {"file_name": "a.jpg"}]},
        "#/photos/0/file_name",
        "invalid-options",
    ),
}


@pytest.mark.parametrize("what", WRONG_OPTIONS)
def test_a_wrong_option_is_pointed_at(what: str, clinic: Caller, nothing_half_done: Callable[[], None]) -> None:
    options, pointer, problem = WRONG_OPTIONS[what]
    answer = clinic.send([("a.jpg", JPEG), ("b.jpg", b"x")], options, Idempotency_Key="once")
    assert answer.status_code == 422, answer.text
    told = answer.json
    assert told is not None
    assert told["type"].endswith(f"/problems/{problem}")
    assert [error["pointer"] for error in told["errors"]] == [pointer]
    nothing_half_done()


def test_wrong_parameters_of_a_raw_photo_are_named(clinic: Caller, nothing_half_done: Callable[[], None]) -> None:
    for query, parameter in (
        ("priority=urgent", "priority"),
        ("prioritty=bulk", "prioritty"),
        ("custom_id=a%00b", "custom_id"),
        ("metadata=no+json", "metadata"),
        ("priority=bulk&priority=normal", "priority"),
        ("deadline=2020-01-01T00:00:00Z", "deadline"),
        ("deadline=1999999999", "deadline"),
        ("webhook=http://example.org/", "webhook"),
        ("model=other", "model"),
    ):
        answer = clinic.post(f"/v1/jobs?{query}", data=JPEG, content_type="image/jpeg")
        assert answer.status_code == 422, query
        assert answer.json is not None
        (error,) = answer.json["errors"]
        assert (error.get("parameter"), error.get("pointer")) == (parameter, None), query
    nothing_half_done()


def test_a_text_is_counted_in_characters_and_the_unknown_is_called_so(clinic: Caller) -> None:
    wrong = {"photos": [{"custom_id": ""}], "metadata": {"a": "b" * 513}, "modle": "demo"}
    told = clinic.send([("a.jpg", JPEG)], wrong).json
    assert told is not None
    said = {error["pointer"]: error["detail"] for error in told["errors"]}
    assert said == {
        "#/photos/0/custom_id": "String should have at least 1 character",
        "#/metadata/a": "String should have at most 512 characters",
        "#/modle": "is not known here",
    }


def test_a_custom_id_in_the_query_is_for_one_photo(clinic: Caller, nothing_half_done: Callable[[], None]) -> None:
    for name in ("custom_id", "file_name"):
        body = part("photos", JPEG) + part("photos", JPEG + b"2", "b.jpg") + END
        answer = clinic.post(f"/v1/jobs?{name}=p-1", data=body, content_type=TYPE)
        assert answer.status_code == 422
        assert answer.json is not None
        assert [error["parameter"] for error in answer.json["errors"]] == [name]
    nothing_half_done()
    assert clinic.post("/v1/jobs?custom_id=p-1", data=PHOTO + END, content_type=TYPE).status_code == 202


def test_a_rate_and_a_time_may_be_texts_in_the_query(clinic: Caller) -> None:
    query = "max_failure_rate=0.5&deadline=2099-01-01t00:00:00.5%2B01:00"
    job = clinic.post(f"/v1/jobs?{query}", data=JPEG, content_type="image/jpeg").json
    assert job is not None
    assert (job["max_failure_rate"], job["deadline"]) == (0.5, "2098-12-31T23:00:00.500000Z")


def test_a_raw_photo_takes_its_options_from_the_query(clinic: Caller) -> None:
    query = "priority=bulk&custom_id=p-1&file_name=..%2Fetc%2Fpasswd&metadata=%7B%22a%22%3A%22b%22%7D"
    job = clinic.post(f"/v1/jobs?{query}", data=JPEG, content_type="image/webp").json
    assert job is not None
    assert (job["priority"], job["metadata"], job["total"]) == ("bulk", {"a": "b"}, 1)
    receipt = clinic.get(f"/v1/jobs/{job['id']}/receipt").json
    assert receipt is not None
    (entry,) = receipt["payload"]["entries"]
    assert entry["name"] == "passwd"
    image = clinic.get(f"/v1/images/{entry['image']}").json
    assert image is not None
    assert (image["custom_id"], image["outcome"], image["use"]) == ("p-1", None, "research-only")


def test_photos_that_are_no_photos_are_taken_in(clinic: Caller, objects: Callable[[], list[Path]]) -> None:
    answer = clinic.send([("empty.jpg", b""), ("letter.txt", b"hello"), ("good.jpg", JPEG)])
    assert answer.status_code == 202
    assert answer.json is not None
    assert answer.json["total"] == 3
    assert [path.stat().st_size for path in objects()] == [0, 5, len(JPEG)]


def test_a_photo_above_the_limit_is_taken_in_but_not_kept(
    environment: dict[str, str], owner_db: Database, clinic: Caller, objects: Callable[[], list[Path]]
) -> None:
    app = create_app(Settings.load({**environment, "POXVISIO_MAX_PHOTO_BYTES": "1024"}))
    answer = Caller(app.test_client(), clinic.key, clinic.tenant).send(
        [("big.jpg", b"x" * 1025), ("ok.jpg", b"y" * 1024)]
    )
    assert answer.status_code == 202
    assert [path.read_bytes() for path in objects()] == [b"y" * 1024]
    app.extensions["poxvisio"].close()


@pytest.fixture
def small(environment: dict[str, str], clinic: Caller) -> Caller:
    """Return the clinic in front of a service with small limits."""
    limits = {"POXVISIO_MAX_PHOTOS": "2", "POXVISIO_MAX_REQUEST_BYTES": str(1024 * 1024)}
    app: Flask = create_app(Settings.load({**environment, **limits}))
    return Caller(app.test_client(), clinic.key, clinic.tenant)


def test_too_many_photos_are_refused(small: Caller, nothing_half_done: Callable[[], None]) -> None:
    answer = small.send([("a", b"1"), ("b", b"2"), ("c", b"3")])
    assert answer.status_code == 413
    assert answer.json is not None
    assert answer.json["type"].endswith("/problems/too-many-photos")
    nothing_half_done()


def test_a_body_announced_as_too_large_is_not_read(small: Caller, nothing_half_done: Callable[[], None]) -> None:
    class Untouched:
        def read(self, _: int) -> bytes:
            raise AssertionError("the body was read")

    assert small.stream(Untouched(), 1024 * 1024 + 1).status_code == 413
    nothing_half_done()


def test_a_body_that_turns_out_too_large_is_refused(small: Caller, nothing_half_done: Callable[[], None]) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="photos"; filename="a.jpg"\r\n\r\n'
    body = io.BytesIO(head + b"x" * (1024 * 1024 + 1))
    answer = small.stream(body, None, "multipart/form-data; boundary=b")
    assert answer.status_code == 413, answer.text
    nothing_half_done()


def test_a_raw_photo_that_is_cut_off_is_refused(clinic: Caller, nothing_half_done: Callable[[], None]) -> None:
    assert clinic.stream(io.BytesIO(JPEG), len(JPEG) + 10).status_code == 400
    nothing_half_done()


def test_an_empty_multipart_body_is_refused(clinic: Caller, nothing_half_done: Callable[[], None]) -> None:
    assert clinic.stream(io.BytesIO(b""), 0, TYPE).status_code == 400
    nothing_half_done()


def test_an_encoded_body_is_refused(clinic: Caller, nothing_half_done: Callable[[], None]) -> None:
    answer = clinic.post("/v1/jobs", data=JPEG, content_type="image/jpeg", Content_Encoding="gzip")
    assert answer.status_code == 415
    nothing_half_done()


def test_options_come_from_one_place(clinic: Caller, nothing_half_done: Callable[[], None]) -> None:
    parts: MultiDict[str, object] = MultiDict([("job", "{}"), ("photos", (io.BytesIO(JPEG), "a.jpg"))])
    answer = clinic.post("/v1/jobs?priority=bulk", data=parts, content_type="multipart/form-data")
    assert answer.status_code == 422
    nothing_half_done()


def test_the_job_part_may_be_a_file(clinic: Caller) -> None:
    body = part("job", json.dumps({"priority": "bulk"}).encode(), "job.json") + PHOTO + END
    answer = clinic.post("/v1/jobs", data=body, content_type=TYPE)
    assert answer.json is not None
    assert (answer.status_code, answer.json["priority"]) == (202, "bulk")


@pytest.mark.parametrize(("photos", "lane"), [(1, "interactive"), (2, "normal"), (100, "normal"), (101, "bulk")])
def test_the_lane_follows_the_number_of_photos(photos: int, lane: str, clinic: Caller) -> None:
    job = clinic.send([(f"{n}.jpg", b"%d" % n) for n in range(photos)]).json
    assert job is not None
    assert job["priority"] == lane


def test_a_key_without_the_scope_sends_nothing(
    app: Flask, clinic: Caller, owner_db: Database, nothing_half_done: Callable[[], None]
) -> None:
    reader = Caller(app.test_client(), make_key(owner_db, clinic.tenant, ["jobs:read"]), clinic.tenant)
    answer = reader.send([("a.jpg", JPEG)])
    assert answer.status_code == 403
    assert "jobs:write" in answer.text
    nothing_half_done()


def test_a_one_off_webhook_may_be_told_the_answer_itself(clinic: Caller) -> None:
    hook = {"url": "https://example.org/hook", "detail": "full", "format": "cloudevents"}
    job = clinic.send([("a.jpg", JPEG)], {"webhook": hook}).json
    assert job is not None
    made = clinic.get(f"/v1/webhooks/{job['webhook']['id']}").json
    assert made is not None
    assert (made["detail"], made["format"], made["job"]) == ("full", "cloudevents", job["id"])


def test_a_one_off_webhook_tells_no_answers_for_a_key_that_may_not_read_them(
    app: Flask, clinic: Caller, owner_db: Database, nothing_half_done: Callable[[], None]
) -> None:
    sender = Caller(app.test_client(), make_key(owner_db, clinic.tenant, ["jobs:write"]), clinic.tenant)
    refused = sender.send([("a.jpg", JPEG)], {"webhook": {"url": "https://example.org/hook", "detail": "full"}})
    assert refused.status_code == 403
    assert "jobs:read" in refused.text
    nothing_half_done()
    assert sender.send([("a.jpg", JPEG)], {"webhook": {"url": "https://example.org/hook"}}).status_code == 202


def test_a_one_off_webhook_hears_of_the_acceptance(clinic: Caller, rows: Callable[[str], int]) -> None:
    job = clinic.send([("a.jpg", JPEG)], {"webhook": {"url": "https://example.org/hook"}}, Idempotency_Key="w").json
    assert job is not None
    assert job["webhook"]["secret"].startswith("whsec_")
    assert rows("delivery") == 1
    again = clinic.send([("a.jpg", JPEG)], {"webhook": {"url": "https://example.org/hook"}}, Idempotency_Key="w").json
    assert again == job
    # The secret is shown in this answer alone.
    assert clinic.get(f"/v1/jobs/{job['id']}").json == {**job, "webhook": None, "eta": None}
