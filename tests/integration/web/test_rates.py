"""Who asks too often hears when to come back, with Valkey and without, over one web process and over two."""

import io
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from flask import Flask
from pydantic import SecretStr
from sqlalchemy.engine import Engine
from werkzeug.test import TestResponse

from cli.embedded.processes import wait_until
from cli.embedded.valkey import EmbeddedValkey
from shared import accounts
from shared.database import Database
from shared.prepared import Prepared
from shared.settings import Settings
from tests.conftest import make_tenant
from tests.integration.ledger.factories import submit_job
from tests.integration.ledger.test_backlog import a_worker
from tests.integration.web.conftest import JPEG, Caller, application, make_key
from tests.integration.web.test_pressure import Unread, kind, recount
from web.api.links import Link
from web.services import Services

# Slow enough for a burst to be counted, whatever the machine does meanwhile.
BOUNDS = {"key_rate": 0.02, "tenant_rate": 0.03, "rate_seconds": 500, "refused_keys": 5, "address_rate": 0.06}
OF_KEY, OF_TENANT, OF_ADDRESS = 10, 15, 30


@contextmanager
def serving(settings: Settings, **more: Any) -> Iterator[Flask]:
    """Yield an application with these bounds."""
    with application(settings.model_copy(update=BOUNDS | more)) as made:
        yield made


@pytest.fixture
def app(settings: Settings, owner_db: Database) -> Iterator[Flask]:
    with serving(settings) as application:
        yield application


def told(answer: TestResponse) -> dict[str, Any]:
    assert answer.json is not None
    return dict(answer.json)


def statuses(caller: Caller, number: int) -> list[int]:
    return [caller.get("/v1/keys").status_code for _ in range(number)]


def let_through(callers: list[Caller], number: int) -> int:
    """Return how many of so many requests of every caller go through."""
    return sum(statuses(caller, number).count(200) for caller in callers)


def test_a_key_that_asks_too_often_hears_when_to_come_back(clinic: Caller) -> None:
    first = clinic.get("/v1/keys")
    assert first.headers["RateLimit-Policy"] == '"key";q=10;w=500, "tenant";q=15;w=500'
    assert first.headers["RateLimit"].startswith('"key";r=9;t=')
    assert statuses(clinic, OF_KEY - 1) == [200] * (OF_KEY - 1)
    refused = clinic.get("/v1/keys")
    assert (refused.status_code, kind(refused)) == (429, "rate-limited")
    assert refused.mimetype == "application/problem+json"
    assert told(refused)["violated-policies"] == ["key"]
    assert refused.headers["RateLimit"].startswith('"key";r=0;t=')
    soonest = int(refused.headers["RateLimit"].split("t=")[1].split(",")[0])
    assert soonest <= int(refused.headers["Retry-After"]) <= 1.2 * soonest + 1


def test_the_keys_of_a_tenant_have_a_bound_together_and_other_tenants_their_own(
    clinic: Caller, stranger: Caller, app: Flask, owner_db: Database
) -> None:
    second = Caller(app.test_client(), make_key(owner_db, clinic.tenant), clinic.tenant)
    assert statuses(clinic, OF_KEY + 2).count(200) == OF_KEY
    assert statuses(second, OF_KEY).count(200) == OF_TENANT - OF_KEY
    assert told(second.get("/v1/keys"))["violated-policies"] == ["tenant"]
    assert stranger.get("/v1/keys").status_code == 200


def test_whoever_needs_no_key_is_not_counted(clinic: Caller) -> None:
    statuses(clinic, OF_KEY + 1)
    for path in ("/livez", "/v1/limits", "/", "/nothing"):
        answer = clinic.get(path)
        assert answer.status_code in (200, 404)
        assert "RateLimit" not in answer.headers


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/v1/limits", "/problems/not-found", "/nothing"])
def test_an_address_that_asks_too_often_without_a_key_is_told_to_come_back_and_probes_are_answered(
    path: str, app: Flask, clinic: Caller, statements: list[str]
) -> None:
    def get(path: str, address: str = "192.0.2.1") -> TestResponse:
        return app.test_client().get(path, environ_base={"REMOTE_ADDR": address})

    assert {get(path).status_code for _ in range(OF_ADDRESS)} <= {200, 404}
    statements.clear()
    refused = get(path)
    assert (refused.status_code, kind(refused)) == (429, "rate-limited")
    assert told(refused)["violated-policies"] == ["address"]
    assert 1 <= int(refused.headers["Retry-After"]) <= 1.2 * 17 + 1
    assert statements == []
    assert get(path, "192.0.2.2").status_code in (200, 404)
    # Whoever has a key is counted by that alone, and a balancer hears of the process in any case.
    assert strange(app, "192.0.2.1", clinic.key).status_code == 200
    for _ in range(2 * OF_ADDRESS):
        assert get("/livez").status_code == 200
    assert get("/readyz").status_code in (200, 503)


