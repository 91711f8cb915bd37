"""The deliverer as a process against real receivers: what is owed arrives, under one id, whatever happens."""

import json
import signal
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import sqlalchemy as sa
from standardwebhooks.webhooks import Webhook

from shared import delivery_log, endpoints, event_body, ids, resending
from shared.database import Database
from shared.tables import Delivery
from tests.chaos.proxy import Proxy
from tests.integration.delivery.clinic import Clinic, Receive, Receiver, Start, answering, log_of, until
from tests.integration.ledger.factories import finish, submit_job, take
from worker import deliveries


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


def test_each_photo_arrives_before_the_end_of_its_job_where_that_is_asked_for(
    clinic: Clinic, worker_db: Database, receive: Receive, delivering: None
) -> None:
    receiver = receive(answering(200))
    endpoint_id, secret = clinic.endpoint(receiver.url, ("image.completed", "job.completed"))
    job = submit_job(clinic.db, clinic.tenant, 20)
    finish(worker_db, take(worker_db), "abstained")
    until(lambda: clinic.states(endpoint_id) == ["delivered"] * 21, "all delivered")
    told = [Webhook(secret).verify(received.body, received.headers) for received in receiver.requests]
    in_order = sorted(told, key=lambda event: event["data"]["sequence"])
    assert [event["type"] for event in in_order] == ["image.completed"] * 20 + ["job.completed"]
    assert [event["data"]["ordinal"] for event in in_order[:20]] == list(range(20))
    before = [None, *(event["data"]["id"] for event in in_order)]
    assert [event["data"]["previous_id"] for event in in_order] == before[:-1]
    image = ids.text("image", job.images[0].id)
    first = in_order[0]["data"]
    assert (first["image"], first["job"], first["outcome"]) == (image, ids.text("job", job.id), "abstained")
    assert first["links"]["image"].endswith(f"/v1/images/{image}")
    assert first["use"] == "research-only"
    assert [event["data"] | {"previous_id": None} for event in in_order] == [
        event_body.document(event, "http://127.0.0.1:8000")["data"] | {"previous_id": None}
        for event in clinic.feed()
        if event.kind in ("image.completed", "job.completed")
    ]


def test_a_failure_is_tried_again_under_the_same_id_with_the_same_bytes(
    clinic: Clinic, receive: Receive, delivering: None
) -> None:
    receiver = receive(answering(500, 503, 200))
    endpoint_id, secret = clinic.endpoint(receiver.url)
    (event,) = clinic.happens()
    until(lambda: clinic.states(endpoint_id) == ["delivered"], "delivered")
    assert [received.id for received in receiver.requests] == [event] * 3
    assert len({received.body for received in receiver.requests}) == 1
    for received in receiver.requests:
        Webhook(secret).verify(received.body, received.headers)
    assert [attempt.status for attempt in clinic.log(endpoint_id)[0].attempts] == [500, 503, 200]
    assert clinic.row(endpoint_id).failing_since is None


def test_a_delivery_is_dead_when_the_schedule_is_exhausted_and_lives_again_when_asked(
    clinic: Clinic, receive: Receive, delivering: None
) -> None:
    receiver = receive(answering(500, 500, 500, 500, 200))
    endpoint_id, _ = clinic.endpoint(receiver.url)
    (event,) = clinic.happens()
    until(lambda: clinic.states(endpoint_id) == ["dead"], "dead")
    assert len(receiver.requests) == 4
    assert clinic.row(endpoint_id).failing_since is not None
    with clinic.db.transaction(clinic.tenant) as session:
        assert resending.recover(session, endpoint_id, datetime(2026, 1, 1, tzinfo=UTC), preview=True) == 1
        resending.redeliver(session, clinic.log(endpoint_id)[0].id)
    until(lambda: clinic.states(endpoint_id) == ["delivered"], "delivered after all")
    assert {received.id for received in receiver.requests} == {event}
    assert [attempt.number for attempt in clinic.log(endpoint_id)[0].attempts] == [1, 2, 3, 4, 5]


def test_what_was_given_up_is_recovered_together(clinic: Clinic, receive: Receive, delivering: None) -> None:
    receiver = receive(answering(*[500] * 12, 200))
    endpoint_id, _ = clinic.endpoint(receiver.url)
    clinic.happens(times=3)
    until(lambda: clinic.states(endpoint_id) == ["dead"] * 3, "all dead")
    with clinic.db.transaction(clinic.tenant) as session:
        assert resending.recover(session, endpoint_id, datetime.now(UTC) + timedelta(hours=1), preview=False) == 0
        assert resending.recover(session, endpoint_id, datetime(2026, 1, 1, tzinfo=UTC), preview=False) == 3
    until(lambda: clinic.states(endpoint_id) == ["delivered"] * 3, "all recovered")


