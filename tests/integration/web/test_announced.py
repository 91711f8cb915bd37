"""A lone photo that somebody waits for is announced to workers as soon as it is stored, and no other one is."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any
from uuid import UUID

import pytest
import redis
from flask import Flask
from pydantic import SecretStr

from cli.embedded.valkey import EmbeddedValkey
from shared.announcing import ANNOUNCED_KEY, Announced
from shared.database import Database
from shared.ids import parse
from shared.settings import Settings
from shared.storage.keys import original_key
from tests.integration.web.conftest import Caller, application, make_key
from web.services import services

PHOTO = b"a photo, as far as anybody has looked"


@pytest.fixture
def app(settings: Settings, owner_db: Database, valkey: EmbeddedValkey) -> Iterator[Flask]:
    with application(settings.model_copy(update={"broker_url": SecretStr(valkey.start())})) as made:
        yield made


@pytest.fixture
def clinic(app: Flask, owner_db: Database, tenant: UUID) -> Caller:
    return Caller(app.test_client(), make_key(owner_db, tenant), tenant)


@pytest.fixture
def word(app: Flask) -> Iterator[Future[bytes | None]]:
    """Return what is announced first, None where that is nothing within two seconds."""
    with app.app_context():
        url = services().settings.broker_url.get_secret_value()
    with closing(redis.Redis.from_url(url)) as listening, ThreadPoolExecutor(1) as pool:

        def listen() -> bytes | None:
            taken: Any = listening.brpop([ANNOUNCED_KEY], timeout=2)
            return taken[1] if taken else None

        yield pool.submit(listen)


def test_a_lone_photo_that_somebody_waits_for_is_announced(clinic: Caller, word: Future[bytes | None]) -> None:
    answer = clinic.post("/v1/jobs", data=PHOTO, content_type="image/jpeg", Prefer="wait=1")
    said = word.result()
    assert answer.status_code == 202
    assert answer.json is not None
    key = original_key(parse("job", answer.json["id"]), 0)
    assert said is not None
    assert Announced.unpack(said) == Announced(key, len(PHOTO), hashlib.sha256(PHOTO).digest())


@pytest.mark.parametrize(("photos", "prefer"), [(1, {}), (1, {"Prefer": "wait=0"}), (2, {"Prefer": "wait=1"})])
def test_nothing_else_is(clinic: Caller, word: Future[bytes | None], photos: int, prefer: dict[str, str]) -> None:
    answer = clinic.send([(f"{number}.jpg", PHOTO) for number in range(photos)], None, **prefer)
    assert answer.status_code == 202
    assert word.result() is None


def test_nothing_is_where_another_client_waits_already(app: Flask, clinic: Caller, word: Future[bytes | None]) -> None:
    with app.app_context():
        places = services().waiting
    place = places.enter(clinic.tenant, 0)
    assert place is not None
    answer = clinic.post("/v1/jobs", data=PHOTO, content_type="image/jpeg", Prefer="wait=1")
    places.leave(place)
    assert answer.status_code == 202
    assert word.result() is None
