"""Photos whose answers are known: those of a bundle's reference, as files that go the way of every photo."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.bundle import Bundle
from worker.inference.answers import probabilities_of, temperature_of
from worker.inference.parity import BOUNDS
from worker.inference.weights import load_reference

_MOST: Final = 4


@dataclass(frozen=True, slots=True)
class KnownAnswers:
    """A few photos of a bundle as PNG files, and the logits [n, classes] that float32 gives for them.

    ``temperatures`` are those that precisions divide them by: int8 has one of its own.
    """

    model_id: str
    digest: str
    labels: tuple[str, ...]
    photos: tuple[bytes, ...]
    logits: NDArray[np.float32]
    temperatures: tuple[float, ...]
    precisions: tuple[str, ...]

    @classmethod
    def of(cls, bundle: Bundle, most: int = _MOST) -> "KnownAnswers":
        """Take up to ``most`` photos of the reference, spread over it; raises ``BundleAltered``."""
        reference = load_reference(bundle)
        last = len(reference.logits) - 1
        chosen = np.linspace(0, last, min(most, last + 1)).round().astype(int)
        precisions = tuple(bundle.calibration["precisions"])
        return cls(
            bundle.id,
            bundle.digest,
            bundle.labels,
            tuple(known_photo(reference.photos[at]) for at in chosen),
            reference.logits[chosen],
            tuple(sorted({temperature_of(bundle, precision) for precision in ("f32", *precisions)})),
            precisions,
        )

    def strays(self, place: int, label: str | None, probabilities: Mapping[str, float]) -> float:
        """Return how far an answer is from the known one: the largest difference, infinite for another label."""
        known = self.logits[place : place + 1]
        if label != self.labels[int(known.argmax())] or set(probabilities) != set(self.labels):
            return float("inf")
        found = np.array([probabilities[name] for name in self.labels])
        # A result does not say in which precision it was computed.
        return min(float(np.abs(found - probabilities_of(known, each)[0]).max()) for each in self.temperatures)


def known_photo(pixels: NDArray[np.uint8]) -> bytes:
    """Return a photo of the reference as a PNG, which loses nothing."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def tolerance(precisions: Sequence[str]) -> float:
    """Return the parity tolerance of the coarsest of these precisions; unknown ones say nothing."""
    return max((BOUNDS[name] for name in precisions if name in BOUNDS), default=max(BOUNDS.values()))
