"""A web application in front of real services, and callers of two tenants."""

import copy
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal
from uuid import UUID

import psutil
import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.datastructures import MultiDict
from werkzeug.test import TestResponse

from cli.embedded.ports import free_port
from shared import accounts
from shared.accounts import SCOPES
from shared.database import Database
from shared.settings import Settings
from tests.conftest import Lent, make_tenant, variables_of
from tests.integration.web import browser
from tests.integration.web.conformance import assert_documented
from web.app import create_app
from web.description import _KEPT
from web.health import Examiner
from web.pages.documents import _DOCS
from web.services import ROLE, Services

ROOT = Path(__file__).parents[3]
JPEG = b"\xff\xd8\xff\xe0 the web side never looks further \xff\xd9"


def make_key(database: Database, tenant: UUID, scopes: Sequence[str] = SCOPES) -> str:
    with database.transaction(tenant) as session:
        return accounts.create_key(session, tenant, "tests", scopes)


#: An application whose routes others use too: to make the routes takes most of the time that an application takes.
_ROUTED: Final[list[Flask]] = []
#: What applications with these routes have said of them, by where their users reach them: the same for all, and long.
_SAID: Final[dict[str, dict[str, Any]]] = {}


@pytest.fixture(scope="session")
def web_pool(web_url: str) -> Iterator[Lent]:
    """Return the database of the applications that change nothing of it."""
    database = Lent(web_url, role=ROLE)
    yield database
    database.end()


@contextmanager
def application(settings: Settings, database: Database | None = None) -> Iterator[Flask]:
    """Yield an application as ``create_app`` makes it, with services of its own but for a database that is given."""
    if settings.proxies:  # of which an application is told once
        made = create_app(settings)
        here: Services = made.extensions["poxvisio"]
    else:
        if not _ROUTED:
            _ROUTED.append(create_app(settings))
        made = copy.copy(_ROUTED[0])
        made.view_functions = dict(made.view_functions)
        here = Services.open(settings, database)
        kept = _SAID.setdefault(settings.public_url, {})
        made.extensions = kept | {"poxvisio": here, "poxvisio.examiner": Examiner()}
    try:
        yield made
    finally:
        here.close()
    if not settings.proxies:
        kept |= {name: said for name, said in made.extensions.items() if name in (_KEPT, _DOCS)}


@pytest.fixture
def app(settings: Settings, owner_db: Database, web_pool: Lent) -> Iterator[Flask]:
    with application(settings, web_pool) as made:
        yield made