def test_a_refused_body_is_not_stored_and_the_client_hears_why(
    clinic: Caller, nothing_half_done: Callable[[], None]
) -> None:
    statuses(clinic, OF_KEY)
    answer = clinic.stream(Unread(), 50_000_000, Idempotency_Key="one")
    assert (answer.status_code, kind(answer)) == (429, "rate-limited")
    nothing_half_done()


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Return what is sent to the database while the test runs."""
    sent: list[str] = []

    run = Prepared.run

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        sent.append(statement)

    def prepared(self: Prepared, *given: Any, **named: Any) -> list[Any]:
        sent.append(self.text)
        return run(self, *given, **named)

    monkeypatch.setattr(Prepared, "run", prepared)
    sa.event.listen(Engine, "before_cursor_execute", note)
    yield sent
    sa.event.remove(Engine, "before_cursor_execute", note)


def test_limits_cost_no_statement_and_a_refusal_spares_them_all(
    clinic: Caller, settings: Settings, statements: list[str]
) -> None:
    def asked(caller: Caller) -> int:
        statements.clear()
        caller.get("/v1/keys")
        return len(statements)

    with serving(settings, key_rate=0, tenant_rate=0, refused_keys=0) as unbounded:
        free = Caller(unbounded.test_client(), clinic.key, clinic.tenant)
        free.get("/v1/keys")
        usual = asked(free)
    clinic.get("/v1/keys")
    assert asked(clinic) == usual >= 2
    statuses(clinic, OF_KEY)
    assert asked(clinic) == 0


def strange(app: Flask, address: str, token: str | None = None, **headers: str) -> TestResponse:
    token = token or f"pxv_{os.urandom(16).hex()}_{os.urandom(24).hex()}"
    given = {"Authorization": f"Bearer {token}", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return app.test_client().get("/v1/keys", headers=given, environ_overrides={"REMOTE_ADDR": address})


def test_an_address_that_guesses_is_bounded_and_asks_the_database_no_more(app: Flask, statements: list[str]) -> None:
    found = [strange(app, "192.0.2.1").status_code for _ in range(8)]
    assert found == [401] * 5 + [429] * 3
    statements.clear()
    refused = strange(app, "192.0.2.1")
    assert (refused.status_code, kind(refused), statements) == (429, "too-many-refused-keys", [])
    assert int(refused.headers["Retry-After"]) >= 1
    assert strange(app, "192.0.2.2").status_code == 401


def opened(app: Flask, key: UUID) -> TestResponse:
    """Open a link that this key gave, to a picture that there is not."""
    link = Link("heatmap", uuid4(), key, int(time.time()) + 60).text(app.extensions["poxvisio"].keyring)
    return app.test_client().get(f"/v1/links/{link}")


def test_the_links_of_a_key_are_bounded_apart_from_the_key(app: Flask, clinic: Caller, statements: list[str]) -> None:
    ours = UUID(hex=clinic.key.split("_")[1])
    assert [opened(app, ours).status_code for _ in range(OF_KEY)] == [404] * OF_KEY
    statements.clear()
    refused = opened(app, ours)
    assert (refused.status_code, kind(refused), statements) == (429, "rate-limited", [])
    assert int(refused.headers["Retry-After"]) >= 1
    assert opened(app, uuid4()).status_code == 410, "another key's"
    assert clinic.get("/v1/keys").status_code == 200, "who has a link takes nothing from its maker"


def test_whoever_was_let_in_a_moment_ago_is_not_shut_out_by_neighbours(app: Flask, clinic: Caller) -> None:
    address = "192.0.2.1"
    assert strange(app, address, clinic.key).status_code == 200
    while strange(app, address).status_code == 401:
        pass
    assert strange(app, address, clinic.key).status_code == 200
    assert strange(app, address, clinic.key[:-1] + ("0" if clinic.key[-1] != "0" else "1")).status_code == 429


def test_a_revoked_key_is_let_in_no_more_though_it_was_known(app: Flask, clinic: Caller, owner_db: Database) -> None:
    assert clinic.get("/v1/keys").status_code == 200
    with owner_db.transaction(clinic.tenant) as session:
        accounts.revoke_key(session, clinic.tenant, UUID(hex=clinic.key.split("_")[1]))
    assert clinic.get("/v1/keys").status_code == 401


def test_the_port_of_a_connection_makes_no_other_address(settings: Settings, owner_db: Database) -> None:
    with serving(settings, proxies=1) as app:
        for host in ("198.51.100.1", "[2001:db8::1]"):
            found = [
                strange(app, "127.0.0.1", X_Forwarded_For=f"{host}:{port}").status_code for port in range(4000, 4006)
            ]
            assert found == [401] * 5 + [429], host


@pytest.mark.parametrize(("proxies", "expected"), [(0, 429), (1, 401)])
def test_what_a_proxy_says_of_an_address_is_believed_of_our_own_alone(
    settings: Settings, owner_db: Database, proxies: int, expected: int
) -> None:
    """With one proxy of ours, the last address is what it saw, and what stands before it is what the client claims."""
    with serving(settings, proxies=proxies) as app:
        for number in range(5):
            claimed = f"203.0.113.{number}, 198.51.100.1"
            assert strange(app, "127.0.0.1", X_Forwarded_For=claimed).status_code == 401
        assert strange(app, "127.0.0.1", X_Forwarded_For="203.0.113.9, 198.51.100.1").status_code == 429
        assert strange(app, "127.0.0.1", X_Forwarded_For="203.0.113.9, 198.51.100.2").status_code == expected


def test_threads_together_get_no_more_than_the_bound(app: Flask, clinic: Caller) -> None:
    def ask(_: int) -> int:
        return Caller(app.test_client(), clinic.key, clinic.tenant).get("/v1/keys").status_code

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(60)))
    assert found.count(200) == OF_KEY


# With Valkey and without


@pytest.fixture
def valkey(services_root: Path, request: pytest.FixtureRequest) -> Iterator[EmbeddedValkey]:
    """Return a Valkey of this test's own, which may be killed."""
    server = EmbeddedValkey(services_root / f"valkey-{os.urandom(4).hex()}")
    yield server
    server.stop()


