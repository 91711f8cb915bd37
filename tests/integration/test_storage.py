"""The contract of ``shared.storage``, held against a folder and against an S3 server."""

import errno
import hashlib
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from shared.errors import ObjectMissing, ObjectTooLarge, StorageAway
from shared.settings import Settings
from shared.storage import Storage, open_storage


def _settings(url: str, endpoint: str = "") -> Settings:
    return Settings.load(
        {
            "DATABASE_URL": "postgresql://nobody@127.0.0.1/none",
            "BROKER_URL": "redis://127.0.0.1/0",
            "SECRET_KEY": "s" * 32,
            "STORAGE_URL": url,
            "POXVISIO_S3_ENDPOINT": endpoint,
        }
    )


@pytest.fixture(scope="module")
def aws() -> Any:
    """Return what clients are made from: to read the description of S3 for each takes a tenth of a second."""
    from boto3.session import Session  # by one process of the tests

    return Session()


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch, aws: Any) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("shared.storage.s3.Session", lambda: aws)


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, s3_server: str, credentials: None) -> Storage:
    if request.param == "folder":
        return open_storage(_settings(f"file://{tmp_path}/ph%20otos"))
    bucket = f"photos-{uuid4().hex}"
    made = open_storage(_settings(f"s3://{bucket}/clinic", s3_server))
    made._client.create_bucket(Bucket=bucket)  # type: ignore[attr-defined]  # only S3 has one
    return made


def _store(storage: Storage, key: str, data: bytes) -> None:
    with storage.create(key, limit=len(data)) as upload:
        upload.write(data)
        upload.finish()


def test_an_upload_is_hashed_counted_and_read_back(storage: Storage) -> None:
    with storage.create("incoming/a.1/img_1", limit=100) as upload:
        assert [upload.write(piece) for piece in (b"one", b"", b"two")] == [3, 0, 3]
        stored = upload.finish()
    storage.settle([stored.key])
    assert (stored.key, stored.sha256, stored.size, stored.kept) == (
        "incoming/a.1/img_1", hashlib.sha256(b"onetwo").digest(), 6, True,
    )  # fmt: skip
    assert storage.read("incoming/a.1/img_1", limit=6) == b"onetwo"


def test_bytes_above_the_limit_are_counted_and_hashed_but_nothing_is_kept(storage: Storage) -> None:
    with storage.create("incoming/large", limit=10) as upload:
        for _ in range(3):
            upload.write(b"12345678")
        stored = upload.finish()
    storage.settle([])
    assert (stored.sha256, stored.size, stored.kept) == (hashlib.sha256(b"12345678" * 3).digest(), 24, False)
    with pytest.raises(ObjectMissing):
        storage.read("incoming/large", limit=100)


def test_an_upload_of_exactly_the_limit_and_one_of_no_bytes_are_kept(storage: Storage) -> None:
    _store(storage, "a/full", b"1234")
    _store(storage, "a/empty", b"")
    storage.settle(["a/full", "a/empty"])
    assert storage.read("a/full", limit=4) == b"1234"
    assert storage.read("a/empty", limit=0) == b""


def test_an_object_is_laid_into_memory_that_has_room_for_it(storage: Storage) -> None:
    storage.write("a/photo", b"1234")
    storage.write("a/empty", b"")
    memory = bytearray(b"......")
    with memoryview(memory) as room:
        assert storage.read_into("a/photo", room) == 4
        assert storage.read_into("a/empty", room) == 0
        assert memory == b"1234.."
        with pytest.raises(ObjectTooLarge):
            storage.read_into("a/photo", room[:3])
        for nothing in ("a/other", "a"):
            with pytest.raises(ObjectMissing):
                storage.read_into(nothing, room)
    assert memory == b"1234.."


def test_a_photo_sent_in_parts_arrives_whole(storage: Storage) -> None:
    data = bytes(range(256)) * (70 << 10)  # 17.5 MB, more than one part
    with storage.create("incoming/whole", limit=len(data)) as upload:
        for start in range(0, len(data), 1 << 20):
            upload.write(data[start : start + (1 << 20)])
        upload.finish()
    storage.settle(["incoming/whole"])
    assert storage.read("incoming/whole", limit=len(data)) == data


