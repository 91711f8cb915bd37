"""Kaggle's own client, unmodified, against a Kaggle on loopback: every refusal is told, nothing is half there.

``KAGGLE_API_ENVIRONMENT=TEST`` sends the client to a fixed port of localhost in plain HTTP, and ``HTTP_PROXY`` from
there to the free port that the fake listens on.
"""

import base64
import errno
import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from shared.errors import DataRefused, StorageAway, Unavailable
from shared.storage import storage_at
from tests.unit.training.folders import first
from training import fetching, manifest
from training.landing import landing
from training.layouts import recognise
from training.shelf import Shelf


class Kaggle(ThreadingHTTPServer):
    archive = b""
    etag = '"one"'
    status = 200
    cut = 0
    ranges: list[str]
    asked_by: set[str | None]


class Handler(BaseHTTPRequestHandler):
    server: Kaggle

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked_by.add(self.headers["Authorization"])
        if self.server.status != 200:
            self._send(self.server.status, b"{}", {"Retry-After": "77"})
        elif self.path.endswith("/GetDatasetMetadata"):
            info = {"info": {"licenses": [{"name": "CC BY-NC 4.0"}]}}
            self._send(200, json.dumps(info).encode(), {"Content-Type": "application/json"})
        else:
            self._send(302, b"", {"Location": "http://localhost:7777/archive.zip"})

    def do_GET(self) -> None:
        whole, start, status = self.server.archive, 0, 200
        if (wanted := self.headers.get("Range")) and self.headers.get("If-Range") == self.server.etag:
            self.server.ranges.append(wanted)
            start, status = int(wanted.removeprefix("bytes=").rstrip("-")), 206
        self._send(status, whole[start:], {"ETag": self.server.etag, "Accept-Ranges": "bytes"}, cut=self.server.cut)

    def _send(self, status: int, body: bytes, headers: dict[str, str], cut: int = 0) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: cut or None])
        self.close_connection = True


@pytest.fixture
def kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kaggle]:
    first(tmp_path / "source")
    server = Kaggle(("127.0.0.1", 0), Handler)
    server.ranges, server.asked_by = [], set()
    server.archive = packed(tmp_path / "source")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "TEST")
    monkeypatch.setenv("KAGGLE_API_TOKEN", "a-token-of-the-tests")
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def packed(folder: Path, **more: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder).as_posix())
        for name, data in more.items():
            archive.writestr(name, data)
    return out.getvalue()


def fetch(folder: Path) -> dict[str, Any]:
    return fetching.fetch("msld-v1", folder, show=lambda _: nullcontext(lambda _: None))


def test_what_is_fetched_is_whole_with_its_licence_and_can_be_learnt_from(kaggle: Kaggle, tmp_path: Path) -> None:
    record = fetch(tmp_path / "data")
    assert record["licence"] == "CC BY-NC 4.0"
    assert (tmp_path / "data" / "LICENCE.txt").read_text().startswith("CC BY-NC 4.0")
    assert record["etag"] == '"one"'
    assert len(manifest.build(tmp_path / "data", folds=3)) == 24
    assert not list(tmp_path.glob(".data*"))


def test_a_cut_download_goes_on_where_it_was(kaggle: Kaggle, tmp_path: Path) -> None:
    kaggle.cut = len(kaggle.archive) // 2
    with pytest.raises(Unavailable, match="goes on where it was"):
        fetch(tmp_path / "data")
    assert not (tmp_path / "data").exists()
    kaggle.cut = 0
    fetch(tmp_path / "data")
    [wanted] = kaggle.ranges
    assert 0 < int(wanted.removeprefix("bytes=").rstrip("-")) <= len(kaggle.archive) // 2


def test_an_archive_that_changed_meanwhile_is_fetched_from_the_start(kaggle: Kaggle, tmp_path: Path) -> None:
    kaggle.cut = len(kaggle.archive) // 2
    with pytest.raises(Unavailable):
        fetch(tmp_path / "data")
    kaggle.cut, kaggle.etag = 0, '"two"'
    assert fetch(tmp_path / "data")["etag"] == '"two"'
    assert kaggle.ranges == []


