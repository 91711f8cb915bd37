"""The photos that are sent while things break: some of every kind of answer, small ones, so that many go through."""

from pathlib import Path

from tests.integration.worker.conftest import photo

_DEMO = Path(__file__).parents[2] / "models" / "demo" / "photos"

#: The damaged one, the text file and the scene are among them; each once.
SAMPLES = list(
    dict.fromkeys([*(path.read_bytes() for path in sorted(_DEMO.glob("*.jpg"))), *(photo(seed) for seed in range(6))])
)
