"""Hostile destinations from one end to the other: none of them is dialled, whoever wrote them where."""

import asyncio
import ssl
import time
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from shared import delivery_log, events, webhooks
from shared.database import Database, new_id
from shared.events import NewEvent
from shared.settings import Settings
from shared.signing import Keyring
from tests.integration.ledger.factories import change, rows
from tests.integration.web.conftest import Caller
from tests.integration.worker.conftest import Receive
from tests.security.destinations import VECTORS
from worker.delivery import Deliverer
from worker.egress import Answer, Egress
from worker.endpoint_health import Patience

PUBLIC = "https://clinic.example/"


def test_there_are_at_least_sixty_of_them() -> None:
    assert len(set(VECTORS)) >= 60


def test_the_api_takes_none_that_it_can_see_and_breaks_at_none(clinic: Caller) -> None:
    """Public names may yet mean this machine, and are looked at when they are dialled."""
    hook = clinic.post("/v1/webhooks", {"url": PUBLIC}).json
    assert hook is not None
    for url in VECTORS:
        answers = (
            clinic.post("/v1/webhooks", {"url": url}),
            clinic.open(f"/v1/webhooks/{hook['id']}", "PATCH", json={"url": url}),
            clinic.post("/v1/jobs", {"images": [{"url": url}]}),
            clinic.post("/v1/jobs", {"images": [{"url": f"{PUBLIC}a.jpg"}], "webhook": {"url": url}}),
        )
        assert [answer.status_code for answer in answers] == [422] * 4, url


def test_a_receiver_whose_certificate_nobody_vouches_for_gets_nothing(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    built = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    certificate = built.add_extension(alternative, critical=False).sign(key, SHA256())
    pem = certificate.public_bytes(Encoding.PEM)
    (tmp_path / "both.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + pem,
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "both.pem")
    received = bytearray()

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.extend(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        writer.close()

    async def send(tls: ssl.SSLContext | None) -> Answer:
        listening = await asyncio.start_server(receive, "127.0.0.1", 0, ssl=server)
        port = listening.sockets[0].getsockname()[1]
        async with listening, Egress(seconds=5, loopback=(f"127.0.0.1:{port}",), tls=tls) as out:
            return await out.post(f"https://127.0.0.1:{port}/", b"{}", {"x-secret": "canary"})

    assert asyncio.run(send(None)).error == "TLS failed"
    assert not received
    trusted = ssl.create_default_context(cadata=pem.decode("ascii"))
    assert asyncio.run(send(trusted)).status == 204


def test_no_webhook_is_sent_to_one(
    app_db: Database, owner_db: Database, worker_db: Database, tenant: UUID, settings: Settings, dialled: list[Any]
) -> None:
    """They stand in the database all the same, as if a check before had failed or a name had changed its meaning."""
    keyring = Keyring.from_settings(settings)
    with app_db.transaction(tenant) as session:
        made = [webhooks.create_endpoint(session, keyring, tenant, PUBLIC, (), "")[0].id for _ in VECTORS]
    for endpoint, url in zip(made, VECTORS, strict=True):
        change(owner_db, "UPDATE endpoint SET url = :url WHERE id = :id", url=url, id=endpoint)
    with app_db.transaction(tenant) as session:
        events.record(session, [NewEvent(tenant, "job.started", new_id(), 0, {})])

    def left() -> int:
        return int(rows(owner_db, "SELECT count(*) FROM delivery WHERE state <> 'dead'")[0][0])

    async def deliver() -> None:
        async with Egress(seconds=5) as out:
            deliverer = Deliverer(settings.model_copy(update={"webhook_schedule": ()}), worker_db, out, Patience())
            running = asyncio.create_task(deliverer.run())
            end = time.monotonic() + 60
            while await asyncio.to_thread(left):
                assert time.monotonic() < end
                await asyncio.sleep(0.05)
            deliverer.stop()
            await running

    asyncio.run(deliver())
    assert dialled == []
    with app_db.transaction(tenant) as session:
        tried = [delivery.attempts for one in made for delivery in delivery_log.deliveries(session, one)]
    assert [(attempt.status, attempt.error) for (attempt,) in tried] == [(None, "address not allowed")] * len(VECTORS)


def test_no_photo_is_fetched_from_one(
    clinic: Caller, make_receiver: Receive, owner_db: Database, dialled: list[Any]
) -> None:
    listed = {"images": [{"url": f"{PUBLIC}{number}.jpg"} for number in range(len(VECTORS))]}
    job = clinic.post("/v1/jobs", listed).json
    assert job is not None
    dialled.clear()  # the broker was asked for by the web side
    for number, url in enumerate(VECTORS):
        change(owner_db, "UPDATE intake_url SET url = :url WHERE ordinal = :ordinal", url=url, ordinal=number)
    receiver = make_receiver()
    while receiver.work_once():
        pass
    assert dialled == []
    answers = clinic.get(f"/v1/jobs/{job['id']}/results?limit=1000").json
    assert answers is not None
    assert [row["reasons"] for row in answers["results"]] == [["url_not_allowed"]] * len(VECTORS)
