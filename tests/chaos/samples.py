"""The photos that are sent while things break: some of every kind of answer, small ones, so that many go through."""

from pathlib import Path
from typing import Final

from tests.integration.worker.conftest import photo

_DEMO = Path(__file__).parents[2] / "models" / "demo" / "photos"

#: The damaged one, the text file and the scene are among them; each once.
SAMPLES: Final = list(
    dict.fromkeys([*(path.read_bytes() for path in sorted(_DEMO.glob("*.jpg"))), *(photo(seed) for seed in range(6))])
)
#: Those that an archive may hold as photos: an entry that is none is answered without its bytes ever being stored.
JPEGS: Final = [sample for sample in SAMPLES if sample.startswith(b"\xff\xd8")]
