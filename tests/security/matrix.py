"""Asks every route of the URL map as every kind of caller: the table beside this file says what each must hear.

A route without a row, a row without a route and an answer other than the table's are faults, and so is an answer to
another tenant that holds anything of the owner's.
"""

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from flask import Flask
from werkzeug.datastructures import MultiDict
from werkzeug.test import TestResponse

from shared import accounts, ids
from shared.accounts import SCOPES
from shared.database import Database, new_id
from shared.registry.bundles import bundle_key
from shared.storage.keys import copy_key
from tests.conftest import make_tenant
from tests.integration.web.answering import answer_all
from tests.integration.web.conformance import assert_documented
from tests.integration.web.conftest import JPEG, Caller, make_key
from web.api.links import Link
from web.operations import described_rules, template
from web.services import Services

TABLE: Final = Path(__file__).with_name("authorization_matrix.md")
OUTSIDERS: Final = ("nobody", "malformed", "expired", "revoked")
CALLERS: Final = (*OUTSIDERS, *SCOPES, "all", "stranger")
METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
MARK: Final = "of-the-owner-alone"
_KINDS: Final = {"job": "job", "image": "image", "webhook": "endpoint", "delivery": "delivery", "key": "key"}
# What belongs to no tenant: names of files, and what is said of the models that serve all. A link to a picture is its
# own permission; the one asked for here has ended.
COMMON: Final = frozenset({"name", "model", "change", "link"})
# What goes together.
_PARTS: Final = (
    frozenset({"job", "image"}),
    frozenset({"webhook", "delivery"}),
    frozenset({"key"}),
    frozenset({"model", "change"}),
)
# Names that are in no database, and so nobody's.
_PUBLIC: Final = {"/static/{name}": "app.css", "/problems/{name}": "not-found"}
# Only a waiting job can be cancelled, only a closed one tried again: each is made anew for every caller who may.
USING_UP: Final = ("/cancel", "/retry", "/activate", "/canary", "/models/{model}/shadow", "/rollback")
_SINCE: Final = {"since": "2026-01-01T00:00:00Z"}
_BODIES: Final[dict[str, Any]] = {
    "POST /v1/webhooks": {"url": "https://example.org/hook"},
    "PATCH /v1/webhooks/{webhook}": {"description": "changed"},
    "POST /v1/webhooks/{webhook}/recover": _SINCE,
    "POST /v1/webhooks/{webhook}/replay": _SINCE,
    "POST /v1/models/{model}/canary": {"share": 0.5},
    "POST /v1/models/{model}/shadow": {"share": 0.5},
    "POST /v1/keys": {"name": "another", "scopes": ["admin"]},
}
_MODEL: Final = sa.text("""
    INSERT INTO model (digest, id, card, labels, clinical, synthetic, bytes)
    VALUES (:id, :id, '{}', '{a,b}', false, true, 1)
""")
_CHANGE: Final = sa.text("""
    INSERT INTO model_change (id, kind, model_id, digest, state) VALUES (:id, 'activate', :model, :model, 'refused')
""")


@dataclass(frozen=True, order=True, slots=True)
class Route:
    """A method and a path as ``/openapi.json`` writes them."""

    path: str
    method: str

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def routes(app: Flask) -> Iterator[tuple[Route, frozenset[str]]]:
    """Yield every route of the application and the names of the ids in its path."""
    for rule, _ in described_rules(app):
        for method in sorted((rule.methods or set()) & METHODS):
            yield Route(template(rule), method), frozenset(rule.arguments)


def table() -> dict[Route, dict[str, int]]:
    """Return the table: the status that each caller must get, by route."""
    found: dict[Route, dict[str, int]] = {}
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    names = [cell.strip() for cell in lines[0].strip("|").split("|")]
    if tuple(names[1:]) != CALLERS:
        raise ValueError(f"the columns of {TABLE.name} must be {', '.join(CALLERS)}")
    for line in lines[2:]:
        head, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        method, path = head.strip("`").split(" ", 1)
        found[Route(path, method)] = {name: int(cell) for name, cell in zip(CALLERS, cells, strict=True)}
    return found


def row(route: Route, statuses: dict[str, int]) -> str:
    """Return a line of the table."""
    return f"| `{route}` | " + " | ".join(str(statuses[name]) for name in CALLERS) + " |"


