"""What the logs of a whole service say after a bad day: no key, no secret, no name, nothing that a photo knows.

Debug lines are on, since that is what somebody turns on when things go wrong.
"""

import base64
import contextlib
import io
import json
import os
import re
import secrets
import signal
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlsplit

import httpx
import psycopg2
import pytest
import sqlalchemy as sa
from PIL import ExifTags, Image

from tests.e2e.conftest import ANSWER, Running, until
from tests.unit.worker import photo_files as files

SECONDS: Final = 120
# More than an address may send, however slow the machine: one a second comes on top of sixty.
UNKNOWN_KEYS: Final = 600
PARTS: Final = ("web", "worker1", "deliverer", "sweep", "metrics")
# A word that names nothing of ours, in every place where a name, a text or a value can stand.
NAME, EXIF, PATH = (f"{part}-{secrets.token_hex(6)}" for part in ("Jane", "Scanner", "hook"))
HOSTILE = (
    f"{NAME}.jpg",
    f"../../{NAME}.jpg",
    f"{NAME}\u202egpj.exe",
    f"{NAME}\x1b[31m.jpg",
    f"'; DROP TABLE image; -- {NAME}",
    f'{{"event": "{NAME}", "request_id": "forged"}}',
    f"%(name)s {{0}} {NAME}",
)


@dataclass
class Day:
    """What happened, where its logs lie, and what must be in none of them."""

    running: Running
    facts: dict[str, Any]
    secrets: dict[str, str] = field(default_factory=dict)

    def logs(self) -> dict[str, str]:
        data = self.running.folder
        found = [*(data / "logs").iterdir(), data / "postgres/log", data / "valkey/log", self.running.said]
        return {str(path.relative_to(data.parent)): path.read_text(errors="replace") for path in found}

    def lines(self, part: str) -> list[dict[str, Any]]:
        """Return the lines of a part's log that are JSON."""
        text = self.logs()[f"data/logs/{part}.log"]
        whole = text[: text.rfind("\n") + 1]  # somebody may be writing
        return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def day(running: Running) -> Day:
    """Lead a service through everything that goes wrong; return what it was, with its logs."""
    found = Day(running, json.loads(running.ready_file.read_text()))
    _live(found, running.receiver)
    return found


def _live(day: Day, receiver: str) -> None:
    day.secrets |= {
        "a name": NAME,
        "what a photo knows": EXIF,
        "where it was taken": files.CANARY.decode(),
        "the address of a webhook": PATH,
        "what a receiver says": ANSWER,
        "the administrator's key": day.facts["api_key"].rpartition("_")[2],
        **{f"the password {name}": value for name, value in _passwords(day).items()},
    }
    headers = {"Authorization": f"Bearer {day.facts['api_key']}"}
    with httpx.Client(base_url=day.facts["url"], headers=headers, timeout=60) as client:
        hook = _made(client.post("/v1/webhooks", json={"url": f"http://{receiver}/{PATH}", "description": NAME}))
        day.secrets["a webhook's secret"] = hook["secret"].removeprefix("whsec_")
        ids = [_send_photos(client, day, receiver), _send_archive(client), _send_addresses(client)]
        _ask_nonsense(client, day)
        for job in ids:
            _await(lambda job=job: _has_closed(client, day, job))  # type: ignore[misc]
        _await(lambda: _is_given_up(client, hook["id"]))
        _look(client, day, ids[0])
        assert client.delete(f"/v1/jobs/{ids[0]}").status_code == 204
    _break_statements(day)
    # Before that it has to have spoken.
    _await(lambda: "dead" in {line.get("state") for line in day.lines("deliverer")})
    os.kill(day.facts["pids"]["deliverer"][0], signal.SIGKILL)


def _has_closed(client: httpx.Client, day: Day, job: str) -> bool:
    """Look, and let what waits for another try be tried now: an address that never answers has a minute of pauses."""
    with contextlib.closing(psycopg2.connect(day.facts["database_url"])) as server, server, server.cursor() as cursor:
        cursor.execute("UPDATE intake_url SET available_at = now() WHERE available_at > now()")
        cursor.execute("UPDATE unit SET available_at = now() WHERE state = 'waiting' AND available_at > now()")
    return bool(client.get(f"/v1/jobs/{job}").json()["closed_at"])


