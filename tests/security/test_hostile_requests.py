"""Hostile clients at the real server: whoever is honest is served meanwhile, and nothing half done is left."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from cli.embedded.ports import free_port
from cli.programs import WEB
from shared import ids
from shared.database import Database
from tests.conftest import make_tenant, variables_of
from tests.integration.ledger.factories import check_invariants, submit_job
from tests.integration.web.answering import answer_all
from tests.integration.web.conftest import JPEG, ROOT, Server, files_below, make_key
from tests.security import hostile_clients
from tests.security.conftest import Extent
from tests.security.hostile_clients import Hostile
from web.peers import allow_open_files


@contextlib.contextmanager
def started(variables: Mapping[str, str], photos: Path, log: Path) -> Iterator[Server]:
    """Run the server as ``poxvisio up`` starts it."""
    port = free_port()
    command = [word.format(host="127.0.0.1", port=port) for word in WEB]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env={**variables, "PATH": os.environ["PATH"]},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    server = Server(port, log, photos, psutil.Process(process.pid))
    end = time.monotonic() + 90
    while True:
        try:
            server.ask("GET", "/livez")
            break
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
    yield server
    process.send_signal(signal.SIGTERM)
    process.wait(60)


def honest(server: Server, owner_db: Database) -> Server:
    return replace(server, key=make_key(owner_db, make_tenant(owner_db, "honest clinic")))


@pytest.fixture
def own_served(
    environment: dict[str, str], owner_db: Database, photos_folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Server]:
    """Return a server of this test alone, which leaves connections behind or asks for settings of its own."""
    more = getattr(request, "param", {})
    with started({**environment, **more}, photos_folder, tmp_path / "web.log") as server:
        yield honest(server, owner_db)


@pytest.fixture(scope="module")
def lasting(web_url: str, broker_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server that the others ask in turn."""
    folder = tmp_path_factory.mktemp("lasting")
    with started(variables_of(web_url, broker_url, folder / "photos"), folder / "photos", folder / "web.log") as server:
        yield server


@pytest.fixture
def served(lasting: Server, owner_db: Database) -> Server:
    """Return that server, its storage empty."""
    for file in files_below(lasting.photos):
        file.unlink()
    return honest(lasting, owner_db)


def honest_round(server: Server, number: int) -> str:
    """Do what an honest client does; return the id of its job."""
    status, _, body = server.ask("POST", "/v1/jobs", JPEG + b"%d" % number, Content_Type="image/jpeg")
    assert status == 202, body
    job = str(json.loads(body)["id"])
    for path in (f"/v1/jobs/{job}", "/v1/jobs", "/livez"):
        status, _, body = server.ask("GET", path)
        assert status == 200, body
    return job


def test_honest_clients_are_served_while_hostile_ones_do_their_worst(
    own_served: Server,
    owner_db: Database,
    worker_db: Database,
    rows: Callable[[str], int],
    objects: Callable[[], list[Path]],
    extent: Extent,
) -> None:
    allow_open_files()
    hostile = Hostile(own_served.port, make_key(owner_db, make_tenant(owner_db, "hostile clinic")), extent.seed)
    attacks = [
        (hostile_clients.slow_headers, 100),
        (hostile_clients.idle, 1000),
        (hostile_clients.dripped_bodies, 15),
        (hostile_clients.silent_bodies, 15),
        (hostile_clients.dripped_documents, 200),
        (hostile_clients.refused_bodies, 200),
        (hostile_clients.nobodys_bodies, 50),
        (hostile_clients.broken_off, 100_000 if extent.is_long else 40),
    ]
    threads = [threading.Thread(target=attack, args=(hostile, count)) for attack, count in attacks]
    for thread in threads:
        thread.start()
    try:
        end = time.monotonic() + 60
        while hostile.connections < 1550:
            assert time.monotonic() < end
            time.sleep(0.05)
        until = time.monotonic() + (120 if extent.is_long else 4)
        jobs: list[str] = []
        while time.monotonic() < until or len(jobs) < 10:
            jobs.append(honest_round(own_served, len(jobs)))
    finally:
        hostile.ended.set()
        for thread in threads:
            thread.join()
    nothing_else_is_left(own_served, jobs, rows, objects)
    answer_all(worker_db, units=100_000)
    check_invariants(owner_db)
    for job in jobs:
        assert json.loads(own_served.ask("GET", f"/v1/jobs/{job}")[2])["state"] == "completed"


@pytest.mark.parametrize("own_served", [{"POXVISIO_MAX_STREAMS": "4"}], indirect=True)
def test_readers_that_take_nothing_hold_up_nobody_and_give_their_places_back(
    own_served: Server, owner_db: Database, app_db: Database, worker_db: Database, extent: Extent
) -> None:
    """More of them than the server has threads; what they ask for is more than the kernel holds for them.

    In the long form they stay: after a minute the kernel ends their connections.
    """
    tenant = make_tenant(owner_db, "hostile clinic")
    hostile = Hostile(own_served.port, make_key(owner_db, tenant), 1)
    job = ids.text("job", submit_job(app_db, tenant, 10_000).id)
    answer_all(worker_db, units=100_000)
    path = f"/v1/jobs/{job}/results?format=ndjson"
    threads = int(WEB[WEB.index("--blocking-threads") + 1])
    connections = hostile_clients.never_read(hostile, path, threads + 20)
    try:
        for number in range(3):
            honest_round(own_served, number)
        mine = json.loads(own_served.ask("GET", "/v1/jobs")[2])["jobs"][0]["id"]
        status, _, body = own_served.ask("GET", f"/v1/jobs/{mine}/results?format=ndjson")
        assert (status, body) == (200, b""), body
        status, _, body = own_served.ask("GET", path, Authorization=f"Bearer {hostile.key}")
        assert (status, b"too-many-streams" in body) == (503, True)
        if not extent.is_long:
            for connection in connections:
                connection.close()
        end = time.monotonic() + 180
        while (answer := own_served.ask("GET", path, Authorization=f"Bearer {hostile.key}"))[0] == 503:
            assert time.monotonic() < end
            time.sleep(0.1)
    finally:
        for connection in connections:
            connection.close()
    assert (answer[0], answer[2].count(b"\n")) == (200, 10_000)