def test_events_from_before_an_endpoint_are_replayed_when_asked(
    clinic: Clinic, receive: Receive, delivering: None
) -> None:
    receiver = receive(answering(200))
    missed = clinic.happens("job.completed", 1) + clinic.happens("job.started", 2)
    endpoint_id, _ = clinic.endpoint(receiver.url, ("job.started",))
    with clinic.db.transaction(clinic.tenant) as session:
        since = datetime(2026, 1, 1, tzinfo=UTC)
        assert resending.replay(session, endpoint_id, since, preview=True) == 2
        assert resending.replay(session, endpoint_id, since, preview=False) == 2
        assert resending.replay(session, endpoint_id, since, preview=False) == 0
    until(lambda: clinic.states(endpoint_id) == ["delivered"] * 2, "replayed")
    assert {received.id for received in receiver.requests} == set(missed[1:])


def _stall_after_200(_: Receiver, request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart")
    request.rfile.read(1)


def test_a_list_leaves_out_what_receivers_answered(clinic: Clinic, receive: Receive, delivering: None) -> None:
    receiver = receive(answering(200))
    endpoint_id, _ = clinic.endpoint(receiver.url)
    clinic.happens()
    until(lambda: clinic.states(endpoint_id) == ["delivered"], "delivered")
    assert clinic.log(endpoint_id)[0].attempts[0].response == b"ok"
    with clinic.db.transaction(clinic.tenant) as session:
        assert delivery_log.deliveries(session, endpoint_id, limit=1)[0].attempts[0].response == b""


def test_a_200_whose_body_stalls_is_a_success(clinic: Clinic, receive: Receive, delivering: None) -> None:
    receiver = receive(_stall_after_200)
    endpoint_id, _ = clinic.endpoint(receiver.url)
    clinic.happens()
    until(lambda: clinic.states(endpoint_id) == ["delivered"], "delivered")
    (attempt,) = clinic.log(endpoint_id)[0].attempts
    assert (attempt.status, attempt.response) == (200, b"part")


def test_a_redirect_is_a_failure_and_nobody_goes_there(clinic: Clinic, receive: Receive, delivering: None) -> None:
    target = receive(answering(200))
    receiver = receive(answering(307, headers={"location": target.url}))
    endpoint_id, _ = clinic.endpoint(receiver.url)
    clinic.happens()
    until(lambda: clinic.states(endpoint_id) == ["dead"], "given up")
    assert [attempt.status for attempt in clinic.log(endpoint_id)[0].attempts] == [307] * 4
    assert target.requests == []


def test_410_disables_the_endpoint_tells_the_others_and_keeps_its_events(
    clinic: Clinic, receive: Receive, delivering: None
) -> None:
    gone, well = receive(answering(410, 200)), receive(answering(200))
    retired, _ = clinic.endpoint(gone.url, ("job.started",))
    healthy, _ = clinic.endpoint(well.url)
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
    clinic: Clinic, receive: Receive, delivering: None
) -> None:
    receiver = receive(answering(429, 200, headers={"retry-after": "3000"}))
    endpoint_id, _ = clinic.endpoint(receiver.url)
    with clinic.db.transaction(clinic.tenant) as session:
        session.execute(sa.text("UPDATE endpoint SET cap = 1"))
    clinic.happens(times=3)
    until(lambda: clinic.row(endpoint_id).open_until is not None, "a pause")
    first, *others = clinic.log(endpoint_id)
    assert first.next_at is not None
    assert timedelta(seconds=2900) < first.next_at - first.attempts[0].started_at < timedelta(seconds=3100)
    assert [owed.attempts for owed in others] == [(), ()]
    with clinic.db.transaction(clinic.tenant) as session:
        sent = resending.send_test(session, endpoint_id)
    until(lambda: clinic.log(endpoint_id)[-1].state == "delivered", "the owner's own ping goes out at once")
    assert sent.kind == "ping"


def test_both_secrets_sign_while_one_is_being_replaced(clinic: Clinic, receive: Receive, delivering: None) -> None:
    receiver = receive(answering(200))
    endpoint_id, old = clinic.endpoint(receiver.url)
    with clinic.db.transaction(clinic.tenant) as session:
        new = endpoints.rotate_secret(session, clinic.keyring, endpoint_id)
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


