"""A claimed unit and what becomes of its images: each ends as an outcome, or is put off because a part is away."""

import random
from concurrent.futures import Future
from dataclasses import dataclass, field
from uuid import UUID

from shared.answers import scheme
from shared.bundle import Bundle
from shared.ledger.claim import Claimed, ClaimedImage
from shared.ledger.complete import Deferred, Outcome
from shared.logs import logger
from worker.backoff import backoff_seconds
from worker.inference.answers import Answer
from worker.inference.classifier import Classifier
from worker.photos import Decoded, Rejected, Unreadable

log = logger(__name__)

# With the backoff below, some 40 minutes of faults before a photo is given up.
MAX_ATTEMPTS = 12
NETWORK_FAILED = "network_failed"
STORAGE_UNREACHABLE = "storage_unreachable"
PHOTO_MISSING = "photo_missing"
BYTES_CHANGED = "bytes_changed"
MODEL_UNAVAILABLE = "model_unavailable"
DECODER_UNAVAILABLE = "decoder_unavailable"


@dataclass(slots=True, eq=False)
class Work:
    """One unit under way. It is whole when every image has an outcome or is deferred."""

    unit: Claimed
    outcomes: list[Outcome] = field(default_factory=list)
    deferred: list[Deferred] = field(default_factory=list)
    copies: dict[UUID, bytes] = field(default_factory=dict)
    #: Copies that are being stored, or are, while their photos have no answer yet.
    stored_ahead: dict[UUID, Future[None]] = field(default_factory=dict)
    #: The network that answers the whole unit; None while it is not known.
    classifier: Classifier | None = None

    @property
    def is_whole(self) -> bool:
        """Return whether nothing of the unit is left to do."""
        return len(self.outcomes) + len(self.deferred) == self.unit.n

    def settle_unclassified(self, image: ClaimedImage, photo: Rejected | Unreadable) -> None:
        """Settle a photo that never reached the network."""
        if isinstance(photo, Rejected):
            self._add(image, "rejected", photo.reason)
            return
        if photo.reason == BYTES_CHANGED:
            log.error("bytes_changed", job=str(self.unit.job_id), image=str(image.id), ordinal=image.ordinal)
        if photo.reason == PHOTO_MISSING:
            self._add(image, "failed", PHOTO_MISSING)
        else:
            self._put_off(image, photo.reason)

    def settle_without_model(self) -> None:
        """Settle every photo of a unit whose model cannot be loaded here now: it may be later, or on another node."""
        for image in self.unit.images:
            self._put_off(image, MODEL_UNAVAILABLE)

    def settle_broken(self, image: ClaimedImage, error: Exception) -> None:
        """Settle a photo that broke the network, alone. Want of memory may pass; everything else is the photo."""
        if isinstance(error, MemoryError):
            self._put_off(image, NETWORK_FAILED)
        else:
            self._add(image, "failed", NETWORK_FAILED)

    def settle_answered(
        self, image: ClaimedImage, decoded: Decoded, answer: Answer, bundle: Bundle, network_ms: float
    ) -> None:
        """Settle a photo that has its answer, and keep its working copy until the unit is completed."""
        self.copies[image.id] = decoded.copy
        said = scheme(bundle.id, bundle.digest, tuple(answer.thresholds.items()), tuple(answer.quality))
        self.outcomes.append(
            Outcome(
                image_id=image.id,
                unit_id=self.unit.id,
                ordinal=image.ordinal,
                outcome=answer.outcome,
                label=answer.label,
                scheme=said,
                numbers=said.pack(
                    answer.probabilities,
                    answer.prediction_set,
                    answer.quality,
                    answer.evidence,
                    in_distribution=answer.in_distribution,
                ),
                reasons=tuple(answer.reasons),
                has_copy=True,
                decode_ms=round(decoded.seconds * 1000, 2),
                network_ms=network_ms,
            )
        )

    def without_copies(self) -> "Work":
        """Return the unit with every photo that needs a working copy put off until the storage is back.

        After the last attempt the answers stand without their pictures: the network has given them.
        """
        if self.unit.attempt >= MAX_ATTEMPTS:
            return Work(self.unit, [item._replace(has_copy=False) for item in self.outcomes], self.deferred)
        delay = self._delay()
        late = [Deferred(item.unit_id, item.ordinal, delay) for item in self.outcomes if item.has_copy]
        return Work(self.unit, [item for item in self.outcomes if not item.has_copy], [*self.deferred, *late])

    def _add(self, image: ClaimedImage, outcome: str, reason: str) -> None:
        self.outcomes.append(Outcome(image.id, self.unit.id, image.ordinal, outcome, reasons=(reason,)))

    def _put_off(self, image: ClaimedImage, reason: str) -> None:
        if self.unit.attempt >= MAX_ATTEMPTS:
            self._add(image, "failed", reason)
        else:
            self.deferred.append(Deferred(self.unit.id, image.ordinal, self._delay()))

    def _delay(self) -> float:
        return backoff_seconds(self.unit.attempt, random.random())  # noqa: S311  # jitter