@dataclass
class World:
    """A tenant with one of everything, whose ids others try; what is used up is made anew, and the rest stays."""

    app: Flask
    owner_db: Database
    worker_db: Database
    tenant: UUID
    ids: dict[str, str] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.owner = Caller(self.app.test_client(), make_key(self.owner_db, self.tenant), self.tenant)

    def fill(self, *, is_open: bool = False) -> None:
        """Make what is missing: a job with answers, or one that waits, a webhook with a delivery, a key, a model."""
        here: Services = self.app.extensions["poxvisio"]
        if "job" not in self.ids:
            self._send(here, is_open=is_open)
        if "webhook" not in self.ids:
            hook = _json(self.owner.post("/v1/webhooks", {"url": f"https://{MARK}.example/", "description": MARK}))
            sent = _json(self.owner.post(f"/v1/webhooks/{hook['id']}/test"))
            self.ids |= {"webhook": hook["id"], "delivery": sent["id"]}
            self.seen.add(hook["secret"])
        if "key" not in self.ids:
            self.ids["key"] = _json(self.owner.post("/v1/keys", {"name": MARK, "scopes": ["admin"]}))["id"]
        if "model" not in self.ids:
            self._register(here)
        self.ids["link"] = Link("photo", new_id(), new_id(), expires=1).text(here.keyring)  # one that has ended
        self.seen |= {value.partition("_")[2] for name, value in self.ids.items() if name not in COMMON}
        self.seen |= {MARK, self.tenant.hex, str(self.tenant)}

    def spend(self, names: frozenset[str]) -> None:
        """Forget what these ids are of, and everything where there are none; the next ``fill`` makes it anew."""
        for part in _PARTS:
            if not names or names & part:
                self.ids = {name: value for name, value in self.ids.items() if name not in part}

    def _send(self, here: Services, *, is_open: bool) -> None:
        photos = [(f"{MARK}-{n}.jpg", JPEG + bytes([n])) for n in range(2)]
        job = _json(self.owner.send(photos))
        if not is_open:
            answer_all(self.worker_db, ("classified", "failed"))
            page = _json(self.owner.get(f"/v1/jobs/{job['id']}/results"))
            self.ids["image"] = page["results"][0]["image"]
            key = copy_key(ids.parse("job", job["id"]), ids.parse("image", self.ids["image"]))
            here.storage.write(key, JPEG + MARK.encode())
        self.ids["job"] = job["id"]

    def _register(self, here: Services) -> None:
        """Publish a model that waits for its check, and make an older wish for a change."""
        model, change = f"model-{new_id().hex}", new_id()
        with self.owner_db.transaction() as session:
            session.execute(sa.text("DELETE FROM model_change"))
            session.execute(_MODEL, {"id": model})
            session.execute(_CHANGE, {"id": change, "model": model})
        here.storage.write(bundle_key(model, "report.html"), b"<p>synthetic</p>")
        self.ids |= {"model": model, "change": ids.text("change", change)}

    def leak(self, answer: TestResponse) -> str | None:
        """Return what of this tenant's an answer holds."""
        said = answer.data + str(answer.headers).encode()
        return next((value for value in sorted(self.seen) if value.encode() in said), None)


def _json(answer: TestResponse) -> dict[str, Any]:
    assert answer.json is not None
    assert answer.status_code < 300, answer.text
    return dict(answer.json)


def credentials(app: Flask, owner_db: Database, tenant: UUID) -> dict[str, str | None]:
    """Return the Authorization header of every kind of caller, None for nobody's."""
    past = datetime.now(UTC) - timedelta(seconds=1)
    with owner_db.transaction(tenant) as session:
        expired = accounts.create_key(session, tenant, "expired", SCOPES, past)
        revoked = accounts.create_key(session, tenant, "revoked", SCOPES)
        accounts.revoke_key(session, tenant, UUID(hex=revoked.split("_")[1]))
    tokens = {"malformed": "pxv_no-key-at-all", "expired": expired, "revoked": revoked}
    tokens |= {scope: make_key(owner_db, tenant, [scope]) for scope in SCOPES}
    tokens["all"] = make_key(owner_db, tenant)
    tokens["stranger"] = make_key(owner_db, make_tenant(owner_db, "another clinic"))
    return {"nobody": None} | {name: f"Bearer {token}" for name, token in tokens.items()}


