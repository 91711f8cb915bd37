"""The photos that are sent while things break: some of every kind of answer, small ones, so that many go through."""

from pathlib import Path
from typing import Final

from tests.integration.worker.conftest import photo

_DEMO = Path(__file__).parents[2] / "models" / "demo" / "photos"

_KINDS: Final = ("damaged", "garden", "notes", *(f"photo-0{number}" for number in range(1, 7)), "photo-24")

#: Damaged, of no skin, no photo, of either label, the largest, and noise; each once, for each costs its time each time.
SAMPLES: Final = [*((_DEMO / f"{kind}.jpg").read_bytes() for kind in _KINDS), *(photo(seed) for seed in range(5))]
#: Those that an archive may hold as photos: an entry that is none is answered without its bytes ever being stored.
JPEGS: Final = [sample for sample in SAMPLES if sample.startswith(b"\xff\xd8")]