@dataclass
class Caller:
    """A client that holds a key, and holds every answer against the published document."""

    client: FlaskClient
    key: str
    tenant: UUID

    def get(self, path: str, **headers: str) -> TestResponse:
        return self._checked(self.client.get(path, headers=self._headers(headers)))

    def post(
        self, path: str, json: object = None, *, data: object = None, content_type: str | None = None, **headers: str
    ) -> TestResponse:
        given: dict[str, Any] = (
            {"json": json} if data is None and json is not None else {"data": data, "content_type": content_type}
        )
        return self._checked(self.client.post(path, headers=self._headers(headers), **given))

    def open(self, path: str, method: str, **more: Any) -> TestResponse:
        return self._checked(self.client.open(path, method=method, headers=self._headers({}), **more))

    def stream(
        self, body: object, length: int | None, content_type: str = "image/jpeg", **headers: str
    ) -> TestResponse:
        """Send a body from something that is read piece by piece; without a length it comes in chunks."""
        # Of a form the test client would name a boundary of its own.
        environ = {"wsgi.input": body, "CONTENT_LENGTH": str(length or ""), "CONTENT_TYPE": content_type}
        if length is None:
            environ |= {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
        return self.client.post("/v1/jobs", headers=self._headers(headers), environ_overrides=environ)

    def send(
        self, photos: Sequence[tuple[str, bytes]], options: Mapping[str, Any] | None = None, **headers: str
    ) -> TestResponse:
        """Send photos as a browser would."""
        parts: MultiDict[str, Any] = MultiDict()
        if options is not None:
            parts.add("job", json.dumps(options))
        for name, data in photos:
            parts.add("photos", (io.BytesIO(data), name))
        return self.post("/v1/jobs", data=parts, content_type="multipart/form-data", **headers)

    def _checked(self, answer: TestResponse) -> TestResponse:
        assert_documented(self.client.application, answer)
        return answer

    def _headers(self, more: Mapping[str, str]) -> dict[str, str]:
        named = {name.replace("_", "-"): value for name, value in more.items()}
        return {"Authorization": f"Bearer {self.key}", **named}


@pytest.fixture
def clinic(app: Flask, owner_db: Database, tenant: UUID) -> Caller:
    return Caller(app.test_client(), make_key(owner_db, tenant), tenant)


@pytest.fixture
def stranger(app: Flask, owner_db: Database) -> Caller:
    tenant = make_tenant(owner_db, "another clinic")
    return Caller(app.test_client(), make_key(owner_db, tenant), tenant)


@pytest.fixture
def rows(owner_db: Database) -> Callable[[str], int]:
    """Return how many rows a table has."""

    def count(table: str) -> int:
        with owner_db.transaction() as session:
            return int(session.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar_one())

    return count


@pytest.fixture
def objects(photos_folder: Path) -> Callable[[], list[Path]]:
    """Return every file in the photo storage, finished or not."""
    return lambda: files_below(photos_folder)


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def nothing_half_done(rows: Callable[[str], int], objects: Callable[[], list[Path]]) -> Callable[[], None]:
    """Assert that no request has left anything behind."""

    def check() -> None:
        assert objects() == []
        for table in ("job", "image", "unit", "event", "endpoint", "idempotency_key"):
            assert rows(table) == 0, table

    return check


@dataclass
class Server:
    """A running granian, its log, the folder of its photo storage and its process."""

    port: int
    log: Path
    photos: Path
    process: psutil.Process
    key: str = ""

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, {"Authorization": f"Bearer {self.key}", **named})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def raw(self, head: str, *pieces: bytes, then: Literal["listen", "half-close", "hang up"] = "listen") -> bytes:
        """Send bytes as they are, and return what comes back."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n")
            for piece in pieces:
                connection.sendall(piece)
            if then == "hang up":
                return b""
            if then == "half-close":
                connection.shutdown(socket.SHUT_WR)
            received = bytearray()
            while piece := connection.recv(65536):
                received += piece
            return bytes(received)


@contextmanager
def serve(variables: Mapping[str, str], folder: Path, threads: int = 4) -> Iterator[Server]:
    """Run a server with these variables, its log and its photo storage in the folder."""
    port, log, photos = free_port(), folder / "web.log", folder / "photos"
    command = [sys.executable, "-m", "granian", "--interface", "wsgi", "--port", str(port), "--host", "127.0.0.1"]
    more = {"STORAGE_URL": f"file://{photos}", "POXVISIO_MAX_REQUEST_BYTES": str(8 * 1024 * 1024)}
    # It appends, so that a test can empty the log.
    with log.open("ab") as out:
        process = subprocess.Popen(
            [*command, "--blocking-threads", str(threads), "web.wsgi:app"],
            cwd=ROOT,
            env={**variables, **more, "PATH": os.environ["PATH"]},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    served = Server(port, log, photos, psutil.Process(process.pid))
    end = time.monotonic() + 90
    while True:
        try:
            served.ask("GET", "/livez")
            break
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
    yield served
    process.send_signal(signal.SIGTERM)
    process.wait(60)


@pytest.fixture(scope="session")
def chromium() -> Iterator[int]:
    """Return the port of a browser in which tests open tabs that know nothing of each other."""
    with browser.started() as port:
        yield port


@pytest.fixture(scope="session")
def serving(web_url: str, broker_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server that all tests ask which want no other: starting one costs more than most of them."""
    folder = tmp_path_factory.mktemp("serving")
    with serve(variables_of(web_url, broker_url, folder), folder) as served:
        yield served


@pytest.fixture
def server(serving: Server, owner_db: Database, tenant: UUID) -> Server:
    """Return the server with a key of this test, its log and its storage empty."""
    serving.log.write_bytes(b"")
    for file in files_below(serving.photos):
        file.unlink()
    return replace(serving, key=make_key(owner_db, tenant))


@pytest.fixture
def own_server(environment: dict[str, str], owner_db: Database, tenant: UUID, tmp_path: Path) -> Iterator[Server]:
    """Return a server of this test alone, which may end it or leave requests behind."""
    with serve(environment, tmp_path) as served:
        yield replace(served, key=make_key(owner_db, tenant))
