"""Owns how alike photos are: perceptual hashes, near-duplicates, and the groups that patients and duplicates form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LIMIT: Final = 10
BITS: Final = 64
_ROWS: Final = 512

Hashes = NDArray[np.uint64]


def perceptual_hash(picture: Image.Image) -> str:
    """The 64 bits of the picture's coarse pattern (pHash: the lowest 8 x 8 of a 32 x 32 DCT) as 16 hex digits."""
    import imagehash  # noqa: PLC0415 - it brings SciPy, and most of training needs neither

    return str(imagehash.phash(picture))


def hashes(texts: Sequence[str]) -> Hashes:
    """Perceptual hashes [n] as numbers, from their hex digits."""
    return np.array([int(text, 16) for text in texts], dtype=np.uint64)


def near_duplicates(found: Hashes, *, limit: int = LIMIT) -> NDArray[np.intp]:
    """Pairs [m, 2] of photos, the first before the second, whose hashes [n] differ in at most `limit` of 64 bits.

    Every pair is compared, a block of rows at a time: 10,000 photos are 50 million comparisons, under a second.
    """
    blocks = list(_close(found, limit))
    return np.concatenate(blocks) if blocks else np.empty((0, 2), dtype=np.intp)


def _close(found: Hashes, limit: int) -> Iterator[NDArray[np.intp]]:
    for start in range(0, len(found), _ROWS):
        rows = found[start : start + _ROWS]
        apart = np.bitwise_count(rows[:, None] ^ found[None, start:])
        one, other = np.nonzero(apart <= limit)
        forward = other > one
        yield np.stack([one[forward], other[forward]], axis=1) + start


def groups(patients: Sequence[str], found: Hashes, *, limit: int = LIMIT) -> list[str]:
    """For each photo the group that must stay together: its patient, joined with all that near-duplicates tie to it.

    A group bears the name of its first patient in alphabetical order.
    """
    from scipy.sparse import coo_matrix  # noqa: PLC0415
    from scipy.sparse.csgraph import connected_components  # noqa: PLC0415

    names, owner = np.unique(np.asarray(patients, dtype=object).astype(str), return_inverse=True)
    pairs = owner[near_duplicates(found, limit=limit)].reshape(-1, 2)
    ties = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(names), len(names)))
    _, part = connected_components(ties, directed=False)
    # Names are sorted, so the first index of a part is that of its first name.
    _, first = np.unique(part, return_index=True)
    return [str(names[first[part[index]]]) for index in owner]
