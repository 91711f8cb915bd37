"""What is answered while a part is away, and that nothing half done is left behind."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest

from cli.embedded.ports import free_port
from shared.settings import Settings
from tests.integration.web.conftest import JPEG, Caller
from web.app import create_app


class Interrupted:
    """A body of one photo during which something happens."""

    def __init__(self, happens: Callable[[], None]) -> None:
        self._happens, self._pieces = happens, [JPEG, b"tail"]
        self.length = len(JPEG) + 4

    def read(self, _: int) -> bytes:
        if len(self._pieces) == 1:
            self._happens()
        return self._pieces.pop(0) if self._pieces else b""


@pytest.fixture
def superuser(owner_url: str) -> Iterator["psycopg2.extensions.cursor"]:
    connection = psycopg2.connect(owner_url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        yield cursor
    connection.close()


@pytest.fixture
def lock_out(superuser: "psycopg2.extensions.cursor") -> Iterator[Callable[[], None]]:
    """Return what ends every connection of the web side and lets it open none."""

    def end() -> None:
        superuser.execute("ALTER ROLE poxvisio_web_login NOLOGIN")
        superuser.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'poxvisio_web_login'")

    yield end
    superuser.execute("ALTER ROLE poxvisio_web_login LOGIN")


def test_a_database_that_is_away_is_503(environment: dict[str, str], clinic: Caller) -> None:
    url = f"postgresql://nobody:nothing@127.0.0.1:{free_port()}/none"
    app = create_app(Settings.load({**environment, "DATABASE_URL": url}))
    caller = Caller(app.test_client(), clinic.key, clinic.tenant)
    for answer in (caller.send([("a.jpg", JPEG)]), caller.get("/v1/jobs")):
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.json is not None
        assert answer.json["type"].endswith("/problems/database-away")
    app.extensions["poxvisio"].close()


def test_a_database_lost_while_the_body_is_read_leaves_nothing(
    clinic: Caller, lock_out: Callable[[], None], objects: Callable[[], list[Path]], rows: Callable[[str], int]
) -> None:
    body = Interrupted(lock_out)
    answer = clinic.stream(body, body.length)
    assert answer.status_code == 503
    assert objects() == []
    assert rows("job") == 0


def test_a_storage_that_is_away_is_503(clinic: Caller, tmp_path: Path, nothing_half_done: Callable[[], None]) -> None:
    photos = tmp_path / "photos"
    photos.rename(tmp_path / "aside")
    photos.write_text("no folder")
    answer = clinic.send([("a.jpg", JPEG)], Idempotency_Key="once")
    assert answer.status_code == 503
    assert answer.json is not None
    assert answer.json["type"].endswith("/problems/storage-away")
    photos.unlink()
    (tmp_path / "aside").rename(photos)
    nothing_half_done()
    assert clinic.send([("a.jpg", JPEG)], Idempotency_Key="once").status_code == 202


def test_a_storage_lost_while_the_body_is_read_leaves_no_rows(
    clinic: Caller, tmp_path: Path, rows: Callable[[str], int]
) -> None:
    def lose() -> None:
        (tmp_path / "photos").rename(tmp_path / "aside")
        (tmp_path / "photos").write_text("no folder")

    body = Interrupted(lose)
    answer = clinic.stream(body, body.length, Idempotency_Key="once")
    assert answer.status_code == 503
    assert (rows("job"), rows("idempotency_key")) == (0, 0)


def test_a_broker_that_is_away_delays_and_refuses_nothing(
    environment: dict[str, str], clinic: Caller, rows: Callable[[str], int]
) -> None:
    app = create_app(Settings.load({**environment, "REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}))
    caller = Caller(app.test_client(), clinic.key, clinic.tenant)
    assert caller.send([("a.jpg", JPEG)]).status_code == 202
    assert rows("job") == 1
    ready = app.test_client().get("/readyz").json
    assert ready is not None
    assert ready["broker"]["status"] == "degraded"
    app.extensions["poxvisio"].close()


def test_a_missing_bundle_refuses_no_job(environment: dict[str, str], clinic: Caller, tmp_path: Path) -> None:
    app = create_app(Settings.load({**environment, "MODEL": str(tmp_path / "none")}))
    caller = Caller(app.test_client(), clinic.key, clinic.tenant)
    assert caller.send([("a.jpg", JPEG)]).status_code == 202
    assert caller.send([("a.jpg", JPEG)], {"model": "demo"}).status_code == 503
    assert caller.get("/v1/models").status_code == 503
    ready = app.test_client().get("/readyz")
    assert ready.status_code == 503
    assert ready.json is not None
    assert ready.json["bundle"]["status"] == "down"
    assert str(tmp_path) not in ready.text
    assert ready.json["database"]["status"] == ready.json["storage"]["status"] == "ok"
    assert app.test_client().get("/livez").status_code == 200
    app.extensions["poxvisio"].close()


def test_a_commit_that_failed_is_not_taken_for_a_job(
    clinic: Caller, superuser: "psycopg2.extensions.cursor", rows: Callable[[str], int]
) -> None:
    superuser.execute("""
        CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
          $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER dying AFTER INSERT ON job DEFERRABLE INITIALLY DEFERRED
          FOR EACH ROW EXECUTE FUNCTION die();
    """)
    try:
        answer = clinic.send([("a.jpg", JPEG)])
    finally:
        superuser.execute("DROP TRIGGER dying ON job; DROP FUNCTION die()")
    assert answer.status_code == 503
    assert rows("job") == 0


def test_a_commit_whose_answer_was_lost_is_a_job(
    clinic: Caller,
    superuser: "psycopg2.extensions.cursor",
    owner_url: str,
    rows: Callable[[str], int],
    objects: Callable[[], list[Path]],
) -> None:
    """A commit waits for a replica that does not exist, has happened all the same, and loses its connection then."""

    def cut() -> None:
        connection = psycopg2.connect(owner_url)
        connection.autocommit = True
        end = time.monotonic() + 60
        with connection.cursor() as cursor:
            while time.monotonic() < end:
                cursor.execute("SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
                if found := cursor.fetchone():
                    cursor.execute("ALTER SYSTEM RESET synchronous_standby_names")
                    cursor.execute("SELECT pg_terminate_backend(%s)", found)
                    cursor.execute("SELECT pg_reload_conf()")
                    break
        connection.close()

    def delay_commits() -> None:
        superuser.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        superuser.execute("SELECT pg_reload_conf()")
        end = time.monotonic() + 30
        shown = [""]
        while shown != ["nobody"] and time.monotonic() < end:
            superuser.execute("SHOW synchronous_standby_names")
            shown = list(superuser.fetchone() or [""])

    cutter = threading.Thread(target=cut)
    cutter.start()
    try:
        body = Interrupted(delay_commits)
        answer = clinic.stream(body, body.length, Idempotency_Key="once")
    finally:
        cutter.join()
        superuser.execute("ALTER SYSTEM RESET synchronous_standby_names")
        superuser.execute("SELECT pg_reload_conf()")
    assert answer.status_code == 202
    assert (rows("job"), len(objects())) == (1, 1)
    assert answer.json is not None
    assert clinic.get(f"/v1/jobs/{answer.json['id']}").status_code == 200