def exchanged(*apps: Flask) -> None:
    """Let every web process tell and hear once."""
    for app in apps:
        here: Services = app.extensions["poxvisio"]
        here.exchange.exchange()


def joined(one: Flask, other: Flask) -> bool:
    """Let both tell and hear until each has heard the other, which a busy machine may not grant at once."""
    exchanges = [each.extensions["poxvisio"].exchange for each in (one, other)]

    def heard() -> bool:
        exchanged(one, other, one)
        return all(exchange.is_shared for exchange in exchanges)

    return wait_until(heard, 20)


def kill(server: EmbeddedValkey) -> None:
    for pid in server.pids():
        os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not server.pids(), 10)


def test_two_web_processes_hold_one_bound_through_valkey(
    settings: Settings, owner_db: Database, tenant: UUID, valkey: EmbeddedValkey
) -> None:
    through = settings.model_copy(update={"broker_url": SecretStr(valkey.start())})
    key = make_key(owner_db, tenant)
    with serving(through) as one, serving(through) as other:
        callers = [Caller(app.test_client(), key, tenant) for app in (one, other)]
        assert let_through(callers, 1) == 2
        assert joined(one, other)
        assert let_through(callers[:1], 20) == OF_KEY - 2
        exchanged(one, other)
        # A process forgives what others took before it heard of them first, here one request.
        assert let_through(callers[1:], 20) <= 1