def ask(app: Flask, route: Route, path: str, authorization: str | None, method: str | None = None) -> TestResponse:
    """Send a request that is whole but for who sends it."""
    given: dict[str, Any] = {}
    if str(route) == "POST /v1/jobs":
        parts: MultiDict[str, Any] = MultiDict()
        parts.add("photos", (io.BytesIO(JPEG), "a.jpg"))
        given = {"data": parts, "content_type": "multipart/form-data"}
    elif str(route) in _BODIES:
        given = {"data": json.dumps(_BODIES[str(route)]), "content_type": "application/json"}
    # Every problem names its request: only with the same name can two answers be the same.
    headers = {"X-Request-Id": "of-the-matrix"}
    if authorization is not None:
        headers["Authorization"] = authorization
    answer = app.test_client().open(path, method=method or route.method, headers=headers, **given)
    if method is None:
        assert_documented(app, answer)
    return answer


def unlike_ids(names: frozenset[str]) -> list[dict[str, str]]:
    """Return ids that name nothing: unknown ones, and what is no id at all."""
    unknown = {name: ids.text(_KINDS[name], new_id()) for name in names}
    return [unknown, dict.fromkeys(names, "job_1"), dict.fromkeys(names, "%00"), dict.fromkeys(names, "a" * 2000)]


def run(app: Flask, owner_db: Database, worker_db: Database, tenant: UUID, only: Callable[[Route], bool]) -> list[str]:
    """Ask every route that ``only`` lets through as every caller; return what is wrong, empty where all is well."""
    expected = table()
    present = dict(routes(app))
    faults = [f"{route} has no row" for route in sorted(present.keys() - expected.keys())]
    faults += [f"{route} has a row and is no route" for route in sorted(expected.keys() - present.keys())]
    who = credentials(app, owner_db, tenant)
    world = World(app, owner_db, worker_db, tenant)
    for route in filter(only, sorted(present)):
        faults += _row_of(app, world, who, route, present[route], expected.get(route))
    return faults


def _faults_of(world: World, name: str, answer: TestResponse) -> Iterator[str]:
    if name in (*OUTSIDERS, "stranger") and (said := world.leak(answer)):
        yield f"tells {said!r}"
    # No page elsewhere may read an answer, and no browser sends by itself what would let a request through.
    for header in ("Set-Cookie", "Access-Control-Allow-Origin"):
        if header in answer.headers:
            yield f"sends {header}"
    if answer.status_code == 401 and not answer.headers.get("WWW-Authenticate", "").startswith("Bearer "):
        yield "does not say how to authenticate"
    if answer.status_code == 403 and not any(f"scope '{scope}'" in answer.text for scope in SCOPES):
        yield "does not name the scope"


def _row_of(
    app: Flask,
    world: World,
    who: dict[str, str | None],
    route: Route,
    names: frozenset[str],
    expected: dict[str, int] | None,
) -> list[str]:
    if unknown := names - _KINDS.keys() - COMMON:
        return [f"{route}: tests/security/matrix.py makes nothing with an id named {min(unknown)}"]
    found: dict[str, int] = {}
    faults: list[str] = []
    if route.path.endswith(USING_UP):
        world.spend(names)  # what is there has been closed
    for name in CALLERS:
        world.fill(is_open=route.path.endswith("/cancel"))
        path = route.path.format(**{"name": _PUBLIC.get(route.path, ""), **world.ids})
        answer = ask(app, route, path, who[name])
        found[name] = answer.status_code
        faults += [f"{route} to {name}: {fault}" for fault in _faults_of(world, name, answer)]
        if route.method == "GET" and ask(app, route, path, who[name], "HEAD").status_code != answer.status_code:
            faults.append(f"{route} answers HEAD otherwise to {name}")
        if answer.status_code < 300 and (route.method == "DELETE" or route.path.endswith(USING_UP)):
            world.spend(names)
    if route.path.endswith(USING_UP):
        world.spend(names)
    if found != expected:
        faults.append(f"{route} answered otherwise than its row; what it did: {row(route, found)}")
    return faults
