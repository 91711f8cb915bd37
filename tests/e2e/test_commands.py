"""The commands of a clinic, one after the other, against a running service."""

import contextlib
import csv
import io
import json
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa

from cli.demo import PHOTOS
from cli.photos import find_photos
from tests.e2e.conftest import COMMAND, ROOT, Running, environment, until

COUNT = len(find_photos([str(PHOTOS)]))


@pytest.fixture(scope="module")
def receipt(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classify the sample photos once; return the receipt that was saved."""
    path = tmp_path_factory.mktemp("receipt") / "receipt.json"
    ended = running.run_program("classify", str(PHOTOS), "--receipt", str(path))
    lines = ended.stdout.splitlines()
    assert len(lines) == COUNT + 1, ended.stderr
    assert f"{COUNT} of {COUNT} accounted for, signature verified" in ended.stderr
    assert "Research use only" in ended.stderr
    # Two of the samples are no photos.
    assert ended.returncode == 1
    return path


def test_a_saved_receipt_is_verified_against_the_folder(running: Running, receipt: Path) -> None:
    online = running.run_program("verify", str(PHOTOS), str(receipt), "--url", running.url)
    assert online.stdout.splitlines()[0] == f"{COUNT} of {COUNT} accounted for"
    assert online.returncode == 0


def test_jobs_are_listed_shown_and_their_results_printed(running: Running, receipt: Path) -> None:
    job = json.loads(receipt.read_text())["payload"]["job"]
    assert any(line.startswith(job) for line in running.run("jobs").stdout.splitlines())
    shown = json.loads(running.run("jobs", "show", job, "--json").stdout)
    assert (shown["state"], shown["total"]) == ("completed", COUNT)
    assert running.run("jobs", "wait", job).exit_code == 1
    rows = list(csv.DictReader(io.StringIO(running.run("jobs", "results", job, "--csv").stdout)))
    assert [int(row["ordinal"]) for row in rows] == list(range(COUNT))


def test_photos_can_be_sent_without_waiting_and_asked_for_later(running: Running) -> None:
    sent = running.run("classify", str(PHOTOS / "photo-01.jpg"), "--no-wait")
    assert sent.exit_code == 0, sent.stderr
    waited = running.run("jobs", "wait", sent.stdout.strip(), "--json")
    assert json.loads(waited.stdout)["counts"]["waiting"] == 0
    assert waited.exit_code == 0


def test_a_pattern_names_photos_and_their_names_can_be_their_custom_ids(running: Running) -> None:
    found = running.run("classify", str(PHOTOS / "photo-0[12].jpg"), "--custom-ids", "--json")
    told = json.loads(found.stdout)
    assert [result["custom_id"] for result in told["results"]] == ["photo-01.jpg", "photo-02.jpg"]
    assert {result["use"] for result in told["results"]} == {"research-only"}


def test_the_feed_is_printed_and_followed(running: Running, receipt: Path) -> None:
    job = json.loads(receipt.read_text())["payload"]["job"]
    past = [json.loads(line) for line in running.run("events", "--json").stdout.splitlines()]
    assert [event["data"]["sequence"] for event in past] == list(range(1, len(past) + 1))
    assert [event["type"] for event in past if event["data"].get("job") == job][-1] == "job.completed"
    following = subprocess.Popen(
        [*COMMAND, "events", "--follow", "--json", "--after", str(len(past))],
        env=environment(POXVISIO_URL=running.url, POXVISIO_KEY=running.key),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert following.stdout is not None
    sent = running.run("classify", str(PHOTOS / "photo-03.jpg"), "--no-wait").stdout.strip()
    told: list[dict[str, Any]] = []
    while not told or told[-1]["type"] != "job.completed":
        told.append(json.loads(following.stdout.readline()))
    following.send_signal(signal.SIGINT)
    following.stdout.close()
    assert following.wait(30) == 130
    assert [event["data"]["sequence"] for event in told] == [len(past) + n + 1 for n in range(len(told))]
    assert {event["data"]["job"] for event in told} == {sent}


def test_a_wrong_key_is_refused_in_one_line(running: Running) -> None:
    refused = running.run_program("jobs", POXVISIO_KEY=f"pxv_{'0' * 32}_{'0' * 48}")
    assert refused.returncode == 3
    assert refused.stderr.count("\n") == 1
    assert "401" in refused.stderr


def test_the_owner_makes_tenants_and_keys_and_ends_them(running: Running) -> None:
    made = running.run_program("admin", "tenant", "create", "North clinic")
    assert made.returncode == 0, made.stderr
    assert running.run("admin", "tenant", "create", "North clinic").exit_code == 3
    token = running.run("admin", "key", "create", "--tenant", "North clinic", "--name", "laptop").stdout.strip()
    assert running.run("jobs", POXVISIO_KEY=token).exit_code == 0
    (key,) = json.loads(running.run("admin", "key", "list", "--tenant", "North clinic", "--json").stdout)
    assert running.run("admin", "key", "revoke", key["id"], "--tenant", "North clinic").exit_code == 0
    assert running.run("jobs", POXVISIO_KEY=token).exit_code == 3


def test_migrating_a_database_at_the_present_schema_changes_nothing(running: Running) -> None:
    assert running.run("migrate").exit_code == 0
    assert running.run("jobs").exit_code == 0


def test_a_login_that_may_not_migrate_is_told_so_in_one_line(running: Running) -> None:
    password = "a-password-of-the-tests"
    assert running.run("migrate", POXVISIO_READER_PASSWORD=password).exit_code == 0
    reader = sa.make_url(running.database_url).set(username="poxvisio_reader_login", password=password)
    refused = running.run_program("migrate", DATABASE_URL=reader.render_as_string(hide_password=False))
    assert refused.returncode == 3
    assert refused.stderr.startswith("poxvisio: the login of DATABASE_URL may not do this: ")
    assert refused.stderr.count("\n") == 1


def test_a_job_is_deleted_only_on_purpose_and_retried_only_where_photos_failed(running: Running) -> None:
    job = running.run("classify", str(PHOTOS / "photo-02.jpg"), "--no-wait").stdout.strip()
    assert running.run("jobs", "wait", job).exit_code == 0
    retried = running.run("jobs", "retry", job)
    assert retried.exit_code == 3
    assert "409" in retried.stderr
    assert running.run("jobs", "delete", job).exit_code == 1
    assert running.run("jobs", "show", job).exit_code == 0
    deleted = running.run_program("jobs", "delete", job, "--yes")
    assert (deleted.returncode, deleted.stdout) == (0, f"{job} deleted\n")
    assert "410" in running.run("jobs", "show", job).stderr


def test_a_job_is_deleted_as_the_operations_page_says(running: Running) -> None:
    job = running.run("classify", str(PHOTOS / "photo-01.jpg"), "--no-wait").stdout.strip()
    assert running.run("jobs", "wait", job).exit_code == 0
    page = (ROOT / "docs/operations.md").read_text(encoding="utf-8").partition("## Deleting\n")[2].partition("## ")[0]
    method, path = next(line for line in page.splitlines() if line.startswith("    DELETE")).split(maxsplit=1)
    statement = "\n".join(line.strip() for line in page.splitlines() if line.startswith(("    SET", "    SELECT")))
    digits = job.removeprefix("job_")
    folders = [running.folder / "photos" / place / digits for place in ("copies", "incoming")]
    assert folders[0].is_dir()

    request = urllib.request.Request(
        running.url + path.replace("<32 hex digits>", digits),
        method=method,
        headers={"Authorization": f"Bearer {running.key}"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 204
    assert "410" in running.run("jobs", "show", job).stderr

    def unpurged() -> list[tuple[object, ...]]:
        with contextlib.closing(psycopg2.connect(running.database_url)) as connection, connection.cursor() as sql:
            sql.execute(statement)
            return sql.fetchall()

    assert until(lambda: not unpurged(), 30)
    assert not any(folder.exists() for folder in folders)


def test_the_python_of_the_readme_does_what_it_says(running: Running, tmp_path: Path) -> None:
    """With more photos than a page of results holds: the ones after it must not be lost."""
    program = (ROOT / "README.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    (tmp_path / "data").mkdir()
    (tmp_path / "data/admin.key").write_text(running.key)
    photos = tmp_path / PHOTOS.relative_to(ROOT)
    photos.mkdir(parents=True)
    for name in ("photo-01.jpg", "photo-02.jpg"):
        shutil.copy(PHOTOS / name, photos)
    for number in range(203):  # no pictures, so that they cost little
        (photos / f"rejected-{number:03}.jpg").write_bytes(b"\xff\xd8\xff\xe0 %d" % number)
    shown = subprocess.run(
        [sys.executable, "-c", program.replace("http://127.0.0.1:8000", running.url)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert [line.split()[0] for line in shown.stdout.splitlines()] == sorted(path.name for path in photos.iterdir())
    verified = running.run("verify", str(photos), str(tmp_path / "receipt.json"), "--url", running.url)
    assert verified.stdout.splitlines()[0] == "205 of 205 accounted for"