def nothing_else_is_left(
    served: Server, jobs: list[str], rows: Callable[[str], int], objects: Callable[[], list[Path]]
) -> None:
    """Assert that there is what the honest jobs brought and nothing besides; broken requests may take a moment."""
    end = time.monotonic() + 30
    while len(objects()) != len(jobs):
        assert time.monotonic() < end, objects()
        time.sleep(0.1)
    assert (rows("job"), rows("image"), rows("unit")) == (len(jobs),) * 3


def test_a_request_that_contradicts_itself_becomes_nothing(
    served: Server, rows: Callable[[str], int], extent: Extent
) -> None:
    hostile = Hostile(served.port, served.key, extent.seed)
    for what, data in hostile_clients.malformed(hostile).items():
        answer = hostile.send(what, data)
        assert b"HTTP/1.1 2" not in answer, (what, answer[:300])
        assert b"HTTP/1.1 5" not in answer, (what, answer[:300])
        assert b"Traceback" not in answer
    job = honest_round(served, 0)
    nothing_else_is_left(served, [job], rows, lambda: files_below(served.photos))


def test_of_two_lengths_that_differ_the_one_that_ends_the_message_is_obeyed(
    served: Server, rows: Callable[[str], int]
) -> None:
    """A length beside chunks smuggles requests past a front that obeys the length (RFC 9112, section 6.3)."""
    hostile = Hostile(served.port, served.key, 1)
    within = hostile.head("POST /v1/jobs", "Content-Type: image/jpeg", f"Content-Length: {len(JPEG)}") + JPEG
    head = hostile.head("GET /v1/jobs", "Transfer-Encoding: chunked", "Content-Length: 5")
    hostile.send("both", head + b"%x\r\n" % len(within) + within + b"\r\n0\r\n\r\n")
    assert rows("job") == 0


def test_requests_sent_at_once_are_answered_in_order(served: Server, extent: Extent) -> None:
    hostile = Hostile(served.port, served.key, extent.seed)
    count = 5000 if extent.is_long else 200
    assert hostile_clients.pipelined(hostile, count) == count


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc, which Linux has")
def test_the_kernel_asks_silent_clients_whether_they_are_still_there(served: Server) -> None:
    hostile = Hostile(served.port, served.key, 1)
    with hostile.connected() as connection:
        ours, theirs = f":{served.port:04X}", f":{connection.getsockname()[1]:04X}"
        end = time.monotonic() + 10
        timers: list[str] = []
        while not timers:
            assert time.monotonic() < end
            lines = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()]
            timers = [line[5] for line in lines if line[1].endswith(ours) and line[2].endswith(theirs)]
    # Of the kernel's timers the second is that of keep-alive.
    assert timers[0].startswith("02:")


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc, which Linux has")
def test_the_server_may_open_as_many_files_as_it_takes_connections(served: Server) -> None:
    connections = int(WEB[WEB.index("--backpressure") + 1])
    permitted = min(served.process.rlimit(psutil.RLIMIT_NOFILE)[1], 10_240)
    limits = [each.rlimit(psutil.RLIMIT_NOFILE)[0] for each in served.process.children(recursive=True)]
    assert max(limits) >= permitted > connections


def most_memory(process: psutil.Process) -> int:
    """Return the most memory that the server's processes ever had together, in bytes."""
    found = 0
    for each in (process, *process.children(recursive=True)):
        status = Path(f"/proc/{each.pid}/status").read_text(encoding="ascii")
        found += next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc, which Linux has")
@pytest.mark.parametrize("media", ["application/zip", "multipart/form-data; boundary=xxBOUNDARYxx"])
def test_a_large_upload_takes_no_memory(served: Server, media: str, extent: Extent) -> None:
    honest_round(served, 0)
    size, piece = (2 << 30 if extent.is_long else 100 << 20), os.urandom(1 << 20)
    parts = [piece] * (size >> 20)
    if media.startswith("multipart"):
        head = b'--xxBOUNDARYxx\r\nContent-Disposition: form-data; name="photos"; filename="a.jpg"\r\n\r\n'
        # As large as a photo may be, again and again.
        parts = [part for n in range(size // (40 << 20)) for part in (b"\r\n" * bool(n) + head, *[piece] * 40)]
        parts.append(b"\r\n--xxBOUNDARYxx--\r\n")
    before = most_memory(served.process)
    with socket.create_connection(("127.0.0.1", served.port), timeout=120) as connection:
        lines = (f"Content-Type: {media}", f"Content-Length: {sum(map(len, parts))}", "Connection: close")
        connection.sendall(Hostile(served.port, served.key, 1).head("POST /v1/jobs", *lines))
        for part in parts:
            connection.sendall(part)
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 202"), answer
    after = most_memory(served.process)
    assert after - before < 32 << 20, (before, after)
    assert after < 300 << 20, after
