"""Damaged JPEGs through a real decoding child: whatever breaks the stream of codes has to be seen.

Figures per kind are printed by ``python -m tests.security.photos.test_damage`` and stand in docs/decisions.
"""

import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.security.photos import damage
from worker.decoding.decoder import Decoder
from worker.decoding.outcomes import Decoded, Limits

LIMITS = Limits(max_bytes=20 << 20, max_pixels=40_000_000, copy_side=768)
SEED = 2026

Read = Callable[[bytes], NDArray[np.uint8] | None]


def reader(decoder: Decoder) -> Read:
    """Return what gives the network's input of a file, or None where it is rejected."""

    @functools.lru_cache(maxsize=64)
    def read(data: bytes) -> NDArray[np.uint8] | None:
        answer = decoder.decode(data)
        if isinstance(answer, Decoded):
            return answer.pixels
        assert answer.reason not in {"decoder_died", "timed_out"}
        return None

    return read


@pytest.fixture(scope="module")
def read() -> Iterator[Read]:
    one = Decoder(LIMITS, seconds=60)
    yield reader(one)
    one.close()


def test_every_photo_that_is_damaged_here_is_good_to_begin_with(read: Read) -> None:
    assert all(read(photo) is not None for photo in damage.photos().values())


def test_of_a_thousand_damaged_photos_at_least_ninety_nine_in_a_hundred_are_rejected(read: Read) -> None:
    found = damage.measure(damage.KINDS, 92, SEED, read)
    total = sum(found.values(), Counter[str]())
    assert total.total() - total["none"] >= 1000
    assert total["flagged"] >= 0.99 * (total.total() - total["none"]), found
    assert all(outcomes["flagged"] >= 0.95 * outcomes.total() for outcomes in found.values()), found
    assert total["another picture"] <= 2, found


def test_of_damage_that_leaves_a_stream_most_is_seen_or_harms_nothing(read: Read) -> None:
    """Single bits and bytes: Huffman codes fall back into step, and what they say then is a picture like any other."""
    found = damage.measure(damage.QUIET, 60, SEED, read)
    total = sum(found.values(), Counter[str]())
    assert total["flagged"] >= 0.35 * total.total(), found
    assert total["flagged"] + total["harmless"] >= 0.7 * total.total(), found


def main(count: int) -> None:
    """Print a row per kind."""
    one = Decoder(LIMITS, seconds=60)
    for kinds in (damage.KINDS, damage.QUIET):
        found = damage.measure(kinds, count, SEED, reader(one))
        for name, outcomes in [*found.items(), ("all of them", sum(found.values(), Counter[str]()))]:
            done = outcomes.total() - outcomes["none"]
            shares = (f"{100 * outcomes[key] / done:6.1f}" for key in ("flagged", "harmless", "another picture"))
            sys.stdout.write(f"| {name.replace('_', ' '):<26} | {' | '.join(shares)} |\n")
    one.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 1000)
