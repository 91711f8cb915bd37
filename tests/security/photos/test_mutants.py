"""Altered photos of every kind through a real decoding child; ``make fuzz`` does the same at length."""

import random

from tests.security.photos import fuzz
from tests.security.photos.mutants import mutant, seeds

COUNT = 3_000


def test_no_altered_photo_ends_or_hangs_the_child_or_takes_more_than_its_share() -> None:
    seed = random.SystemRandom().randrange(1 << 31)
    findings = fuzz.decode_all(fuzz.mutants(seed, COUNT))
    assert findings.faults == [], f"seed {seed}"
    assert findings.outcomes.total() == COUNT
    assert findings.memory < fuzz.MOST_MEMORY, f"seed {seed}"
    # Else they would say little: some have to get through, and some have to be seen.
    assert findings.outcomes["decoded"] > COUNT / 20
    assert findings.outcomes["damaged"] > COUNT / 20


def test_a_mutant_can_be_made_again_and_no_two_seeds_make_the_same() -> None:
    assert [mutant(7, n) for n in range(50)] == [mutant(7, n) for n in range(50)]
    assert len({mutant(seed, n) for seed in (7, 8) for n in range(50)}) > 95


def test_every_photo_that_mutants_are_made_of_is_itself_good_or_an_animation() -> None:
    findings = fuzz.decode_all((str(n), data) for n, data in enumerate(seeds()))
    assert findings.outcomes == {"decoded": len(seeds()) - 1, "unsupported_frames": 1}
    assert findings.faults == []
