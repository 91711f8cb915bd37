"""An archive is sent as it is, and a receipt is held against what lies in it."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from cli.archives import NOTHING, ArchiveBody, is_archive, unaccounted
from cli.listing import size_text
from cli.photos import Photo, find_photos
from tests.security.archives.attacks import FIRST, LAST
from tests.security.archives.packing import Packed, pack

ENTRIES = (FIRST, Packed(b"folder/", b""), Packed(b"locked.jpg", b"x", flags=1), Packed(b".DS_Store", b"x"), LAST)
SHA = [hashlib.sha256(entry.data).hexdigest() for entry in (FIRST, LAST)]


@pytest.fixture
def archive(tmp_path: Path) -> Photo:
    (tmp_path / "ward & 3.zip").write_bytes(pack(*ENTRIES))
    [found] = find_photos([str(tmp_path / "ward & 3.zip")])
    return found


def entries(*digests: str, **outcomes: str) -> list[dict[str, Any]]:
    return [
        {"sha256": digest, "outcome": outcomes.get(f"n{place}", "rejected" if digest == NOTHING else "classified")}
        for place, digest in enumerate(digests)
    ]


def test_an_archive_named_itself_is_sent_as_it_is_and_folders_are_not_searched_for_any(
    archive: Photo, tmp_path: Path
) -> None:
    assert is_archive(archive)
    (tmp_path / "a.jpg").write_bytes(b"photo")
    found = find_photos([str(tmp_path)])
    assert [photo.name for photo in found] == ["a.jpg"]
    assert size_text([*found, archive]).startswith("1 photo and 1 archive, ")
    through: list[int] = []
    body = ArchiveBody(archive, "normal", through.append)
    assert body.path == "/v1/jobs?file_name=ward%20%26%203.zip&priority=normal"
    for _ in range(2):  # a retry reads it again
        sent = b"".join(body)
    assert sent == archive.path.read_bytes()
    assert body.headers["Content-Length"] == str(len(sent)) == str(through[-1])
    assert body.digests == [hashlib.sha256(sent).hexdigest()]


def test_a_receipt_that_has_every_entry_leaves_nothing_out(archive: Photo) -> None:
    assert unaccounted(archive, "0" * 64, entries(SHA[0], NOTHING, SHA[1])) == (3, [])


@pytest.mark.parametrize(
    ("told", "missing"),
    [
        (entries(SHA[0], NOTHING), ["folder/last.jpg"]),
        (entries(SHA[1], NOTHING, SHA[1]), ["first.jpg"]),
        (entries(SHA[0], NOTHING, NOTHING, n2="classified"), ["folder/last.jpg"]),
        ([], ["first.jpg", "locked.jpg", "folder/last.jpg"]),
    ],
)
def test_what_a_receipt_leaves_out_is_named(archive: Photo, told: list[dict[str, Any]], missing: list[str]) -> None:
    assert unaccounted(archive, "0" * 64, told) == (3, missing)


def test_an_archive_that_stands_for_its_rest_accounts_for_it(archive: Photo) -> None:
    whole = hashlib.sha256(archive.path.read_bytes()).hexdigest()
    assert unaccounted(archive, whole, entries(SHA[0], whole)) == (2, [])
    assert unaccounted(archive, whole, entries(whole)) == (1, [])


def test_an_archive_that_is_none_is_accounted_for_whole(tmp_path: Path) -> None:
    path = tmp_path / "no.zip"
    path.write_bytes(b"no archive")
    [found] = find_photos([str(path)])
    digest = hashlib.sha256(b"no archive").hexdigest()
    assert unaccounted(found, digest, entries(digest)) == (1, [])