def test_an_upload_that_is_left_without_finish_leaves_nothing(storage: Storage) -> None:
    with storage.create("incoming/left", limit=9) as upload:
        upload.write(b"half")
    aborted = storage.create("incoming/left", limit=9)
    aborted.abort()
    aborted.abort()
    with pytest.raises(ValueError, match="ended"):
        aborted.write(b"more")
    assert list(storage.list("")) == []


@pytest.mark.parametrize("size", [0, 1, 300_000])
def test_what_is_put_in_one_piece_is_read_back_also_in_place_of_another(storage: Storage, size: int) -> None:
    key, data = "copies/job/image", os.urandom(size)
    for stored in (b"another", data):
        storage.put(key, stored)
        storage.settle([key])
    assert storage.read(key, limit=size) == data
    assert [item.key for item in storage.list("")] == [key]
    storage.delete([key])
    storage.put(key, data)  # its folder is gone
    storage.settle([key])
    assert storage.read(key, limit=size) == data


def test_what_cannot_be_put_whole_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(_settings(tmp_path.as_uri()))
    written = os.write

    def disk(fd: int, data: bytes) -> int:
        if len(data) < 1000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(fd, data[:600])

    monkeypatch.setattr(os, "write", disk)
    with pytest.raises(StorageAway, match="The disk of the photo storage is full"):
        storage.put("copies/job/image", bytes(1500))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_an_object_can_be_replaced(storage: Storage) -> None:
    storage.write("copies/1", b"old")
    storage.write("copies/1", b"newer")
    assert storage.read("copies/1", limit=9) == b"newer"


def test_reading_refuses_what_is_missing_or_larger_than_allowed(storage: Storage) -> None:
    storage.write("a/b", b"12345")
    with pytest.raises(ObjectMissing):
        storage.read("a/c", limit=9)
    with pytest.raises(ObjectTooLarge):
        storage.read("a/b", limit=4)


def test_a_part_of_an_object_is_read_without_the_rest(storage: Storage) -> None:
    storage.write("incoming/job/archive", b"0123456789")
    parts = [storage.read_part("incoming/job/archive", offset=at, length=4) for at in (0, 5, 8, 10, 99)]
    assert parts == [b"0123", b"5678", b"89", b"", b""]
    assert storage.read_part("incoming/job/archive", offset=2, length=0) == b""
    with pytest.raises(ObjectMissing):
        storage.read_part("incoming/job/other", offset=0, length=4)


def test_deleting_is_bulk_and_idempotent(storage: Storage) -> None:
    keys = [f"job_1/{n}" for n in range(100)]
    for key in keys:
        _store(storage, key, b"x")
    storage.settle(keys)
    storage.delete(keys[1:])
    storage.delete([*keys[1:], *(f"never/was/{n}" for n in range(1000))])
    storage.delete([])
    assert [item.key for item in storage.list("job_1")] == [keys[0]]


def test_a_prefix_is_a_folder_of_keys_and_not_the_beginning_of_a_name(storage: Storage) -> None:
    for key in ("job_1/a", "job_1/b/c", "job_11/a"):
        storage.write(key, key.encode())
    assert {item.key for item in storage.list("job_1")} == {"job_1/a", "job_1/b/c"}
    assert {item.key for item in storage.list("job_1/")} == {"job_1/a", "job_1/b/c"}
    storage.delete_prefix("job_1")
    storage.delete_prefix("job_1")
    assert {item.key for item in storage.list("")} == {"job_11/a"}


def test_a_listing_tells_size_and_age(storage: Storage) -> None:
    storage.write("a/b", b"12345")
    [item] = storage.list("")
    assert (item.key, item.size) == ("a/b", 5)
    assert abs(datetime.now(UTC) - item.modified) < timedelta(minutes=5)
    assert list(storage.list("nothing/here")) == []


def test_deleting_everything_by_an_empty_prefix_is_refused(storage: Storage) -> None:
    with pytest.raises(ValueError, match="everything"):
        storage.delete_prefix("")


NOT_OURS = [
    *(
        "",
        "/a",
        "a/",
        "a//b",
        "../a",
        "a/../b",
        "a/..",
        "a..b",
        ".parts/a",
        "a/.b",
        "a b",
        "a\n",
        "ä",
        "a\\b",
        "a\0",
    ),
    *("x" * 101, "a/" * 8 + "a"),
]


