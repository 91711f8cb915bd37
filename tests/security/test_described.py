"""What ``/openapi.json`` says is what happens: no answer of 500, no status and no body that it does not know."""

import random
from typing import Any

from flask import Flask

from shared import ids
from shared.database import Database, new_id
from tests.integration.web.conftest import JPEG, Caller, make_key
from tests.security import matrix
from tests.security.conftest import Extent
from web.operations import described_rules, template

# What no schema leads a generator to.
NONSENSE = (
    *("", "0", "-1", "1", "99999999999999999999", "1e400", "nan", "null", "[]", "{}", "'", '"', "=1", "true"),
    *("\x00", "\u202e", "\xed\xa0\x80", "../..", "%00", "a" * 3000, "wait=1"),
    *("2026-01-01", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59"),
    *("o1", "w1-" + "0" * 32, "w" + "9" * 40 + "-" + "0" * 32),
)
BODIES: tuple[bytes, ...] = (
    *(b"", b"{", b"null", b"[]", b"0", b'"x"', b"{}", b"\xff\xfe", b"[" * 100_000),
    *(b'{"url": "\\ud800"}', b'{"url": 1, "events": {}}', b'{"url": "https://[::1"}', b'{"secret": "whsec_!!"}'),
    *(b'{"since": "9999-12-31T23:59:59-23:59"}', b'{"since": "0001-01-01T00:00:00Z"}', b'{"since": 1e300}'),
    *(b'{"name": "\\u0000", "scopes": ["admin"]}', b'{"name": "n", "scopes": ["root"]}', b'{"state": "gone"}'),
    *(b'{"description": "' + b"a" * 5000 + b'"}', b'{"events": ["job.completed", "job.completed"]}'),
)


def test_whatever_is_asked_is_answered_as_described(
    app: Flask, clinic: Caller, owner_db: Database, worker_db: Database, extent: Extent
) -> None:
    from tests.security import described  # Schemathesis is read by this test alone

    world = matrix.World(app, owner_db, worker_db, clinic.tenant)
    world.fill()
    findings = described.explore(
        app,
        lambda: make_key(owner_db, clinic.tenant),
        world.ids,
        seed=extent.seed,
        examples=500 if extent.is_long else 4,
        chains=2000 if extent.is_long else 30,
    )
    assert not findings.faults, f"seed {extent.seed}:\n" + "\n".join(findings.faults)
    # The run meant something: it got through to most operations, and on from one to another.
    assert max(findings.statuses) < 500
    assert len(findings.succeeded) >= 25
    # How far on depends on all modules that are loaded, whose constants Hypothesis tries, and not on the seed alone.
    assert findings.chained >= 20


def test_nonsense_is_always_a_documented_answer(
    app: Flask, clinic: Caller, worker_db: Database, owner_db: Database, extent: Extent
) -> None:
    chance = random.Random(extent.seed)
    world = matrix.World(app, owner_db, worker_db, clinic.tenant)
    world.fill()
    for rule, operation in described_rules(app):
        if rule.rule in ("/livez", "/readyz"):
            continue
        for method in sorted((rule.methods or set()) & {"GET", "POST", "PATCH"}):
            for _ in range(500 if extent.is_long else 25):
                clinic.open(_path(rule, world.ids, chance), method, **_request(operation, method, chance))


def _path(rule: Any, known: dict[str, str], chance: random.Random) -> str:
    fresh = ids.text("job", new_id())
    return template(rule).format(**{name: known.get(name, fresh) for name in rule.arguments}) or chance.choice(["/"])


def _request(operation: Any, method: str, chance: random.Random) -> dict[str, Any]:
    names = [*(operation.query.model_fields if operation.query else ()), "unknown"]
    request: dict[str, Any] = {}
    if chance.random() < 0.7:
        request["query_string"] = {chance.choice(names): chance.choice(NONSENSE)}
    if method != "GET" and chance.random() < 0.9:
        media = chance.choice(
            ["application/json", "application/json", "image/jpeg", "multipart/form-data; boundary=x", "text/plain", ""]
        )
        request |= {"data": chance.choice(BODIES), "content_type": media}
    return request


def test_headers_of_nonsense_are_survived(clinic: Caller) -> None:
    job = clinic.send([("a.jpg", JPEG)]).json
    assert job is not None
    for value in ("", "x", '"', "wait=", "wait=-1", "wait=1e9", "wait=0", ", ,;;", "\xff" * 10, "é"):
        for header in ("Prefer", "If_None_Match", "Accept", "X_Request_Id", "Idempotency_Key"):
            for path in (f"/v1/jobs/{job['id']}", f"/v1/jobs/{job['id']}/results", "/problems/not-found"):
                assert clinic.get(path, **{header: value}).status_code < 500
