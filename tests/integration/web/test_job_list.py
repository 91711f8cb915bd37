"""The list of jobs: narrowed by every condition, and paged without losing it."""

from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from shared.database import Database
from tests.integration.web.answering import answer_all
from tests.integration.web.conftest import JPEG, Caller, make_key


def send(caller: Caller, name: str, **options: Any) -> str:
    job = caller.send([(name, JPEG)], options or None).json
    assert job is not None
    return str(job["id"])


def listed(caller: Caller, query: str) -> list[str]:
    answer = caller.get(f"/v1/jobs?{query}")
    assert answer.json is not None
    return [job["id"] for job in answer.json["jobs"]]


def test_conditions_narrow_the_list_together(clinic: Caller, owner_db: Database, worker_db: Database) -> None:
    ward = Caller(clinic.client, make_key(owner_db, clinic.tenant), clinic.tenant)
    first = send(clinic, "IMG_1.jpg")
    second = send(ward, "IMG_2.jpg", metadata={"study": "West"})
    answer_all(worker_db)
    third = send(ward, "back.jpg")
    key = f"key_{ward.key.split('_')[1]}"
    seen = clinic.get(f"/v1/jobs/{second}").json
    assert seen is not None
    made = quote(seen["created_at"])

    assert listed(clinic, "text=IMG_") == [second, first]
    assert listed(clinic, "text=west") == [second]
    assert listed(clinic, f"text={third}") == [third]
    assert listed(clinic, f"key={key}") == [third, second]
    assert listed(clinic, f"key={key}&text=IMG_&state=completed&model=demo") == [second]
    assert listed(clinic, f"created_after={made}") == [third, second]
    assert listed(clinic, f"created_before={made}") == [first]
    assert listed(clinic, "model=demo") == [second, first]
    assert listed(clinic, f"key=key_{'0' * 32}") == []


def test_the_next_page_keeps_the_conditions(clinic: Caller, stranger: Caller) -> None:
    wanted = [send(clinic, f"Ü & {n}.jpg") for n in range(5)][::-1]
    send(clinic, "other.jpg")
    path: str | None = "/v1/jobs?limit=2&text=%C3%9C%20%26&created_after=2020-01-01T00%3A00%3A00%2B02%3A00&state=queued"
    seen: list[str] = []
    while path:
        answer = clinic.get(path)
        assert answer.json is not None
        seen += [job["id"] for job in answer.json["jobs"]]
        link = answer.headers.get("Link")
        path = link.partition(">")[0].removeprefix("<http://127.0.0.1:8000") if link else None
        if path:
            query = parse_qs(urlsplit(path).query)
            assert query["cursor"] == [answer.json["next"]]
            assert (query["text"], query["state"], query["limit"]) == (["Ü &"], ["queued"], ["2"])
            assert query["created_after"] == ["2019-12-31T22:00:00Z"]
    assert seen == wanted
    assert listed(stranger, "text=%C3%9C") == []


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("created_after=yesterday", "created_after"),
        ("created_before=1700000000", "created_before"),
        ("created_after=2026-01-01T00:00:00", "created_after"),
        ("key=12", "key"),
        ("key=job_" + "0" * 32, "key"),
        ("text=", "text"),
        ("text=%00", "text"),
        ("text=" + "a" * 201, "text"),
        ("model=", "model"),
        ("state=open", "state"),
        ("cursor=!", "cursor"),
    ],
)
def test_a_condition_nobody_can_fulfil_is_named(clinic: Caller, query: str, parameter: str) -> None:
    answer = clinic.get(f"/v1/jobs?{query}")
    assert answer.json is not None
    assert (answer.status_code, [error["parameter"] for error in answer.json["errors"]]) == (422, [parameter])
