"""Photos of one scene are found alike whatever their size and compression, and others are not."""

import io

import numpy as np
from PIL import Image

from tests.unit.training.folders import picture
from training.likeness import groups, hashes, near_duplicates, perceptual_hash


def _hash(data: bytes, **saved: int) -> str:
    with Image.open(io.BytesIO(data)) as opened:
        return perceptual_hash(opened.resize((saved["side"],) * 2) if saved else opened)


def test_a_smaller_copy_is_near_and_another_picture_is_not() -> None:
    found = hashes([_hash(picture(1, side=96)), _hash(picture(1, side=96), side=64), _hash(picture(2, side=96))])
    assert near_duplicates(found).tolist() == [[0, 1]]


def test_near_duplicates_are_those_that_a_plain_loop_finds() -> None:
    draws = np.random.default_rng(5)
    found = draws.integers(0, 2**63, 1300, dtype=np.uint64)
    found[700:750] = found[:50] ^ np.uint64(0b11111)
    found[1290] = found[3] ^ np.uint64(2**11 - 1)
    plain = [
        [i, j] for i in range(1300) for j in range(i + 1, 1300) if (int(found[i]) ^ int(found[j])).bit_count() <= 10
    ]
    assert sorted(near_duplicates(found).tolist()) == plain
    assert len(plain) >= 50


def test_groups_join_patients_through_a_chain_of_duplicates() -> None:
    far = np.uint64(0xFFFFFFFF00000000)
    found = np.array([0, far, far ^ np.uint64(1), 0x00FF00FF00FF00FF, 0x00FF00FF00FF00FE], dtype=np.uint64)
    assert groups(["b", "b", "a", "a", "c"], found) == ["a"] * 5
    assert groups(["b", "b", "a", "d", "c"], found) == ["a", "a", "a", "c", "c"]
