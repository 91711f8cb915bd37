"""What every peer serves: our decoding and our network, from the bytes of photos to answers, in one process."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from shared.bundle import load_bundle
from shared.processors import processors
from worker.decoding.child import answer as decode
from worker.decoding.outcomes import Limits
from worker.inference.classifier import Classifier
from worker.inference.preprocess import SIDE, Quality

# Photos at once, as many as our engine takes; and the seconds to wait for more where a peer must be told.
MOST = 16
WAIT_SECONDS = 0.01
_LIMITS = Limits(max_bytes=50 << 20, max_pixels=40_000_000, copy_side=768)
_ROOT = Path(__file__).resolve().parents[2]


class Network:
    """The demo bundle behind OpenVINO, on all cores; photos of a batch are decoded side by side, by threads."""

    def __init__(self) -> None:
        bundle = load_bundle(_ROOT / "models" / "demo")
        cache = Path(os.environ["PEERS_CACHE"])
        cache.mkdir(parents=True, exist_ok=True)
        self._classifier = Classifier.load(bundle, engine="openvino", cache=cache)
        self._threads = ThreadPoolExecutor(processors())

    def answer(self, photos: Sequence[bytes]) -> list[dict[str, Any]]:
        """Return what the network says of each photo, in order; a photo that cannot be read is rejected alone."""
        decoded = list(self._threads.map(lambda photo: decode(photo, _LIMITS), photos))
        good = [(head, parts) for head, parts in decoded if parts]
        pixels = [np.frombuffer(parts[0], np.uint8).reshape(SIDE, SIDE, 3) for _, parts in good]
        qualities = [Quality(**head["quality"]) for head, _ in good]
        answers = iter(self._classifier.classify(np.stack(pixels), qualities) if good else ())
        return [_told(next(answers)) if parts else {"outcome": "rejected"} for _, parts in decoded]


def _told(answer: Any) -> dict[str, Any]:
    return {
        "outcome": answer.outcome,
        "label": answer.label,
        "probabilities": answer.probabilities,
        "evidence": answer.evidence,
    }