def test_only_keys_of_our_own_making_pass(storage: Storage) -> None:
    for key in NOT_OURS:
        with pytest.raises(ValueError, match="key"):
            storage.create(key, limit=1)
        with pytest.raises(ValueError, match="key"):
            storage.write(key, b"")
        with pytest.raises(ValueError, match="key"):
            storage.read(key, limit=1)
        with pytest.raises(ValueError, match="key"):
            storage.delete(["fine", key])
        with pytest.raises(ValueError, match="key"):
            storage.settle([key])


def test_threads_share_a_storage(storage: Storage) -> None:
    def round_trip(n: int) -> bool:
        key, data = f"shared/{n}", str(n).encode() * 1000
        _store(storage, key, data)
        storage.settle([key])
        return storage.read(key, limit=len(data)) == data

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(round_trip, range(64)))


def test_a_healthy_storage_passes_its_check_and_has_nothing_to_tidy(storage: Storage) -> None:
    storage.check()
    assert storage.tidy(3600) == 0
    assert list(storage.list("")) == []


def test_a_folder_that_went_away_is_storage_away(tmp_path: Path) -> None:
    storage = open_storage(_settings(f"file://{tmp_path}/photos"))
    storage.write("a/b", b"1")
    (tmp_path / "photos").rename(tmp_path / "gone")
    for act in (
        storage.check,
        lambda: storage.create("a/c", limit=1),
        lambda: storage.read("a/b", limit=1),
        lambda: storage.settle(["a/b"]),
        lambda: storage.write("a/c", b""),
    ):
        with pytest.raises(StorageAway):
            act()


def test_a_folder_that_cannot_be_made_is_storage_away(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageAway, match="photo storage"):
        open_storage(_settings(f"file://{tmp_path}/file/photos"))


def test_settling_an_upload_whose_file_vanished_is_storage_away(tmp_path: Path) -> None:
    storage = open_storage(_settings(f"file://{tmp_path}"))
    _store(storage, "a/b", b"1")
    (tmp_path / "a/b").unlink()
    with pytest.raises(StorageAway):
        storage.settle(["a/b"])


def test_a_full_disk_is_storage_away_and_says_so(tmp_path: Path) -> None:
    storage = open_storage(_settings(f"file://{tmp_path}"))
    upload = storage.create("a/b", limit=1 << 20)
    with Path("/dev/full").open("wb") as full:
        os.dup2(full.fileno(), upload._file.fileno())  # type: ignore[attr-defined]  # the kernel's own full disk
    with pytest.raises(StorageAway, match="full"):
        upload.write(b"1" * 100_000)
    assert list((tmp_path / ".parts").iterdir()) == []


def test_emptied_folders_disappear_and_dead_parts_are_tidied(tmp_path: Path) -> None:
    storage = open_storage(_settings(f"file://{tmp_path}"))
    storage.write("t/job/1", b"1")
    storage.delete(["t/job/1"])
    assert not (tmp_path / "t").exists()
    (tmp_path / ".parts/0123").write_bytes(b"2")  # the process that wrote it has died
    assert storage.tidy(3600) == 0
    assert storage.tidy(-60) == 1


def test_an_s3_server_out_of_reach_is_storage_away(credentials: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    storage = open_storage(_settings("s3://bucket/photos", f"http://127.0.0.1:{port}"))
    with pytest.raises(StorageAway, match="out of reach"):
        storage.check()
    with pytest.raises(StorageAway):
        storage.read("a/b", limit=1)
    with pytest.raises(StorageAway):
        list(storage.list(""))
    _store(storage, "a/b", b"1")  # goes up in the background
    with pytest.raises(StorageAway):
        storage.settle(["a/b"])
    with pytest.raises(StorageAway):  # still not there
        storage.settle(["a/b"])
    with pytest.raises(StorageAway):
        storage.delete(["a/b"])


def test_a_missing_bucket_is_storage_away_and_not_a_missing_object(s3_server: str, credentials: None) -> None:
    storage = open_storage(_settings("s3://no-such-bucket", s3_server))
    with pytest.raises(StorageAway, match="bucket"):
        storage.check()
    with pytest.raises(StorageAway, match="bucket"):
        storage.read("a/b", limit=1)


def test_an_s3_server_that_never_answers_fails_the_check_within_its_time_limit(credentials: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        storage = open_storage(_settings("s3://bucket", f"http://127.0.0.1:{silent.getsockname()[1]}"))
        with pytest.raises(StorageAway, match="ReadTimeout"):
            storage.check()
