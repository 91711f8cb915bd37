from pathlib import Path

import pytest

from cli.photos import Photo
from cli.sending import parts


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
