"""What metrics say of a database with work in it, of an empty one, and of one that is away."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import psycopg2
import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.engine import Engine

from cli.embedded.ports import free_port
from cli.embedded.processes import wait_until
from shared.database import Database, new_id
from shared.vocabulary import LANES, OUTCOMES
from tests.conftest import LOGIN_PASSWORDS, make_tenant
from tests.integration.ledger.factories import change, finish, submit_job, take
from tests.integration.ledger.test_backlog import a_worker
from worker.gauges import GAUGES, Reading

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "operations.md"


@pytest.fixture
def reader_url(web_url: str) -> str:
    name = "poxvisio_reader_login"
    return sa.make_url(web_url).set(username=name, password=LOGIN_PASSWORDS[name]).render_as_string(hide_password=False)


@pytest.fixture
def reader_db(clean: None, reader_url: str) -> Iterator[Database]:
    database = Database(reader_url, role="poxvisio_reader", pool_size=1)
    yield database
    database.close()


def figures(reading: Reading) -> dict[str, float]:
    """Return every sample by its name and its labels' values."""
    return {
        ".".join([sample.name.removeprefix("poxvisio_"), *sample.labels.values()]): sample.value
        for family in reading.collect()
        for sample in family.samples
    }


def test_every_series_is_there_before_the_first_photo(reader_db: Database) -> None:
    found = figures(Reading(reader_db))
    assert found["database_up"] == 1
    for lane in LANES:
        assert found[f"photos.{lane}.ready"] == found[f"oldest_ready_seconds.{lane}"] == 0
    assert all(found[f"results.{outcome}"] == 0 for outcome in OUTCOMES)
    for name in (
        "workers.ready",
        "photos_per_second",
        "deliveries.waiting",
        "deliveries.dead",
        "leases",
        "jobs.running",
    ):
        assert found[name] == 0
    assert "counted_seconds_ago" not in found  # nobody ever counted


