"""What the network said about a photo, packed for the ledger's rows, and what the numbers of a model mean.

A result is one of millions, so its numbers are packed (``pack``), and what is the same for every answer of a model, its
labels and thresholds, is one row that they all name (``Scheme``). Packed, big-endian: a byte of flags (1: in
distribution), 32 bits of the prediction set (bit n: label n), a float a label (its probability), a double a quality
figure, and the rest floats: the evidence, rows first.

A float holds probabilities to 3e-8 and evidence to 6e-8 of its size; rounded to the published digits, probabilities
come back as they were, and so does evidence below 500.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import sha256
from struct import Struct
from typing import Any
from uuid import UUID

_PROBABILITY_DIGITS, _EVIDENCE_DIGITS = 6, 4
_MOST_LABELS = 32
_IN_DISTRIBUTION = 1


@dataclass(frozen=True, eq=False)
class Scheme:
    """What is the same for every answer of a model: how to read the packed numbers, and what they were held against.

    Thresholds stand in the order of the labels; ``quality`` names the figures of a photo's fitness. Two of them are
    equal where they are the same object (``scheme``).
    """

    model_id: str
    model_digest: str
    labels: tuple[str, ...]
    thresholds: tuple[float, ...]
    quality: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.labels) > _MOST_LABELS or len(self.thresholds) != len(self.labels):
            raise ValueError(f"a scheme has a threshold for each of at most {_MOST_LABELS} labels")

    @cached_property
    def id(self) -> UUID:
        """The first half of the SHA-256 of all that the scheme says: two workers name the same by the same."""
        said = [self.model_id, self.model_digest, self.labels, self.thresholds, self.quality]
        return UUID(bytes=sha256(json.dumps(said).encode()).digest()[:16])

    def pack(
        self,
        probabilities: Mapping[str, float],
        prediction_set: Sequence[str],
        quality: Mapping[str, float],
        evidence: Sequence[float],
        *,
        in_distribution: bool,
    ) -> bytes:
        """Return an answer's numbers in few bytes.

        Raises ``KeyError`` for a label or a figure that the scheme lacks, ``ValueError`` where one of its own is
        missing, and ``OverflowError`` for a number that no float holds.
        """
        if len(probabilities) != len(self.labels) or len(quality) != len(self.quality):
            raise ValueError("an answer has a probability for each label and every figure of its scheme")
        fitting = 0
        for label in prediction_set:
            fitting |= self._bits[label]
        return _layout(len(self.labels), len(self.quality), len(evidence)).pack(
            _IN_DISTRIBUTION if in_distribution else 0,
            fitting,
            *map(probabilities.__getitem__, self.labels),
            *map(quality.__getitem__, self.quality),
            *evidence,
        )

    def unpack(self, numbers: bytes) -> dict[str, Any]:
        """Return the answer as readers know it; raises ``struct.error`` for what this scheme did not pack."""
        labels, figures = len(self.labels), len(self.quality)
        evidence = (len(numbers) - _layout(labels, figures, 0).size) // 4
        flags, fitting, *values = _layout(labels, figures, evidence).unpack(numbers)
        probabilities, quality, rest = values[:labels], values[labels : labels + figures], values[labels + figures :]
        return {
            "probabilities": {
                label: round(value, _PROBABILITY_DIGITS)
                for label, value in zip(self.labels, probabilities, strict=True)
            },
            "thresholds": dict(zip(self.labels, self.thresholds, strict=True)),
            "prediction_set": [label for place, label in enumerate(self.labels) if fitting >> place & 1],
            "quality": dict(zip(self.quality, quality, strict=True)),
            "in_distribution": bool(flags & _IN_DISTRIBUTION),
            "evidence": [round(value, _EVIDENCE_DIGITS) for value in rest],
        }

    @cached_property
    def _bits(self) -> dict[str, int]:
        return {label: 1 << place for place, label in enumerate(self.labels)}


@cache
def scheme(
    model_id: str, model_digest: str, thresholds: tuple[tuple[str, float], ...], quality: tuple[str, ...]
) -> Scheme:
    """Return the scheme of a model's answers: always the same object, so that its id is worked out once."""
    labels = tuple(label for label, _ in thresholds)
    return Scheme(model_id, model_digest, labels, tuple(value for _, value in thresholds), quality)


@cache
def _layout(labels: int, figures: int, evidence: int) -> Struct:
    return Struct(f">BI{labels}f{figures}d{evidence}f")