@pytest.mark.parametrize(
    ("status", "told"),
    [(401, "KAGGLE_API_TOKEN"), (403, "accept the data set's terms at https"), (404, "no such data set"),
     (429, "in 77 s"), (503, "answered 503")],
)  # fmt: skip
def test_a_refusal_says_what_to_do(kaggle: Kaggle, tmp_path: Path, status: int, told: str) -> None:
    kaggle.status = status
    with pytest.raises(Unavailable, match=told):
        fetch(tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("given", ["token", "user and key", "file"])
def test_credentials_are_found_where_kaggle_s_own_programs_find_them(
    kaggle: Kaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    if given != "token":
        monkeypatch.delenv("KAGGLE_API_TOKEN")
    if given == "user and key":
        monkeypatch.setenv("KAGGLE_USERNAME", "curie")
        monkeypatch.setenv("KAGGLE_KEY", "radium")
    if given == "file":
        (tmp_path / "home" / ".kaggle").mkdir(parents=True)
        (tmp_path / "home" / ".kaggle" / "kaggle.json").write_text('{"username": "curie", "key": "radium"}')
        (tmp_path / "home" / ".kaggle" / "kaggle.json").chmod(0o600)
    fetch(tmp_path / "data")
    basic = f"Basic {base64.b64encode(b'curie:radium').decode()}"
    assert kaggle.asked_by == {"Bearer a-token-of-the-tests" if given == "token" else basic}


def test_an_archive_of_the_other_data_set_is_refused(kaggle: Kaggle, tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match=r"msld-v2 is damaged or has changed: it is laid out as msld-v1\. Fetch"):
        fetching.fetch("msld-v2", tmp_path / "data", show=lambda _: nullcontext(lambda _: None))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("change", ["slip", "bomb", "file as folder", "truncated", "renamed"])
def test_a_hostile_or_changed_archive_is_refused_whole(kaggle: Kaggle, tmp_path: Path, change: str) -> None:
    if change == "slip":
        kaggle.archive = packed(tmp_path / "source", **{"../evil.jpg": b"evil"})
    elif change == "bomb":
        kaggle.archive = packed(tmp_path / "source", **{"bomb.jpg": bytes(30 << 20)})
    elif change == "file as folder":
        kaggle.archive = packed(tmp_path / "source", **{"a.jpg": b"a", "a.jpg/b.jpg": b"b"})
    elif change == "truncated":
        kaggle.archive = kaggle.archive[:-200]
    else:
        kaggle.archive = kaggle.archive.replace(b"Others/", b"Athers/")
    with pytest.raises(DataRefused, match="damaged or has changed") as refused:
        fetch(tmp_path / "data")
    assert str(tmp_path) not in str(refused.value), "what it was unpacked into is gone by now"
    assert ".." not in str(refused.value).replace("../evil", "")
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "evil.jpg").exists()
    assert not list(tmp_path.glob(".data*"))


def test_an_interrupted_fetch_leaves_no_folder_and_goes_on_later(kaggle: Kaggle, tmp_path: Path) -> None:
    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetching.fetch("msld-v1", tmp_path / "data", show=lambda _: nullcontext(interrupt))
    assert not (tmp_path / "data").exists()
    fetch(tmp_path / "data")
    assert len(kaggle.ranges) == 1


def test_a_kaggle_out_of_reach_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kaggle: Kaggle) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="out of reach"):
        fetch(tmp_path / "data")