def test_the_figures_are_those_of_all_tenants(
    reader_db: Database, owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    other = make_tenant(owner_db, "another clinic")
    submit_job(app_db, tenant, 3)
    submit_job(app_db, other, 150)
    finish(worker_db, take(worker_db, 1), outcome="rejected")
    taken = take(worker_db, 1)
    a_worker(owner_db, rate=25.0)
    change(owner_db, "UPDATE unit SET available_at = now() - interval '1 hour' WHERE state = 'ready' AND lane = 'bulk'")
    found = figures(Reading(reader_db))
    assert taken
    assert sum(found[f"photos.{lane}.{state}"] for lane in LANES for state in ("ready", "leased", "waiting")) == 150
    assert found["results.rejected"] == 3
    assert found["jobs.completed"] == 1
    assert 3600 <= found["oldest_ready_seconds.bulk"] < 3700
    assert found["workers.ready"] + found["workers.busy"] == 1
    assert found["photos_per_second"] == 25
    assert (found["leases"], found["leases_overdue"]) == (1, 0)
    change(owner_db, "UPDATE unit SET lease_until = now() - interval '1 second' WHERE state = 'leased'")
    assert figures(Reading(reader_db))["leases_overdue"] == 1


def test_webhooks_that_are_owed_due_and_given_up_are_counted(
    reader_db: Database, owner_db: Database, app_db: Database, tenant: UUID
) -> None:
    wants_all = "INSERT INTO endpoint (id, tenant_id, url, secret) VALUES (:id, :tenant, 'https://a.example', 's')"
    change(owner_db, wants_all, id=new_id(), tenant=tenant)
    for _ in range(3):
        submit_job(app_db, tenant, 1)
    change(owner_db, "UPDATE delivery SET next_at = now() + interval '1 hour'")
    found = figures(Reading(reader_db))
    assert (found["deliveries.waiting"], found["oldest_delivery_seconds"], found["endpoints.enabled"]) == (3, 0, 1)
    change(owner_db, "UPDATE delivery SET next_at = now() - interval '1 minute' WHERE event_seq = 1")
    change(owner_db, "UPDATE delivery SET state = 'dead' WHERE event_seq = 2")
    found = figures(Reading(reader_db))
    assert (found["deliveries.waiting"], found["deliveries.dead"]) == (2, 1)
    assert 60 <= found["oldest_delivery_seconds"] < 120


def test_one_statement_is_asked_for_all_and_not_again_at_once(reader_db: Database) -> None:
    now, sent = [100.0], []

    def note(_: object, __: object, statement: str, *___: object) -> None:
        sent.append(statement)

    sa.event.listen(Engine, "before_cursor_execute", note)
    try:
        reading = Reading(reader_db, clock=lambda: now[0])
        for _ in range(5):
            figures(reading)
        assert len(sent) == 1
        now[0] += 4.9
        assert figures(reading)["asked_seconds_ago"] == pytest.approx(4.9)
        now[0] += 0.2
        figures(reading)
        assert len(sent) == 2
    finally:
        sa.event.remove(Engine, "before_cursor_execute", note)


def test_a_statement_that_takes_long_is_asked_seldom(reader_db: Database) -> None:
    ticks = iter([0.0, 0.0, 2.0, 2.0, 30.0, 30.0, 41.9, 41.9, 42.1, 42.1, 44.1, 44.1])
    reading = Reading(reader_db, clock=lambda: next(ticks))
    assert figures(reading)["asking_seconds"] == 2.0
    assert figures(reading)["asked_seconds_ago"] == 28.0
    assert figures(reading)["asked_seconds_ago"] == pytest.approx(39.9)
    assert figures(reading)["asked_seconds_ago"] == 0.0


def test_no_series_has_a_name_in_it(
    reader_db: Database, owner_db: Database, app_db: Database, tenant: UUID, reader_url: str
) -> None:
    """Whatever is in the database: label values are all known beforehand."""
    submit_job(app_db, tenant, 2)
    change(owner_db, "INSERT INTO worker_node (name, state) VALUES ('host.example', 'ready')")
    known = {value for gauge in GAUGES for _, values in gauge.labels for value in values}
    for family in Reading(reader_db).collect():
        for sample in family.samples:
            assert set(sample.labels.values()) <= known
    columns = "SELECT string_agg(DISTINCT coalesce(first, '') || ' ' || coalesce(second, ''), ' ') AS told FROM gauge"
    with reader_db.transaction() as session:
        told = set(session.execute(sa.text(columns)).scalar_one().split())
    assert told <= {word for value in known for word in value.split()}


def allow(owner_url: str, connections: int) -> None:
    """Let the reader's login have so many connections; -1 for any number."""
    connection = psycopg2.connect(owner_url)
    with connection, connection.cursor() as cursor:
        cursor.execute(f"ALTER ROLE poxvisio_reader_login CONNECTION LIMIT {connections}")
    connection.close()


def test_a_database_that_is_away_is_said_and_comes_back(reader_db: Database, owner_url: str) -> None:
    now = [0.0]
    reading = Reading(reader_db, clock=lambda: now[0])
    allow(owner_url, 0)
    try:
        found = figures(reading)
        assert found["database_up"] == 0
        assert set(found) == {"database_up", "asked_seconds_ago", "asking_seconds"}
    finally:
        allow(owner_url, -1)
    assert figures(reading)["database_up"] == 0  # nobody asks again so soon
    now[0] += 6
    assert figures(reading)["database_up"] == 1


@pytest.fixture
def served(environment: dict[str, str], reader_url: str, clean: None, tmp_path: Path) -> Iterator[int]:
    """Run the process with nothing but its login, and return its port."""
    port = free_port()
    variables = {
        "DATABASE_URL": reader_url,
        "POXVISIO_METRICS_PORT": str(port),
        "PATH": os.environ["PATH"],
        "HOME": environment["HOME"],
    }
    log = tmp_path / "metrics.log"
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "worker.metrics"], cwd=ROOT, env=variables, stderr=out)
    assert wait_until(lambda: b"metrics_ready" in log.read_bytes() or process.poll() is not None, 60)
    assert process.poll() is None, log.read_text()
    yield port
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert reader_url not in log.read_text()


def test_the_process_serves_what_prometheus_reads_and_nothing_else(served: int) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{served}/metrics", timeout=30) as answer:
        families = {family.name for family in text_string_to_metric_families(answer.read().decode())}
    assert {f"poxvisio_{gauge.name}" for gauge in GAUGES if gauge.always} <= families
    for path in ("/", "/v1/jobs", "/metrics/../etc/passwd"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{served}{path}", timeout=30)


def test_a_silent_client_holds_up_no_scrape(served: int) -> None:
    with socket.create_connection(("127.0.0.1", served)) as silent:
        silent.sendall(b"GET /metrics HTTP/1.1\r\n")
        began = time.monotonic()
        with urllib.request.urlopen(f"http://127.0.0.1:{served}/metrics", timeout=30) as answer:
            assert answer.status == 200
        assert time.monotonic() - began < 30


def test_every_gauge_is_on_the_page_and_every_one_of_the_page_is_there() -> None:
    named = set(re.findall(r"`poxvisio_(\w+)", PAGE.read_text(encoding="utf-8")))
    there = {gauge.name for gauge in GAUGES} | {"database_up", "asked_seconds_ago", "asking_seconds"}
    logins = {"web_login", "worker_login", "reader_login", "app", "worker", "reader"}
    assert named - logins == there