def _passwords(day: Day) -> dict[str, str]:
    kept: dict[str, str] = json.loads((day.running.folder / "secrets.json").read_text())
    for name in ("database_url", "broker_url"):
        kept[name] = urlsplit(day.facts[name]).password or ""
    return kept


def _await(condition: Callable[[], bool]) -> None:
    assert until(condition, SECONDS)


def _made(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code in (200, 201, 202), answer.text
    body: dict[str, Any] = answer.json()
    return body


def photo_that_tells() -> bytes:
    """Return a photo that says in every usual place who took it, of whom and where."""
    exif = Image.Exif()
    for tag in (ExifTags.Base.Artist, ExifTags.Base.ImageDescription, ExifTags.Base.Make, ExifTags.Base.DateTime):
        exif[tag] = EXIF
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSAreaInformation] = files.CANARY
    return files.encoded(files.photo(), exif=exif, comment=EXIF.encode())


def _send_photos(client: httpx.Client, day: Day, receiver: str) -> str:
    good = photo_that_tells()
    given = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    day.secrets["a secret that was given"] = given.removeprefix("whsec_")
    photos = [good, good[: len(good) // 2] + EXIF.encode(), EXIF.encode() * 100, b"", good, good, good]
    options = {
        "webhook": {"url": f"http://{receiver}/{PATH}/once", "secret": given},
        "metadata": {"patient": NAME},
        "photos": [{"custom_id": f"{NAME}-{place}"} for place in range(len(photos))],
    }
    parts: list[tuple[str, Any]] = [("job", (None, json.dumps(options), "application/json"))]
    parts += [("photos", (name, data)) for name, data in zip(HOSTILE, photos, strict=True)]
    return str(_made(client.post("/v1/jobs", files=parts))["id"])


def _send_archive(client: httpx.Client) -> str:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in HOSTILE:
            archive.writestr(name, photo_that_tells())
        archive.writestr(f"{NAME}.txt", NAME)
    damaged = packed.getvalue().replace(b"PK\x03\x04", b"PK\x03\x05", 1)
    return str(_made(client.post("/v1/jobs", content=damaged, headers={"Content-Type": "application/zip"}))["id"])


def _send_addresses(client: httpx.Client) -> str:
    # A name that nobody has, by RFC 6761.
    images = [{"url": f"https://{NAME.lower()}.invalid/{PATH}?token={NAME}", "file_name": NAME}]
    return str(_made(client.post("/v1/jobs", json={"images": images}))["id"])


def _ask_nonsense(client: httpx.Client, day: Day) -> None:
    key = day.facts["api_key"]
    for number in range(UNKNOWN_KEYS):
        secret = day.secrets[f"a wrong key {number}"] = secrets.token_hex(24)
        token = f"{key.rpartition('_')[0]}_{secret}"
        if client.get("/v1/jobs", headers={"Authorization": f"Bearer {token}"}).status_code == 429:
            break
    basic = base64.b64encode(f"{NAME}:{key}".encode()).decode()
    day.secrets["a key in other letters"] = basic
    broken = "multipart/form-data; boundary=x"
    for method, path, more in (
        ("GET", "/v1/jobs", {"headers": {"Authorization": f"Basic {basic}"}}),
        ("GET", f"/v1/jobs?key={key}&text={NAME}", {"headers": {"Cookie": f"key={key}", "Referer": f"/{NAME}"}}),
        ("GET", f"/v1/jobs?text={quote(NAME)}%00", {}),
        ("GET", f"/v1/jobs?cursor={NAME}&after={NAME}", {}),
        ("GET", f"/v1/jobs/{NAME}", {}),
        ("GET", f"/{NAME}/{key}", {}),
        ("GET", f"/v1/links/{NAME}", {}),
        ("PUT", "/v1/jobs", {"headers": {"X-Request-Id": f"{NAME} {key}", "User-Agent": NAME}}),
        ("POST", "/v1/jobs", {"content": f'--x\r\nname="{NAME}"'.encode(), "headers": {"Content-Type": broken}}),
        ("POST", "/v1/jobs", {"content": NAME.encode(), "headers": {"Content-Type": "application/json"}}),
        ("POST", "/v1/jobs", {"json": {"images": [{"url": f"http://{NAME}:{key}@127.0.0.1/"}], NAME: NAME}}),
        ("POST", "/v1/keys", {"json": {"name": NAME, "scopes": [NAME]}}),
        ("POST", "/v1/webhooks", {"json": {"url": f"https://{NAME}:{key}@example.org/{PATH}"}}),
        ("POST", "/v1/jobs", {"content": photo_that_tells(), "headers": {"Idempotency-Key": NAME * 30}}),
    ):
        assert 200 <= client.request(method, path, **more).status_code < 500, path


def _is_given_up(client: httpx.Client, hook: str) -> bool:
    tried: list[dict[str, Any]] = client.get(f"/v1/webhooks/{hook}/deliveries").json()["deliveries"]
    return bool(tried) and all(each["state"] == "dead" for each in tried)


def _look(client: httpx.Client, day: Day, job: str) -> None:
    """Read everything that can be read, links included, and take a key's secret from nobody."""
    made = _made(client.post("/v1/keys", json={"name": NAME, "scopes": ["jobs:read"]}))
    day.secrets["a key that was made"] = made["token"].rpartition("_")[2]
    page = client.get(f"/v1/jobs/{job}/results", params={"links": 60}).json()
    for result in page["results"]:
        if result["photo_url"]:
            link = urlsplit(result["photo_url"]).path
            day.secrets["a link"] = link.rpartition("/")[2]
            assert client.get(link, headers={"Authorization": ""}).status_code == 200
    for form in ("ndjson", "csv"):
        assert NAME in client.get(f"/v1/jobs/{job}/results", params={"format": form}).text


def _break_statements(day: Day) -> None:
    """Send PostgreSQL what it refuses, as a fault of ours would: it must not write down whose row that was."""
    database = sa.make_url(day.facts["database_url"])
    connection = psycopg2.connect(database.render_as_string(hide_password=False))
    connection.autocommit = True
    name = "INSERT INTO tenant (id, name) VALUES (gen_random_uuid(), %s)"
    with connection, connection.cursor() as cursor:
        cursor.execute(name, (NAME,))
        with pytest.raises(psycopg2.errors.UniqueViolation, match=NAME):
            cursor.execute(name, (NAME,))
    connection.close()
    with pytest.raises(psycopg2.OperationalError):
        psycopg2.connect(database.set(password=NAME).render_as_string(hide_password=False))


def test_no_log_holds_a_key_a_secret_a_name_or_what_a_photo_knows(day: Day) -> None:
    logs = day.logs()
    found = [
        f"{path} holds {what}: {next(line for line in text.splitlines() if secret in line)[:300]}"
        for path, text in logs.items()
        for what, secret in day.secrets.items()
        if secret in text
    ]
    assert not found, "\n".join(found)


def test_the_day_was_as_bad_as_it_should_be(day: Day) -> None:
    """Empty logs hold nothing either: everybody spoke, and of what went wrong."""
    logs = day.logs()
    assert all(len(day.lines(part)) >= 1 for part in PARTS)
    assert "duplicate key value violates unique constraint" in logs["data/postgres/log"]
    assert "password authentication failed" in logs["data/postgres/log"]
    assert "Ready to accept connections" in logs["data/valkey/log"]
    statuses = {line["status"] for line in day.lines("web") if line["event"] == "request"}
    assert {200, 201, 202, 204, 400, 401, 404, 405, 422, 429} <= statuses
    assert "dead" in {line.get("state") for line in day.lines("deliverer")}
    assert len(day.secrets) >= 18
    assert all(len(secret) >= 12 for secret in day.secrets.values())


def test_every_line_of_the_web_says_to_which_request_it_belongs(day: Day) -> None:

    def strays() -> list[dict[str, Any]]:
        lines = day.lines("web")
        ids = [line["request_id"] for line in lines if line["event"] == "request"]
        assert len(ids) >= 30
        assert all(re.fullmatch(r"[A-Za-z0-9_.-]{8,64}", each) for each in ids)
        ours = [line for line in lines if line.get("module", "").startswith("web.")]
        alone = ("rates_shared", "rates_held_alone")
        return [line for line in ours if line["event"] not in alone and line.get("request_id") not in set(ids)]

    until(lambda: not strays(), 30)  # whoever followed the events and is gone: the web learns of it with the next one
    assert strays() == []


def test_a_line_of_a_worker_leads_to_the_request_by_its_job(day: Day) -> None:
    accepted = {line["job"]: line["request_id"] for line in day.lines("web") if line["event"] == "job_accepted"}
    assert len(accepted) >= 3
    jobs = {line["job"] for line in day.lines("worker1") if "job" in line}
    assert jobs
    assert jobs <= set(accepted)
