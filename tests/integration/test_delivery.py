"""The deliverer as a process against real receivers: what is owed arrives, under one id, whatever happens."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from standardwebhooks.webhooks import Webhook

from shared import endpoints, events, ids, webhooks
from shared.database import Database, new_id
from shared.endpoints import DeliveryView
from shared.errors import Conflict, NotFound
from shared.events import NewEvent
from shared.settings import Settings
from shared.signing import Keyring
from shared.tables import Delivery, Endpoint
from tests.conftest import make_tenant
from tests.integration.ledger.factories import change
from worker import deliveries
from worker.deliveries import Owed, Tried
from worker.endpoint_health import Patience, Verdict

ROOT = Path(__file__).parents[2]
Reply = Callable[["Receiver", BaseHTTPRequestHandler], None]


@dataclass
class Received:
    """One request as it came in."""

    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


@dataclass
class Receiver:
    """An endpoint of a clinic, on loopback; ``reply`` decides how it behaves."""

    reply: Reply
    requests: list[Received] = field(default_factory=list)
    open_now: int = 0
    most_open: int = 0
    port: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks?key=of-the-clinic"

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        length = int(request.headers["content-length"])
        received = Received({k.lower(): v for k, v in request.headers.items()}, request.rfile.read(length))
        with self._lock:
            self.requests.append(received)
            self.open_now += 1
            self.most_open = max(self.most_open, self.open_now)
        try:
            self.reply(self, request)
        finally:
            with self._lock:
                self.open_now -= 1


def answering(*statuses: int, headers: dict[str, str] | None = None) -> Reply:
    """Answer with these statuses in turn, the last one for ever."""

    def reply(receiver: Receiver, request: BaseHTTPRequestHandler) -> None:
        request.send_response(statuses[min(len(receiver.requests), len(statuses)) - 1])
        for name, value in (headers or {}).items():
            request.send_header(name, value)
        request.send_header("content-length", "2")
        request.end_headers()
        request.wfile.write(b"ok")

    return reply


@pytest.fixture
def receive() -> Iterator[Callable[[Reply], Receiver]]:
    """Return a function that starts a receiver."""
    servers: list[ThreadingHTTPServer] = []

    def start(reply: Reply) -> Receiver:
        receiver = Receiver(reply)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.handle(self)

            def log_message(self, *_: Any) -> None:
                return

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # receivers here break off on purpose
        receiver.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
        return receiver

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def deliverer(
    environment: dict[str, str], worker_url: str, tmp_path: Path
) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Return a function that starts a deliverer which may reach these receivers."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*receivers: Receiver, **more: str) -> subprocess.Popen[bytes]:
        variables = {
            **environment,
            "DATABASE_URL": worker_url,
            "POXVISIO_WEBHOOK_LOOPBACK": ",".join(f"127.0.0.1:{receiver.port}" for receiver in receivers),
            "POXVISIO_WEBHOOK_SCHEDULE": "0.05,0.05,0.05",
            "POXVISIO_WEBHOOK_TIMEOUT": "2",
            "PATH": os.environ["PATH"],
            **more,
        }
        log = (tmp_path / f"deliverer-{len(processes)}.log").open("wb")
        command = [sys.executable, "-m", "worker.delivery"]
        process = subprocess.Popen(command, cwd=ROOT, env=variables, stderr=log, stdout=log)
        log.close()
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def log_of(tmp_path: Path, number: int = 0) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / f"deliverer-{number}.log").read_text().splitlines()]


def until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, f"never came to pass: {what}"
        time.sleep(0.02)


@dataclass
class Clinic:
    """A tenant with its endpoints, as the web side handles them."""

    db: Database
    tenant: UUID
    keyring: Keyring

    def endpoint(self, url: str, kinds: tuple[str, ...] = ()) -> tuple[UUID, str]:
        with self.db.transaction(self.tenant) as session:
            made, secret = webhooks.create_endpoint(session, self.keyring, self.tenant, url, kinds)
        return made.id, secret

    def happens(self, kind: str = "job.started", times: int = 1) -> list[str]:
        rows = [NewEvent(self.tenant, kind, new_id(), 0, {"total": 3}) for _ in range(times)]
        with self.db.transaction(self.tenant) as session:
            return [ids.text("event", event.id) for event in events.record(session, rows)]

    def log(self, endpoint_id: UUID) -> list[DeliveryView]:
        """All deliveries, oldest first, with what was answered."""
        with self.db.transaction(self.tenant) as session:
            found = endpoints.deliveries(session, endpoint_id, limit=1000)[::-1]
            return [endpoints.delivery(session, item.id) for item in found]

    def states(self, endpoint_id: UUID) -> list[str]:
        return [owed.state for owed in self.log(endpoint_id)]

    def row(self, endpoint_id: UUID) -> Endpoint:
        with self.db.transaction(self.tenant) as session:
            return endpoints.get(session, endpoint_id)

    def feed(self) -> list[webhooks.Recorded]:
        with self.db.transaction(self.tenant) as session:
            return events.since(session, 0, 1000)


@pytest.fixture
def clinic(app_db: Database, tenant: UUID, settings: Settings) -> Clinic:
    return Clinic(app_db, tenant, Keyring.from_settings(settings))


Start = Callable[..., subprocess.Popen[bytes]]
Receive = Callable[[Reply], Receiver]


def test_an_event_arrives_signed_so_that_the_reference_library_agrees(
    clinic: Clinic, receive: Receive, deliverer: Start, tmp_path: Path
) -> None:
    receiver = receive(answering(200))
    endpoint_id, secret = clinic.endpoint(receiver.url)
    deliverer(receiver)
    first, second = clinic.happens(times=2)
    until(lambda: clinic.states(endpoint_id) == ["delivered"] * 2, "both delivered")
    by_id = {received.id: Webhook(secret).verify(received.body, received.headers) for received in receiver.requests}
    assert set(by_id) == {first, second}
    assert by_id[first]["data"]["previous_id"] is None
    assert by_id[second]["data"]["previous_id"] == first
    assert by_id[second]["data"]["sequence"] == 2
    assert by_id[second]["data"]["use"] == "research-only"
    assert receiver.requests[0].headers["content-type"] == "application/json"
    (attempt,) = clinic.log(endpoint_id)[0].attempts
    assert (attempt.number, attempt.status, attempt.error, attempt.response) == (1, 200, None, b"ok")
    until(lambda: sum(line["event"] == "delivery_done" for line in log_of(tmp_path)) == 2, "both logged")
    text = (tmp_path / "deliverer-0.log").read_text()
    assert "of-the-clinic" not in text
    assert secret not in text


def test_a_failure_is_tried_again_under_the_same_id_with_the_same_bytes(
    clinic: Clinic, receive: Receive, deliverer: Start
) -> None:
    receiver = receive(answering(500, 503, 200))
    endpoint_id, secret = clinic.endpoint(receiver.url)
    deliverer(receiver)
    (event,) = clinic.happens()
    until(lambda: clinic.states(endpoint_id) == ["delivered"], "delivered")
    assert [received.id for received in receiver.requests] == [event] * 3
    assert len({received.body for received in receiver.requests}) == 1
    for received in receiver.requests:
        Webhook(secret).verify(received.body, received.headers)
    assert [attempt.status for attempt in clinic.log(endpoint_id)[0].attempts] == [500, 503, 200]
    assert clinic.row(endpoint_id).failing_since is None


def test_a_delivery_is_dead_when_the_schedule_is_exhausted_and_lives_again_when_asked(
    clinic: Clinic, receive: Receive, deliverer: Start
) -> None:
    receiver = receive(answering(500, 500, 500, 500, 200))
    endpoint_id, _ = clinic.endpoint(receiver.url)
    deliverer(receiver)
    (event,) = clinic.happens()
    until(lambda: clinic.states(endpoint_id) == ["dead"], "dead")
    assert len(receiver.requests) == 4
    assert clinic.row(endpoint_id).failing_since is not None
    with clinic.db.transaction(clinic.tenant) as session:
        assert endpoints.recover(session, endpoint_id, datetime(2026, 1, 1, tzinfo=UTC), preview=True) == 1
        endpoints.redeliver(session, clinic.log(endpoint_id)[0].id)
    until(lambda: clinic.states(endpoint_id) == ["delivered"], "delivered after all")
    assert {received.id for received in receiver.requests} == {event}
    assert [attempt.number for attempt in clinic.log(endpoint_id)[0].attempts] == [1, 2, 3, 4, 5]


def test_what_was_given_up_is_recovered_together(clinic: Clinic, receive: Receive, deliverer: Start) -> None:
    receiver = receive(answering(*[500] * 12, 200))
    endpoint_id, _ = clinic.endpoint(receiver.url)
    deliverer(receiver)
    clinic.happens(times=3)
    until(lambda: clinic.states(endpoint_id) == ["dead"] * 3, "all dead")
    with clinic.db.transaction(clinic.tenant) as session:
        assert endpoints.recover(session, endpoint_id, datetime.now(UTC) + timedelta(hours=1), preview=False) == 0
        assert endpoints.recover(session, endpoint_id, datetime(2026, 1, 1, tzinfo=UTC), preview=False) == 3
    until(lambda: clinic.states(endpoint_id) == ["delivered"] * 3, "all recovered")


def test_events_from_before_an_endpoint_are_replayed_when_asked(
    clinic: Clinic, receive: Receive, deliverer: Start
) -> None:
    receiver = receive(answering(200))
    missed = clinic.happens("job.completed", 1) + clinic.happens("job.started", 2)
    endpoint_id, _ = clinic.endpoint(receiver.url, ("job.started",))
    with clinic.db.transaction(clinic.tenant) as session:
        since = datetime(2026, 1, 1, tzinfo=UTC)
        assert endpoints.replay(session, endpoint_id, since, preview=True) == 2
        assert endpoints.replay(session, endpoint_id, since, preview=False) == 2
        assert endpoints.replay(session, endpoint_id, since, preview=False) == 0
    deliverer(receiver)
    until(lambda: clinic.states(endpoint_id) == ["delivered"] * 2, "replayed")
    assert {received.id for received in receiver.requests} == set(missed[1:])


def _stall(_: Receiver, request: BaseHTTPRequestHandler) -> None:
    request.rfile.read(1)  # until the deliverer hangs up


def _drip(_: Receiver, request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        request.wfile.write(b"x: y\r\n")
        request.wfile.flush()
        time.sleep(0.05)


@pytest.mark.parametrize("reply", [_stall, _drip])
def test_a_receiver_that_holds_on_is_cut_at_the_deadline(
    reply: Reply, clinic: Clinic, receive: Receive, deliverer: Start
) -> None:
    receiver = receive(reply)
    endpoint_id, _ = clinic.endpoint(receiver.url)
    deliverer(receiver, POXVISIO_WEBHOOK_TIMEOUT="0.4", POXVISIO_WEBHOOK_SCHEDULE="3600")
    clinic.happens()
    until(lambda: clinic.log(endpoint_id)[0].attempts, "an attempt is recorded")
    (owed,) = clinic.log(endpoint_id)
    assert owed.state == "waiting"
    assert (owed.attempts[0].status, owed.attempts[0].error) == (None, "timeout")


def _stall_after_200(_: Receiver, request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart")
    request.rfile.read(1)


def test_a_list_leaves_out_what_receivers_answered(clinic: Clinic, receive: Receive, deliverer: Start) -> None:
    receiver = receive(answering(200))
    endpoint_id, _ = clinic.endpoint(receiver.url)
    deliverer(receiver)
    clinic.happens()
    until(lambda: clinic.states(endpoint_id) == ["delivered"], "delivered")
    assert clinic.log(endpoint_id)[0].attempts[0].response == b"ok"
    with clinic.db.transaction(clinic.tenant) as session:
        assert endpoints.deliveries(session, endpoint_id, limit=1)[0].attempts[0].response == b""


def test_a_200_whose_body_stalls_is_a_success(clinic: Clinic, receive: Receive, deliverer: Start) -> None:
    receiver = receive(_stall_after_200)
    endpoint_id, _ = clinic.endpoint(receiver.url)
    deliverer(receiver)
    clinic.happens()
    until(lambda: clinic.states(endpoint_id) == ["delivered"], "delivered")
    (attempt,) = clinic.log(endpoint_id)[0].attempts
    assert (attempt.status, attempt.response) == (200, b"part")


def test_a_redirect_is_a_failure_and_nobody_goes_there(clinic: Clinic, receive: Receive, deliverer: Start) -> None:
    target = receive(answering(200))
    receiver = receive(answering(307, headers={"location": target.url}))
    endpoint_id, _ = clinic.endpoint(receiver.url)
    deliverer(receiver, target)
    clinic.happens()
    until(lambda: clinic.states(endpoint_id) == ["dead"], "given up")
    assert [attempt.status for attempt in clinic.log(endpoint_id)[0].attempts] == [307] * 4
    assert target.requests == []


def test_an_address_that_is_not_allowed_is_a_failure_its_owner_can_read(
    clinic: Clinic, receive: Receive, deliverer: Start
) -> None:
    open_to_all, closed = receive(answering(200)), receive(answering(200))
    denied, _ = clinic.endpoint(closed.url)
    other, _ = clinic.endpoint(open_to_all.url)
    deliverer(open_to_all)
    clinic.happens()
    until(lambda: clinic.states(denied) == ["dead"], "given up")
    until(lambda: clinic.states(other) == ["delivered"], "the other is not harmed")
    assert closed.requests == []
    assert {attempt.error for attempt in clinic.log(denied)[0].attempts} == {"address not allowed"}


def test_410_disables_the_endpoint_tells_the_others_and_keeps_its_events(
    clinic: Clinic, receive: Receive, deliverer: Start
) -> None:
    gone, well = receive(answering(410, 200)), receive(answering(200))
    retired, _ = clinic.endpoint(gone.url, ("job.started",))
    healthy, _ = clinic.endpoint(well.url)
    deliverer(gone, well)
    clinic.happens()
    until(lambda: clinic.row(retired).state == "disabled", "disabled")
    assert clinic.row(retired).state_reason == "the receiver answered 410 Gone"
    until(lambda: clinic.states(healthy) == ["delivered"] * 2, "the other endpoint hears of it")
    notice = next(json.loads(r.body) for r in well.requests if b"endpoint.disabled" in r.body)
    assert notice["data"]["endpoint"] == ids.text("endpoint", retired)
    clinic.happens()
    until(lambda: clinic.states(healthy) == ["delivered"] * 3, "what follows reaches the other")
    assert clinic.states(retired) == ["waiting"] * 2
    assert len(gone.requests) == 1
    with clinic.db.transaction(clinic.tenant) as session:
        endpoints.update(session, retired, state="enabled")
    until(lambda: clinic.states(retired) == ["delivered"] * 2, "what was kept goes out")


def test_a_receiver_that_says_slow_down_is_left_alone_as_long_as_it_asks(
    clinic: Clinic, receive: Receive, deliverer: Start
) -> None:
    receiver = receive(answering(429, 200, headers={"retry-after": "3000"}))
    endpoint_id, _ = clinic.endpoint(receiver.url)
    with clinic.db.transaction(clinic.tenant) as session:
        session.execute(sa.text("UPDATE endpoint SET cap = 1"))
    deliverer(receiver)
    clinic.happens(times=3)
    until(lambda: clinic.row(endpoint_id).open_until is not None, "a pause")
    first, *others = clinic.log(endpoint_id)
    assert first.next_at is not None
    assert timedelta(seconds=2900) < first.next_at - first.attempts[0].started_at < timedelta(seconds=3100)
    assert [owed.attempts for owed in others] == [(), ()]
    with clinic.db.transaction(clinic.tenant) as session:
        sent = endpoints.send_test(session, endpoint_id)
    until(lambda: clinic.log(endpoint_id)[-1].state == "delivered", "the owner's own ping goes out at once")
    assert sent.kind == "ping"


def test_both_secrets_sign_while_one_is_being_replaced(clinic: Clinic, receive: Receive, deliverer: Start) -> None:
    receiver = receive(answering(200))
    endpoint_id, old = clinic.endpoint(receiver.url)
    with clinic.db.transaction(clinic.tenant) as session:
        new = endpoints.rotate_secret(session, clinic.keyring, endpoint_id)
    deliverer(receiver)
    clinic.happens()
    until(lambda: clinic.states(endpoint_id) == ["delivered"], "delivered")
    (received,) = receiver.requests
    for secret in (old, new):
        Webhook(secret).verify(received.body, received.headers)
    with clinic.db.transaction(clinic.tenant) as session:
        session.execute(sa.text("UPDATE endpoint SET previous_until = now() - interval '1 second'"))
    clinic.happens()
    until(lambda: clinic.states(endpoint_id) == ["delivered"] * 2, "delivered")
    assert len(receiver.requests[1].headers["webhook-signature"].split(" ")) == 1
    Webhook(new).verify(receiver.requests[1].body, receiver.requests[1].headers)


def test_a_deliverer_killed_after_the_receiver_had_it_sends_it_again_under_the_same_id(
    clinic: Clinic, owner_db: Database, receive: Receive, deliverer: Start
) -> None:
    held = threading.Event()

    def reply(receiver: Receiver, request: BaseHTTPRequestHandler) -> None:
        if len(receiver.requests) == 1:
            held.wait(60)
        answering(200)(receiver, request)

    receiver = receive(reply)
    endpoint_id, secret = clinic.endpoint(receiver.url)
    first = deliverer(receiver, POXVISIO_WEBHOOK_TIMEOUT="30")
    (event,) = clinic.happens()
    until(lambda: receiver.requests, "the receiver has it")
    first.kill()
    first.wait()
    held.set()
    assert clinic.states(endpoint_id) == ["leased"]
    with owner_db.transaction() as session:
        session.execute(sa.text("UPDATE delivery SET lease_until = now() - interval '1 second'"))
    deliverer(receiver)
    until(lambda: clinic.states(endpoint_id) == ["delivered"], "delivered by the next")
    assert [received.id for received in receiver.requests] == [event, event]
    assert receiver.requests[0].body == receiver.requests[1].body
    Webhook(secret).verify(receiver.requests[1].body, receiver.requests[1].headers)
    lost, told = clinic.log(endpoint_id)[0].attempts
    assert (lost.error, lost.status) == (deliveries.LOST, None)
    assert (told.number, told.status) == (2, 200)


def test_sigterm_finishes_what_is_in_flight_and_exits_with_0(
    clinic: Clinic, receive: Receive, deliverer: Start, tmp_path: Path
) -> None:
    held = threading.Event()

    def reply(receiver: Receiver, request: BaseHTTPRequestHandler) -> None:
        held.wait(60)
        answering(200)(receiver, request)

    receiver = receive(reply)
    endpoint_id, _ = clinic.endpoint(receiver.url)
    process = deliverer(receiver, POXVISIO_WEBHOOK_TIMEOUT="30")
    clinic.happens(times=3)
    until(lambda: len(receiver.requests) == 3, "three in flight")
    process.send_signal(signal.SIGTERM)
    clinic.happens()
    held.set()
    assert process.wait(60) == 0
    assert clinic.states(endpoint_id) == ["delivered"] * 3 + ["waiting"]
    assert log_of(tmp_path)[-1]["event"] == "deliverer_stopped"


def test_no_endpoint_gets_more_at_once_than_its_cap_from_two_deliverers(
    clinic: Clinic, receive: Receive, deliverer: Start
) -> None:
    def reply(receiver: Receiver, request: BaseHTTPRequestHandler) -> None:
        time.sleep(0.03)
        answering(200)(receiver, request)

    slow, quick = receive(reply), receive(answering(200))
    capped, _ = clinic.endpoint(slow.url)
    other, _ = clinic.endpoint(quick.url)
    clinic.happens(times=60)
    deliverer(slow, quick)
    deliverer(slow, quick)
    until(lambda: clinic.states(capped) == ["delivered"] * 60, "all delivered")
    until(lambda: clinic.states(other) == ["delivered"] * 60, "all delivered to the other")
    assert slow.most_open <= 4
    assert len(slow.requests) == len({received.id for received in slow.requests}) == 60


def test_the_deliverer_outlives_the_database_going_away(
    clinic: Clinic, owner_db: Database, receive: Receive, deliverer: Start, tmp_path: Path
) -> None:
    receiver = receive(answering(200))
    endpoint_id, _ = clinic.endpoint(receiver.url)
    process = deliverer(receiver)
    clinic.happens()
    until(lambda: clinic.states(endpoint_id) == ["delivered"], "the first delivered")
    with owner_db.transaction() as session:
        session.execute(sa.text("SET ROLE NONE"))
        session.execute(sa.text("ALTER ROLE poxvisio_worker_login NOLOGIN"))
        session.execute(
            sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'poxvisio_worker_login'")
        )
    try:
        until(lambda: any(line["event"] == "database_away" for line in log_of(tmp_path)), "it notices")
        clinic.happens()
    finally:
        with owner_db.transaction() as session:
            session.execute(sa.text("SET ROLE NONE"))
            session.execute(sa.text("ALTER ROLE poxvisio_worker_login LOGIN"))
    until(lambda: clinic.states(endpoint_id) == ["delivered"] * 2, "the second delivered")
    assert process.poll() is None


def test_a_wrong_setting_stops_the_deliverer_with_one_line_that_names_it(deliverer: Start, tmp_path: Path) -> None:
    assert deliverer(SECRET_KEY="short").wait(60) == 2
    assert (tmp_path / "deliverer-0.log").read_text() == (
        "poxvisio deliverer: SECRET_KEY must have at least 32 characters\n"
    )


# The ledger's own rules, without a process.

NOTHING = Tried(datetime(2026, 11, 23, tzinfo=UTC), 0.1, 500, None, b"")


def claim(worker_db: Database, limit: int = 10, lease: float = 45.0) -> list[Owed]:
    with worker_db.transaction() as session:
        return deliveries.claim(session, limit, lease)


def settle(worker_db: Database, owed: Owed, verdict: Verdict, patience: Patience | None = None) -> bool:
    with worker_db.transaction() as session:
        return deliveries.settle(session, owed, NOTHING, verdict, patience or Patience())


@pytest.mark.parametrize("verdict", [Verdict("delivered"), Verdict("dead", disable="410"), Verdict("waiting", 5, 5)])
def test_a_completion_after_the_lease_was_lost_writes_nothing(
    verdict: Verdict, clinic: Clinic, worker_db: Database
) -> None:
    endpoint_id, _ = clinic.endpoint("https://clinic.example/")
    clinic.happens()
    (late,) = claim(worker_db, lease=-1)
    with worker_db.transaction() as session:
        assert deliveries.reap(session, 10) == 1
    before, row = clinic.log(endpoint_id), vars(clinic.row(endpoint_id)).copy()
    assert not settle(worker_db, late, verdict)
    (again,) = claim(worker_db)
    assert not settle(worker_db, late, verdict)
    assert clinic.states(endpoint_id) == ["leased"]
    assert clinic.log(endpoint_id)[0].attempts == before[0].attempts
    assert [event.kind for event in clinic.feed()] == ["job.started"]
    after = vars(clinic.row(endpoint_id))
    assert {k: v for k, v in after.items() if k[0] != "_"} == {k: v for k, v in row.items() if k[0] != "_"}
    assert again.fence > late.fence
    assert settle(worker_db, again, Verdict("delivered"))
    assert clinic.states(endpoint_id) == ["delivered"]


def test_a_redelivery_asked_for_while_an_attempt_is_under_way_takes_over(clinic: Clinic, worker_db: Database) -> None:
    endpoint_id, _ = clinic.endpoint("https://clinic.example/")
    clinic.happens()
    (owed,) = claim(worker_db)
    with clinic.db.transaction(clinic.tenant) as session:
        assert endpoints.redeliver(session, owed.id).state == "waiting"
    assert not settle(worker_db, owed, Verdict("dead"))
    assert clinic.states(endpoint_id) == ["waiting"]


def test_a_lease_that_ran_out_on_the_last_attempt_ends_the_delivery(clinic: Clinic, worker_db: Database) -> None:
    endpoint_id, _ = clinic.endpoint("https://clinic.example/")
    clinic.happens()
    for expected in ("waiting", "dead"):
        claim(worker_db, lease=-1)
        with worker_db.transaction() as session:
            assert deliveries.reap(session, 2) == 1
        assert clinic.states(endpoint_id) == [expected]


def test_attempts_are_numbered_on_though_the_schedule_begins_anew(clinic: Clinic, worker_db: Database) -> None:
    endpoint_id, _ = clinic.endpoint("https://clinic.example/")
    clinic.happens()
    for place in (1, 2, 1, 2):
        if clinic.states(endpoint_id) == ["dead"]:
            with clinic.db.transaction(clinic.tenant) as session:
                endpoints.redeliver(session, clinic.log(endpoint_id)[0].id)
        (owed,) = claim(worker_db, lease=-1)
        assert owed.attempt == place
        if place == 1:
            with worker_db.transaction() as session:
                assert deliveries.reap(session, 2) == 1
        else:
            assert settle(worker_db, owed, Verdict("dead"))
    assert [attempt.number for attempt in clinic.log(endpoint_id)[0].attempts] == [1, 2, 3, 4]


def test_a_long_queue_of_one_endpoint_does_not_hold_up_the_others(clinic: Clinic, worker_db: Database) -> None:
    busy, _ = clinic.endpoint("https://busy.example/")
    clinic.happens(times=200)
    others = [clinic.endpoint("https://quiet.example/", ("job.completed",))[0] for _ in range(10)]
    clinic.happens("job.completed")
    claimed = claim(worker_db, limit=100)
    assert sorted(owed.endpoint_id for owed in claimed) == sorted([busy] * 4 + others)
    assert claim(worker_db, limit=100) == []


def test_a_tenant_with_many_dead_receivers_holds_up_no_other(
    clinic: Clinic, worker_db: Database, owner_db: Database, settings: Settings
) -> None:
    other = Clinic(clinic.db, make_tenant(owner_db, "another clinic"), Keyring.from_settings(settings))
    for number in range(150):
        clinic.endpoint(f"https://dead-{number}.example/")
    clinic.happens()
    theirs, _ = other.endpoint("https://quick.example/")
    other.happens()
    claimed = claim(worker_db, limit=128)
    assert theirs in {owed.endpoint_id for owed in claimed}
    assert len(claimed) == 64 + 1
    assert claim(worker_db, limit=128) == []


def test_slow_receivers_of_a_tenant_hold_up_none_of_its_own(
    clinic: Clinic, worker_db: Database, owner_db: Database
) -> None:
    for number in range(100):
        clinic.endpoint(f"https://slow-{number}.example/", ("job.started",))
    clinic.happens()
    for _ in range(2):
        taken = len(claim(worker_db, limit=128))
        assert taken in (64, 36)
        # A second has passed for them.
        change(owner_db, "UPDATE delivery SET lease_until = lease_until - interval '2 s' WHERE state = 'leased'")
    well, _ = clinic.endpoint("https://well.example/", ("job.completed",))
    clinic.happens("job.completed")
    assert {owed.endpoint_id for owed in claim(worker_db, limit=128)} == {well}


def test_a_hundred_receivers_that_hang_delay_no_other_of_their_tenant(
    clinic: Clinic, receive: Receive, deliverer: Start
) -> None:
    """While the one hundred hold on, and before any of them has been given up, the others get event after event."""
    released = threading.Event()

    def hang(receiver: Receiver, request: BaseHTTPRequestHandler) -> None:
        released.wait(60)
        answering(200)(receiver, request)

    hanging, well = receive(hang), receive(answering(200))
    for number in range(100):
        clinic.endpoint(f"{hanging.url}&n={number}")
    ours = [clinic.endpoint(f"{well.url}&n={number}")[0] for number in range(20)]
    deliverer(hanging, well, POXVISIO_WEBHOOK_TIMEOUT="60")
    try:
        for number in (1, 2, 3):
            clinic.happens()
            until(lambda number=number: len(well.requests) == 20 * number, f"event {number} at all that are well")  # type: ignore[misc]
        assert hanging.open_now >= 100
    finally:
        released.set()
    until(lambda: [clinic.states(endpoint) for endpoint in ours] == [["delivered"] * 3] * 20, "all settled")


def test_endpoints_that_fail_or_are_slow_get_one_at_a_time_and_a_share_of_their_own(
    clinic: Clinic, worker_db: Database, owner_db: Database
) -> None:
    failing = [clinic.endpoint(f"https://failing-{number}.example/")[0] for number in range(40)]
    change(owner_db, "UPDATE endpoint SET failing_since = now()")
    slow, _ = clinic.endpoint("https://slow.example/")
    wells = [clinic.endpoint(f"https://well-{number}.example/")[0] for number in range(10)]
    clinic.happens(times=4)
    with worker_db.transaction() as session:
        claimed = deliveries.claim(session, 128, 45.0, [slow])
    found = [owed.endpoint_id for owed in claimed]
    suspects = [each for each in found if each in {*failing, slow}]
    assert len(suspects) == len(set(suspects)) == 32
    assert all(found.count(well) == 4 for well in wells)


def test_two_replays_at_once_owe_each_event_once(clinic: Clinic) -> None:
    clinic.happens(times=5)
    endpoint_id, _ = clinic.endpoint("https://clinic.example/")
    both_there = threading.Barrier(2)

    def replay() -> int:
        with clinic.db.transaction(clinic.tenant) as session:
            both_there.wait(20)
            return endpoints.replay(session, endpoint_id, datetime(2026, 1, 1, tzinfo=UTC), preview=False)

    with ThreadPoolExecutor(2) as pool:
        owed = [future.result() for future in [pool.submit(replay), pool.submit(replay)]]
    assert sum(owed) == 5
    assert len(clinic.log(endpoint_id)) == 5


def test_four_claimers_at_once_stay_below_the_cap(clinic: Clinic, worker_db: Database) -> None:
    endpoint_id, _ = clinic.endpoint("https://clinic.example/")
    clinic.happens(times=50)
    threads = [threading.Thread(target=claim, args=(worker_db,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clinic.states(endpoint_id).count("leased") == 4


def test_an_endpoint_with_nothing_but_failures_is_warned_once_and_then_disabled(
    clinic: Clinic, worker_db: Database, owner_db: Database
) -> None:
    endpoint_id, _ = clinic.endpoint("https://clinic.example/", ("job.started",))
    clinic.happens(times=6)

    def fail(verdict: Verdict, *, hours: float) -> None:
        with owner_db.transaction() as session:
            session.execute(
                sa.text(
                    "UPDATE endpoint SET failing_since = now() - make_interval(secs => :s) WHERE failing_since < now()"
                ),
                {"s": hours * 3600},
            )
        (owed,) = claim(worker_db, limit=1)
        assert settle(worker_db, owed, verdict)

    def told() -> list[str]:
        return [event.kind for event in clinic.feed() if event.kind.startswith("endpoint.")]

    fail(Verdict("dead"), hours=0)
    assert clinic.row(endpoint_id).failing_since is not None
    fail(Verdict("dead"), hours=59)
    assert told() == []
    fail(Verdict("dead"), hours=61)
    fail(Verdict("dead"), hours=62)
    assert told() == ["endpoint.warning"]
    assert "will be disabled in 59 hours" in str(clinic.row(endpoint_id).state_reason)
    fail(Verdict("delivered"), hours=63)
    assert clinic.row(endpoint_id).failing_since is None
    assert clinic.row(endpoint_id).state_reason is None
    fail(Verdict("dead"), hours=0)
    clinic.happens()
    fail(Verdict("dead"), hours=121)
    assert told() == ["endpoint.warning", "endpoint.disabled"]
    assert clinic.row(endpoint_id).state == "disabled"
    assert clinic.row(endpoint_id).state_reason == "nothing but failures for 121 hours"


def test_endpoints_are_managed_by_their_owner_alone(clinic: Clinic, owner_db: Database) -> None:
    endpoint_id, secret = clinic.endpoint("https://clinic.example/", ("job.completed",))
    (event,) = clinic.happens("job.completed")
    with clinic.db.transaction(clinic.tenant) as session:
        changed = endpoints.update(
            session, endpoint_id, url="https://other.example/", kinds=("ping",), description="ward 3", state="disabled"
        )
        assert (changed.url, changed.kinds, changed.description) == ("https://other.example/", ["ping"], "ward 3")
        assert [row.id for row in endpoints.all_of(session)] == [endpoint_id]
        with pytest.raises(Conflict):
            endpoints.send_test(session, endpoint_id)
        with pytest.raises(webhooks.KindUnknown):
            endpoints.update(session, endpoint_id, kinds=("job.exploded",))
        (owed,) = endpoints.deliveries(session, endpoint_id, state="waiting")
        assert ids.text("event", owed.event_id) == event
        assert endpoints.deliveries(session, endpoint_id, after=owed.id) == []
        assert endpoints.deliveries(session, endpoint_id, state="dead") == []
        assert secret.encode() not in changed.secret
        assert clinic.keyring.unseal(changed.secret).decode() == secret
    stranger = make_tenant(owner_db, "stranger")
    refusals: list[Callable[[Any], object]] = [
        lambda session: endpoints.get(session, endpoint_id),
        lambda session: endpoints.update(session, endpoint_id, description="mine"),
        lambda session: endpoints.update(session, endpoint_id),
        lambda session: endpoints.delete(session, endpoint_id),
        lambda session: endpoints.rotate_secret(session, clinic.keyring, endpoint_id),
        lambda session: endpoints.send_test(session, endpoint_id),
        lambda session: endpoints.deliveries(session, endpoint_id),
        lambda session: endpoints.delivery(session, owed.id),
        lambda session: endpoints.redeliver(session, owed.id),
        lambda session: endpoints.recover(session, endpoint_id, datetime.now(UTC), preview=True),
        lambda session: endpoints.replay(session, endpoint_id, datetime.now(UTC), preview=False),
    ]
    for refused in refusals:
        with clinic.db.transaction(stranger) as session, pytest.raises(NotFound):
            refused(session)
    with clinic.db.transaction(clinic.tenant) as session:
        endpoints.delete(session, endpoint_id)
        assert endpoints.all_of(session) == []
        with pytest.raises(NotFound):
            endpoints.delete(session, endpoint_id)
        assert session.scalar(sa.select(sa.func.count()).select_from(Delivery)) == 0
    assert len(clinic.feed()) == 1
