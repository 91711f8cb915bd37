"""Links to pictures without a key: they open one picture, for minutes, and no longer than the key that asked."""

import base64
import io
import json
import time
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from pyarrow import parquet as reading
from werkzeug.test import TestResponse

from shared import accounts
from shared.database import Database
from shared.ids import parse
from shared.signing import Keyring
from tests.integration.web.answering import answer_all
from tests.integration.web.conftest import JPEG, Caller
from web.api.links import Link

HERE = "http://127.0.0.1:8000"


@pytest.fixture
def image(clinic: Caller, worker_db: Database) -> dict[str, Any]:
    job = clinic.send([("a.jpg", JPEG), ("b.jpg", b"x")]).json
    assert job is not None
    answer_all(worker_db, ("classified", "rejected"))
    row = (clinic.get(f"/v1/jobs/{job['id']}/results").json or {})["results"][0]
    storage = clinic.client.application.extensions["poxvisio"].storage
    storage.write(f"copies/{parse('job', job['id']).hex}/{parse('image', row['image']).hex}.jpg", JPEG)
    return dict(row)


def opened(app: Flask, url: str) -> TestResponse:
    """Open a link as somebody without a key."""
    return app.test_client().get(url.removeprefix(HERE))


def asked(clinic: Caller, image: dict[str, Any], seconds: int = 300) -> dict[str, Any]:
    return dict(clinic.get(f"/v1/images/{image['image']}?links={seconds}").json or {})


def problem(answer: TestResponse) -> tuple[int, str]:
    return answer.status_code, (answer.json or {})["type"].rpartition("/")[2]


def test_a_link_shows_its_picture_without_a_key(app: Flask, clinic: Caller, image: dict[str, Any]) -> None:
    links = asked(clinic, image)
    photo = opened(app, links["photo_url"])
    assert (photo.status_code, photo.mimetype, photo.data) == (200, "image/jpeg", JPEG)
    heat = opened(app, links["heatmap_url"] + "?width=64&height=32")
    assert (heat.status_code, heat.mimetype) == (200, "image/png")
    for answer in (photo, heat):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "private, no-store"
        assert "sandbox" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Content-Disposition"].startswith(f'inline; filename="{image["image"]}')


def test_only_who_asks_for_links_gets_them_and_all_else_stays_the_same(clinic: Caller, image: dict[str, Any]) -> None:
    path = f"/v1/images/{image['image']}"
    assert image["photo_url"] == f"{HERE}{path}/photo"
    assert clinic.get(path).json == clinic.get(path).json == image
    links = asked(clinic, image)
    assert {name for name in image if links[name] != image[name]} == {"photo_url", "heatmap_url"}


@pytest.mark.parametrize("form", ["json", "ndjson", "parquet"])
def test_results_hold_links_where_they_are_asked_for(
    form: str, app: Flask, clinic: Caller, image: dict[str, Any]
) -> None:
    answer = clinic.get(f"/v1/jobs/{image['job']}/results?links=60&format={form}")
    if form == "parquet":
        urls = reading.read_table(io.BytesIO(answer.data))["photo_url"].to_pylist()
    else:
        rows = (answer.json or {})["results"] if form == "json" else map(json.loads, answer.text.splitlines())
        urls = [row["photo_url"] for row in rows]
    assert opened(app, urls[0]).data == JPEG
    assert urls[1] is None
    page = clinic.get(f"/v1/jobs/{image['job']}/results?links=60&limit=1")
    assert "links=60" in page.headers["Link"]
    assert clinic.get(f"/v1/jobs/{image['job']}/results?links=60&format=csv").status_code == 422


def test_a_link_lives_as_long_as_was_asked(app: Flask, clinic: Caller, image: dict[str, Any]) -> None:
    keyring: Keyring = app.extensions["poxvisio"].keyring
    key = UUID(hex=clinic.key.split("_")[1])
    photo = parse("image", image["image"])
    past, future = (Link("photo", photo, key, int(time.time()) + seconds).text(keyring) for seconds in (-1, 60))
    assert opened(app, f"/v1/links/{future}").status_code == 200
    assert problem(opened(app, f"/v1/links/{past}")) == (410, "link-ended")
    for seconds in (0, 29, 3601, -300):
        assert clinic.get(f"/v1/images/{image['image']}?links={seconds}").status_code == 422


def test_every_bit_of_a_link_counts(app: Flask, clinic: Caller, image: dict[str, Any]) -> None:
    token = asked(clinic, image)["photo_url"].rpartition("/")[2]
    whole = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    for at in range(len(whole)):
        bent = bytes([*whole[:at], whole[at] ^ 1, *whole[at + 1 :]])
        answer = opened(app, "/v1/links/" + base64.urlsafe_b64encode(bent).rstrip(b"=").decode())
        assert problem(answer) == (403, "bad-link"), at
    for wrong in (token[:-1], token + "AAAA", "x", "%00", "é", "a" * 5000):
        assert problem(opened(app, f"/v1/links/{wrong}")) == (403, "bad-link"), wrong
    other = Keyring(b"another secret key of 32 bytes...")
    forged = Link("photo", parse("image", image["image"]), UUID(hex=clinic.key.split("_")[1]), int(time.time()) + 60)
    assert problem(opened(app, f"/v1/links/{forged.text(other)}")) == (403, "bad-link")


def test_a_link_ends_with_its_key_and_with_its_photo(
    app: Flask, clinic: Caller, image: dict[str, Any], app_db: Database
) -> None:
    made = clinic.post("/v1/keys", {"name": "viewer", "scopes": ["jobs:read"]}).json
    assert made is not None
    viewer = Caller(clinic.client, made["token"], clinic.tenant)
    theirs, ours = asked(viewer, image)["photo_url"], asked(clinic, image)["photo_url"]
    with app_db.transaction(clinic.tenant) as session:
        accounts.revoke_key(session, clinic.tenant, parse("key", made["id"]))
    assert problem(opened(app, theirs)) == (410, "link-ended")
    assert opened(app, ours).status_code == 200
    assert clinic.open(f"/v1/jobs/{image['job']}", "DELETE").status_code == 204
    assert opened(app, ours).status_code in (404, 410)


def test_nobody_makes_a_link_to_what_is_not_theirs(
    app: Flask, clinic: Caller, stranger: Caller, image: dict[str, Any]
) -> None:
    assert stranger.get(f"/v1/images/{image['image']}?links=60").status_code == 404
    keyring: Keyring = app.extensions["poxvisio"].keyring
    theirs = UUID(hex=stranger.key.split("_")[1])
    link = Link("photo", parse("image", image["image"]), theirs, int(time.time()) + 60).text(keyring)
    assert opened(app, f"/v1/links/{link}").status_code == 404
