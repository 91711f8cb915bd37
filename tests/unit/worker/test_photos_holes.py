"""Zeroed stretches of a JPEG, wherever they lie in the file."""

import pytest

from tests.unit.worker import photo_files as files
from worker.decoding.holes import _may_hold, has_hole

JPEG = files.encoded(files.photo())
SCAN = JPEG.index(b"\xff\xda") + 200


def test_a_whole_photo_has_no_hole() -> None:
    assert not has_hole(JPEG)


@pytest.mark.parametrize("at", range(SCAN, SCAN + 9))
def test_a_hole_of_32_bytes_is_seen_wherever_it_begins(at: int) -> None:
    assert has_hole(JPEG[:at] + bytes(32) + JPEG[at + 32 :])
    assert not has_hole(JPEG[:at] + bytes(15) + b"\1" + bytes(15) + b"\1" + JPEG[at + 32 :])


@pytest.mark.parametrize("length", range(SCAN + 32, SCAN + 41))
def test_a_hole_at_the_very_end_is_seen_whatever_the_length(length: int) -> None:
    assert has_hole(JPEG[: length - 32] + bytes(32))


@pytest.mark.parametrize("at", range(64, 73))
@pytest.mark.parametrize("behind", range(9))
def test_no_hole_escapes_the_first_look_and_a_file_without_zeros_ends_there(at: int, behind: int) -> None:
    assert _may_hold(b"x" * at + bytes(32) + b"x" * behind)
    assert not _may_hold(b"x" * (at + behind))


def test_nothing_is_too_short_to_be_asked_about() -> None:
    for length in range(40):
        assert not has_hole(bytes(length))
