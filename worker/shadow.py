"""The shadow: a model that looks at photos which another one has answered, while nothing waits.

What it says goes into a table of its own and nowhere else. Photos wait for it in memory, a bounded number, and the
oldest go unseen where there is no idle time; a worker that is killed loses them, and no answer with them.
"""

import threading
from collections import deque
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.exc import IntegrityError

from shared.bundle import Bundle
from shared.database import Database
from shared.errors import DatabaseAway
from shared.ledger.claim import Claimed
from shared.logs import logger
from shared.registry import shadow
from shared.registry.shadow import Seen
from worker.inference.answers import Answer
from worker.inference.classifier import Classifier
from worker.inference.preprocess import Quality

log = logger(__name__)

# 150 kB each.
_MOST: Final = 256


class Chooses(Protocol):
    """Says which model is the shadow of an answer."""

    def shadow_of(self, unit: Claimed, image_id: UUID, bundle: Bundle) -> Classifier | None:
        """Return the shadow that looks at this photo, which ``bundle`` has answered; None where none does."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    unit: Claimed
    image_id: UUID
    pixels: NDArray[np.uint8]
    quality: Quality
    answer: Answer
    bundle: Bundle
    by: Classifier


class Shadow:
    """Photos of one worker that wait for the shadow. Every drain offers, one of them looks."""

    def __init__(self, database: Database, models: Chooses) -> None:
        self._database, self._models = database, models
        self._waiting: deque[_Waiting] = deque(maxlen=_MOST)
        self._lock = threading.Lock()

    def offer(  # noqa: PLR0917 - the order is the one in which they come about
        self,
        unit: Claimed,
        image_id: UUID,
        pixels: NDArray[np.uint8],
        quality: Quality,
        answer: Answer,
        bundle: Bundle,
    ) -> None:
        """Let the shadow look at this photo later, if it is one of its share; costs a hash where there is a shadow."""
        by = self._models.shadow_of(unit, image_id, bundle)
        if by is None:
            return
        with self._lock:
            self._waiting.append(_Waiting(unit, image_id, pixels, quality, answer, bundle, by))

    def look(self, photos: int) -> bool:
        """Look at up to so many photos of one model and write what it says; False where none waits."""
        with self._lock:
            if not self._waiting:
                return False
            by = self._waiting[0].by
            batch: list[_Waiting] = []
            while self._waiting and len(batch) < photos and self._waiting[0].by is by:
                batch.append(self._waiting.popleft())
        try:
            answers = by.classify(np.stack([one.pixels for one in batch]), [one.quality for one in batch])
        except Exception as error:  # noqa: BLE001  # engines raise what they like; these photos have their answers
            log.error("shadow_failed", model=by.bundle.id, error=type(error).__name__)
            return True
        self._write([_seen(one, answer) for one, answer in zip(batch, answers, strict=True)])
        return True

    def drop(self) -> None:
        """Forget what waits."""
        self._waiting.clear()

    def _write(self, rows: list[Seen]) -> None:
        try:
            with self._database.transaction() as session:
                shadow.write(session, rows)
        except DatabaseAway:
            log.warning("shadow_not_written", photos=len(rows))
        except IntegrityError:  # a job was deleted meanwhile, with its photos
            log.warning("shadow_of_deleted_job", photos=len(rows))


def _seen(one: _Waiting, said: Answer) -> Seen:
    was, says = one.answer.probabilities, said.probabilities
    moved = max(abs(was[label] - says[label]) for label in was) if set(was) == set(says) else None
    return Seen(
        image_id=one.image_id,
        tenant_id=one.unit.tenant_id,
        job_id=one.unit.job_id,
        digest=one.by.bundle.digest,
        outcome=said.outcome,
        label=said.label,
        p=says[said.label],
        live_digest=one.bundle.digest,
        live_outcome=one.answer.outcome,
        live_label=one.answer.label,
        live_p=was[one.answer.label],
        moved=moved,
    )
