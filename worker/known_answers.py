"""Photos whose answers are known: those of a bundle's reference, as files that go the way of every photo."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.bundle import Bundle
from worker.inference.answers import probabilities_of
from worker.inference.parity import BOUNDS
from worker.inference.weights import load_reference

_MOST: Final = 4


@dataclass(frozen=True, slots=True)
class KnownAnswers:
    """A few photos of a bundle as PNG files, and the calibrated probability of each label for each of them."""

    model_id: str
    digest: str
    labels: tuple[str, ...]
    photos: tuple[bytes, ...]
    expected: NDArray[np.float64]
    precisions: tuple[str, ...]

    @classmethod
    def of(cls, bundle: Bundle, most: int = _MOST) -> "KnownAnswers":
        """Take up to ``most`` photos of the reference, spread over it; raises ``BundleAltered``."""
        reference = load_reference(bundle)
        expected = probabilities_of(reference.logits, float(bundle.calibration["temperature"]))
        chosen = np.linspace(0, len(expected) - 1, min(most, len(expected))).round().astype(int)
        return cls(
            bundle.id,
            bundle.digest,
            bundle.labels,
            tuple(known_photo(reference.photos[at]) for at in chosen),
            expected[chosen],
            tuple(bundle.calibration["precisions"]),
        )

    def strays(self, place: int, label: str | None, probabilities: Mapping[str, float]) -> float:
        """Return how far an answer is from the known one: the largest difference, infinite for another label."""
        known = self.expected[place]
        if label != self.labels[int(known.argmax())] or set(probabilities) != set(self.labels):
            return float("inf")
        found = np.array([probabilities[name] for name in self.labels])
        return float(np.abs(found - known).max())


def known_photo(pixels: NDArray[np.uint8]) -> bytes:
    """Return a photo of the reference as a PNG, which loses nothing."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def tolerance(precisions: Sequence[str]) -> float:
    """Return the parity tolerance of the coarsest of these precisions; unknown ones say nothing."""
    return max((BOUNDS[name] for name in precisions if name in BOUNDS), default=max(BOUNDS.values()))