def test_two_web_processes_hold_one_bound_for_the_links_of_a_key(
    settings: Settings, owner_db: Database, tenant: UUID, valkey: EmbeddedValkey
) -> None:
    through = settings.model_copy(update={"broker_url": SecretStr(valkey.start())})
    key = UUID(hex=make_key(owner_db, tenant).split("_")[1])
    with serving(through) as one, serving(through) as other:
        assert [opened(app, key).status_code for app in (one, other)] == [404, 404]
        exchanged(one, other, one)
        assert [opened(one, key).status_code for _ in range(20)].count(404) == OF_KEY - 2
        exchanged(one, other)
        # As above, one request may be forgiven.
        assert [opened(other, key).status_code for _ in range(9)].count(404) <= 1


def test_the_processes_exchange_by_themselves(
    settings: Settings, owner_db: Database, tenant: UUID, valkey: EmbeddedValkey
) -> None:
    through = settings.model_copy(update={"broker_url": SecretStr(valkey.start())})
    key = make_key(owner_db, tenant)
    with serving(through) as one, serving(through) as other:
        callers = [Caller(app.test_client(), key, tenant) for app in (one, other)]
        here: Services = other.extensions["poxvisio"]
        let_through(callers, 1)
        whose = {"key": UUID(hex=key.split("_")[1]), "tenant": tenant}
        assert wait_until(lambda: here.exchange.is_shared is True, 20)
        let_through(callers[:1], 20)
        # As above, one request may be forgiven.
        assert wait_until(lambda: here.rates.look(whose).levels[0].left <= 1, 20)


def test_with_valkey_killed_each_process_holds_the_bound_by_itself_and_they_join_again(
    settings: Settings, owner_db: Database, valkey: EmbeddedValkey
) -> None:
    through = settings.model_copy(update={"broker_url": SecretStr(valkey.start())})
    tenants = [make_tenant(owner_db, f"clinic {number}") for number in range(2)]
    keys = [make_key(owner_db, tenant) for tenant in tenants]
    with serving(through) as one, serving(through) as other:
        callers = [Caller(app.test_client(), keys[0], tenants[0]) for app in (one, other)]
        kill(valkey)
        assert [let_through([caller], 20) for caller in callers] == [OF_KEY, OF_KEY]
        exchanged(one, other)
        here: Services = one.extensions["poxvisio"]
        assert here.exchange.is_shared is False
        refused = callers[0].get("/v1/keys")
        assert (refused.status_code, kind(refused)) == (429, "rate-limited")
        valkey.start()
        callers = [Caller(app.test_client(), keys[1], tenants[1]) for app in (one, other)]
        assert let_through(callers, 1) == 2
        assert joined(one, other)
        assert let_through(callers[:1], 20) == OF_KEY - 2


def test_with_valkey_killed_too_much_waiting_is_still_turned_away(
    settings: Settings,
    owner_db: Database,
    app_db: Database,
    worker_db: Database,
    tenant: UUID,
    valkey: EmbeddedValkey,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("web.services._READ_AGAIN", 0.0)
    bounds = {"tenant_backlog_seconds": 60.0, "backlog_seconds": 120.0, "key_rate": 1000.0, "tenant_rate": 1000.0}
    away = settings.model_copy(update={"broker_url": SecretStr(valkey.start())})
    kill(valkey)
    with serving(away, **bounds) as app:
        clinic = Caller(app.test_client(), make_key(owner_db, tenant), tenant)
        other = make_tenant(owner_db, "another clinic")
        stranger = Caller(app.test_client(), make_key(owner_db, other), other)
        a_worker(owner_db, rate=25.0)
        taken_in = clinic.send([("a.jpg", JPEG)], {"priority": "bulk"})
        assert taken_in.status_code == 202
        submit_job(app_db, clinic.tenant, 2_900)
        recount(worker_db)
        refused = clinic.stream(io.BytesIO(JPEG), 900_000_000, "multipart/form-data; boundary=x")
        assert (refused.status_code, kind(refused)) == (429, "too-much-waiting")
        submit_job(app_db, clinic.tenant, 200)
        recount(worker_db)
        full = stranger.send([("a.jpg", JPEG)], {"priority": "bulk"})
        assert (full.status_code, kind(full)) == (503, "service-full")
        assert int(full.headers["Retry-After"]) > 0
