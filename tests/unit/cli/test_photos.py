import hashlib
from pathlib import Path

import pytest

from cli.photos import NoPhotos, find_photos, listing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b/2.JPG", "b/1.jpeg", "a.png", "notes.txt", ".hidden.jpg", "b/.cache/3.jpg", "c/a.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "photos"


def _names(*arguments: Path | str) -> list[str]:
    return [photo.name for photo in find_photos([str(argument) for argument in arguments])]


def test_a_folder_stands_for_the_images_anywhere_below_it_sorted_by_name(folder: Path) -> None:
    assert _names(folder) == ["a.png", "b/1.jpeg", "b/2.JPG", "c/a.png"]


def test_a_file_named_itself_is_taken_whatever_it_is_called(folder: Path) -> None:
    assert _names(folder / "notes.txt") == ["notes.txt"]


def test_a_pattern_is_expanded_where_the_shell_did_not(folder: Path) -> None:
    assert _names(f"{folder}/**/*.png") == ["a.png", "c/a.png"]


def test_several_folders_keep_names_apart_that_are_alike(folder: Path) -> None:
    assert _names(folder / "c", folder / "b", folder / "a.png") == ["a.png", "b/1.jpeg", "b/2.JPG", "c/a.png"]


def test_what_is_named_twice_is_taken_once(folder: Path) -> None:
    assert _names(folder, folder / "a.png", folder) == ["a.png", "b/1.jpeg", "b/2.JPG", "c/a.png"]


def test_a_relative_path_means_the_same_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert _names("photos") == _names(folder)


def test_the_size_is_the_files(folder: Path) -> None:
    assert [photo.size for photo in find_photos([str(folder / "a.png")])] == [len("a.png")]


@pytest.mark.parametrize("argument", ["nothing.jpg", "*.webp", "empty"])
def test_an_argument_that_names_nothing_is_refused(tmp_path: Path, argument: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoPhotos, match="no"):
        find_photos([str(tmp_path / argument)])


def test_a_link_to_a_folder_above_is_not_followed(folder: Path) -> None:
    (folder / "loop").symlink_to(folder)
    assert _names(folder) == ["a.png", "b/1.jpeg", "b/2.JPG", "c/a.png"]


def test_a_listing_has_the_hash_of_every_photo_and_of_files_called_as_asked(folder: Path) -> None:
    listed = listing(folder, frozenset({"notes.txt"}))
    assert list(listed) == ["a.png", "b/1.jpeg", "b/2.JPG", "c/a.png", "notes.txt"]
    assert listed["b/2.JPG"] == hashlib.sha256(b"b/2.JPG").hexdigest()
