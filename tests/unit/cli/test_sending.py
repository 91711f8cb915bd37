import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.photos import Photo
from cli.sending import NotSaved, check_writable, parts, save, save_whole
from cli.transport import ServiceAway


def _photos(*sizes: int) -> list[Photo]:
    return [Photo(Path(f"{number}.jpg"), f"{number}.jpg", size) for number, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("sizes", "most", "most_bytes", "divided"),
    [
        ((1, 1, 1), 3, 10_000_000, [3]),
        ((1, 1, 1, 1), 3, 10_000_000, [3, 1]),
        # Bytes count with what surrounds each part.
        ((6_000_000, 3_000_000, 3_000_000), 100, 10_000_000, [2, 1]),
        # A photo that fits nowhere still goes, alone: the service says what it thinks of it.
        ((20_000_000, 1), 100, 10_000_000, [1, 1]),
        ((1, 20_000_000), 100, 10_000_000, [1, 1]),
    ],
)
def test_photos_are_split_into_jobs_that_fit(
    sizes: tuple[int, ...], most: int, most_bytes: int, divided: list[int]
) -> None:
    found = parts(_photos(*sizes), most=most, most_bytes=most_bytes)
    assert [len(part) for part in found] == divided
    assert [photo for part in found for photo in part] == _photos(*sizes)


@pytest.mark.parametrize("place", ["no/such/folder/receipt.json", "."])
def test_a_receipt_that_cannot_be_saved_is_told_with_its_file(tmp_path: Path, place: str) -> None:
    with pytest.raises(NotSaved, match=re.escape(f"{tmp_path / place} cannot be written: ")):
        save({"payload": {}}, tmp_path / place)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_disk_that_fills_up_is_told_too() -> None:
    check_writable(Path("/dev/full"))
    with pytest.raises(NotSaved, match="No space left"):
        save({"payload": {}}, Path("/dev/full"))


def test_a_file_that_breaks_off_takes_nothing_away_and_leaves_nothing_behind(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise ServiceAway("the service broke off")

    file = tmp_path / "results.parquet"
    save_whole([b"whole"], file)
    with pytest.raises(ServiceAway):
        save_whole(broken(), file)
    assert (file.read_bytes(), list(tmp_path.iterdir())) == (b"whole", [file])
