"""Files made to cost a reader more than they are worth, through a real decoding child."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.security.photos.bombs import BOMBS, Bomb
from tests.unit.worker import photo_files as files
from worker.decoding.decoder import Decoder
from worker.decoding.outcomes import REASONS, Decoded, Limits, Outcome, Rejected

LIMITS = Limits(max_bytes=50 << 20, max_pixels=40_000_000, copy_side=768)
CPU_SECONDS = 0.25
GOOD = files.encoded(files.photo(90, 90))


@pytest.fixture(scope="module")
def one() -> Iterator[Decoder]:
    made = Decoder(LIMITS, seconds=60)
    yield made
    made.close()


def test_there_are_enough_of_them_and_each_has_its_own_name() -> None:
    assert len({bomb.name for bomb in BOMBS}) == len(BOMBS) >= 24
    assert sum(bool(bomb.reasons) for bomb in BOMBS) >= 24


def _decoded(one: Decoder, data: bytes) -> tuple[Outcome, float]:
    """What becomes of it, and the CPU seconds that it takes the child, which has to live through it."""
    assert one.pid
    process = psutil.Process(one.pid)
    before = process.cpu_times()
    answer = one.decode(data)
    assert one.pid == process.pid, "the child did not live through it"
    after = process.cpu_times()
    return answer, after.user + after.system - before.user - before.system


@pytest.mark.parametrize("bomb", BOMBS, ids=[bomb.name for bomb in BOMBS])
def test_a_bomb_costs_next_to_nothing_and_harms_nobody(bomb: Bomb, one: Decoder) -> None:
    data = bomb.make()
    assert isinstance(one.decode(GOOD), Decoded)
    answer, spent = _decoded(one, data)
    # Once more where it was dear: the kernel charges a child that asks for memory with finding it.
    assert spent <= CPU_SECONDS or _decoded(one, data)[1] <= CPU_SECONDS
    if isinstance(answer, Rejected):
        assert answer.reason in bomb.reasons
    else:
        assert isinstance(answer, Decoded)
        assert not bomb.reasons
        assert files.CANARY not in answer.copy
        assert len(answer.copy) < 100_000
    assert isinstance(one.decode(GOOD), Decoded)


def test_a_file_that_takes_too_much_of_the_processor_is_given_up_and_the_next_one_is_read() -> None:
    """The largest photos take most of a second; here the allowance is made smaller than that."""
    one = Decoder(LIMITS, seconds=60, cpu_seconds=0.05)
    slow = files.png_bomb(6000, 6000, is_colour=True)
    assert one.decode(slow) == Rejected("timed_out", REASONS["timed_out"])
    assert one.pid is None
    assert isinstance(one.decode(GOOD), Decoded)
    one.close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
        ("JPEG", "CMYK", {"progressive": True}),
        ("PNG", "RGBA", {"compress_level": 1}),
        ("WEBP", "RGBA", {"lossless": True, "method": 0}),
    ],
)
def test_the_largest_photo_takes_less_than_half_a_gigabyte(
    kind: str, mode: str, options: dict[str, Any], one: Decoder
) -> None:
    size = (6200, 4700) if kind == "WEBP" else (7300, 5470)
    data = files.encoded(files.corners(*size).convert(mode), kind, **options)
    one.close()
    assert isinstance(one.decode(GOOD), Decoded)
    assert one.pid
    before = psutil.Process(one.pid).memory_info().rss
    assert isinstance(one.decode(data), Decoded)
    assert _peak(one.pid) - before < 512 << 20


@pytest.mark.parametrize("lossless", [False, True])
def test_a_webp_that_would_take_more_is_rejected_by_its_header_and_the_child_lives_on(
    lossless: bool, one: Decoder
) -> None:
    data = files.encoded(files.corners(6400, 4700), "WEBP", lossless=lossless, method=0)
    assert isinstance(one.decode(GOOD), Decoded)
    pid = one.pid
    answer = one.decode(data)
    assert isinstance(answer, Rejected)
    assert answer.reason == "too_many_pixels"
    assert answer.detail.startswith("The picture has 6400 x 4700 pixels; 29")
    assert answer.detail.endswith(" are the limit of a WebP of so many bytes.")
    assert one.pid == pid
    assert isinstance(one.decode(GOOD), Decoded)


def _peak(pid: int) -> int:
    """The most memory that a process ever had, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))