@pytest.fixture(params=["folder", "s3"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    if request.param == "folder":
        return Shelf(storage_at(f"file://{tmp_path}/storage"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    endpoint: str = request.getfixturevalue("s3_server")
    monkeypatch.delenv("HTTP_PROXY", raising=False)
    monkeypatch.delenv("http_proxy", raising=False)
    bucket = f"data-{uuid4().hex}"
    storage = storage_at(f"s3://{bucket}/clinic", endpoint=endpoint)
    storage._client.create_bucket(Bucket=bucket)  # type: ignore[attr-defined]  # only S3 has one
    return Shelf(storage)


def stocked(shelf: Shelf, tmp_path: Path) -> dict[str, Any]:
    """What a first machine leaves on the shelf."""
    if not (tmp_path / "source").exists():
        first(tmp_path / "source")
    archive = tmp_path / "archive.zip"
    archive.write_bytes(packed(tmp_path / "source"))
    record = {"data_set": "msld-v1", "source": "https://www.kaggle.com/datasets/a/b", "licence": "CC BY-NC 4.0",
              "etag": "one", "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
              "bytes": archive.stat().st_size}  # fmt: skip
    shelf.put(record, archive)
    return record


def test_a_second_machine_takes_the_copy_of_the_storage_and_needs_no_kaggle(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = stocked(shelf, tmp_path)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    told: list[str] = []
    show = nullcontext(lambda _: None)
    found = fetching.fetch("msld-v1", tmp_path / "data", show=lambda _: show, shelf=shelf, tell=told.append)
    assert found == record
    assert json.loads((tmp_path / "data" / "FETCHED.json").read_text()) == record
    assert (tmp_path / "data" / "LICENCE.txt").read_text().startswith("CC BY-NC 4.0")
    assert told == ["msld-v1 comes from the copy in the storage; --fresh asks Kaggle"]
    assert len(recognise(tmp_path / "data").originals) == 24
    assert not list(tmp_path.glob(".data*"))


def test_what_kaggle_sent_is_kept_for_the_next_and_a_damaged_copy_is_fetched_anew(
    kaggle: Kaggle, tmp_path: Path
) -> None:
    shelf = Shelf(storage_at(f"file://{tmp_path}/storage"))
    quiet = nullcontext(lambda _: None)
    record = fetching.fetch("msld-v1", tmp_path / "one", show=lambda _: quiet, shelf=shelf)
    assert shelf.record("msld-v1") == record
    [archive] = (tmp_path / "storage").rglob("*.zip")
    archive.write_bytes(archive.read_bytes()[:-1] + b"x")
    told: list[str] = []
    again = fetching.fetch("msld-v1", tmp_path / "two", show=lambda _: quiet, shelf=shelf, tell=told.append)
    assert told == ["the copy of msld-v1 in the storage is damaged or gone; asking Kaggle instead"]
    assert again == record
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == record["sha256"]  # and mended by the way


def test_a_damaged_copy_is_not_taken_where_kaggle_is_away_too(kaggle: Kaggle, tmp_path: Path) -> None:
    shelf = Shelf(storage_at(f"file://{tmp_path}/storage"))
    stocked(shelf, tmp_path)
    [archive] = (tmp_path / "storage").rglob("*.zip")
    archive.write_bytes(b"x")
    kaggle.status = 503
    with pytest.raises(Unavailable, match="answered 503"):
        fetching.fetch("msld-v1", tmp_path / "data", show=lambda _: nullcontext(lambda _: None), shelf=shelf)
    assert not (tmp_path / "data").exists()


def test_a_full_disk_is_told_so_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match="disk is full"), landing(tmp_path / "data") as place:
        (place / "half").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_half_a_copy_does_not_stay_where_the_storage_goes_away(tmp_path: Path) -> None:
    record = {"data_set": "msld-v1", "sha256": "ab" * 32, "bytes": 10}
    shelf = Shelf(storage_at(f"file://{tmp_path}/storage"))
    # No storage goes away so quietly as a folder that is read as a file.
    (tmp_path / "storage" / "datasets" / "msld-v1" / f"{'ab' * 32}.zip").mkdir(parents=True)
    with pytest.raises(StorageAway):
        shelf.take(record, tmp_path / "held", lambda _: nullcontext(lambda _: None))
    assert not (tmp_path / "held").exists()