# Deliverers with settings of their own, or that end.


def _stall(_: Receiver, request: BaseHTTPRequestHandler) -> None:
    request.rfile.read(1)  # until the deliverer hangs up


def _drip(_: Receiver, request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        request.wfile.write(b"x: y\r\n")
        request.wfile.flush()
        time.sleep(0.05)


def test_receivers_that_hold_on_are_cut_at_the_deadline(clinic: Clinic, receive: Receive, deliverer: Start) -> None:
    stalling, dripping = receive(_stall), receive(_drip)
    endpoints_of = [clinic.endpoint(receiver.url)[0] for receiver in (stalling, dripping)]
    deliverer(stalling, dripping, POXVISIO_WEBHOOK_TIMEOUT="0.4", POXVISIO_WEBHOOK_SCHEDULE="3600")
    clinic.happens()
    until(lambda: all(clinic.log(endpoint_id)[0].attempts for endpoint_id in endpoints_of), "attempts are recorded")
    for endpoint_id in endpoints_of:
        (owed,) = clinic.log(endpoint_id)
        assert owed.state == "waiting"
        assert (owed.attempts[0].status, owed.attempts[0].error) == (None, "timeout")


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
        time.sleep(0.1)  # so that both deliverers are there before all is delivered
        answering(200)(receiver, request)

    slow, quick = receive(reply), receive(answering(200))
    capped, _ = clinic.endpoint(slow.url)
    other, _ = clinic.endpoint(quick.url)
    clinic.happens(times=30)
    deliverer(slow, quick)
    deliverer(slow, quick)
    until(lambda: clinic.states(capped) == ["delivered"] * 30, "all delivered")
    until(lambda: clinic.states(other) == ["delivered"] * 30, "all delivered to the other")
    assert slow.most_open <= 4
    assert len(slow.requests) == len({received.id for received in slow.requests}) == 30


def test_the_deliverer_outlives_the_database_going_away(
    clinic: Clinic, owner_db: Database, receive: Receive, deliverer: Start, tmp_path: Path
) -> None:
    receiver = receive(answering(200))
    endpoint_id, _ = clinic.endpoint(receiver.url)
    process = deliverer(receiver)
    clinic.happens()
    until(lambda: clinic.states(endpoint_id) == ["delivered"], "the first delivered")
    with owner_db.transaction() as session:
        session.execute(sa.text("SET LOCAL ROLE NONE"))
        session.execute(sa.text("ALTER ROLE poxvisio_worker_login NOLOGIN"))
        session.execute(
            sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'poxvisio_worker_login'")
        )
    try:
        until(lambda: any(line["event"] == "database_away" for line in log_of(tmp_path)), "it notices")
        clinic.happens()
    finally:
        with owner_db.transaction() as session:
            session.execute(sa.text("SET LOCAL ROLE NONE"))
            session.execute(sa.text("ALTER ROLE poxvisio_worker_login LOGIN"))
    until(lambda: clinic.states(endpoint_id) == ["delivered"] * 2, "the second delivered")
    assert process.poll() is None


def test_a_wrong_setting_stops_the_deliverer_with_one_line_that_names_it(deliverer: Start, tmp_path: Path) -> None:
    assert deliverer(SECRET_KEY="short").wait(60) == 2
    assert (tmp_path / "deliverer-0.log").read_text() == (
        "poxvisio deliverer: SECRET_KEY must have at least 32 characters\n"
    )


def test_a_database_that_goes_away_while_a_body_is_built_costs_no_attempt(
    clinic: Clinic, worker_db: Database, worker_url: str, receive: Receive, deliverer: Start
) -> None:
    receiver = receive(answering(200))
    endpoint_id, _ = clinic.endpoint(receiver.url, ("job.completed",), detail="full")
    url = sa.make_url(worker_url)
    with Proxy((url.host or "", url.port or 0), reads_sql=True) as proxy:
        cut = proxy.cut_at_commit("UPDATE delivery SET body", "before")
        through = url.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
        deliverer(receiver, DATABASE_URL=through)
        submit_job(clinic.db, clinic.tenant, 1)
        finish(worker_db, take(worker_db))
        until(lambda: clinic.states(endpoint_id) == ["delivered"], "delivered")
    assert cut.done.is_set()
    assert len(receiver.requests) == 1
    assert [(attempt.number, attempt.status) for attempt in clinic.log(endpoint_id)[0].attempts] == [(1, 200)]
    with worker_db.transaction() as session:
        assert session.scalar(sa.select(Delivery.attempt)) == 1
