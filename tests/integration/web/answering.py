"""Answers as a worker would give them, through the ledger and without a network."""

from collections.abc import Sequence
from typing import Any

from shared.database import Database
from shared.ledger.claim import Claimed, Lease, claim
from shared.ledger.complete import Outcome, complete

EVIDENCE = [round(0.1 * n - 2, 4) for n in range(49)]
ANSWER: dict[str, Any] = {
    "probabilities": {"mpox": 0.93, "other": 0.07},
    "thresholds": {"mpox": 0.4, "other": 0.4},
    "prediction_set": ["mpox"],
    "quality": {"blur": 120.5, "exposure": 0.5, "size": 900, "flat": 30.0},
    "in_distribution": True,
    "evidence": EVIDENCE,
}


def answer_all(worker_db: Database, outcomes: Sequence[str] = ("classified",), *, units: int = 100) -> None:
    """Claim what is ready and answer it, with these outcomes in turn."""
    with worker_db.transaction() as session:
        claimed = claim(session, "tests", units=units, lease_seconds=60)
    with worker_db.transaction() as session:
        complete(
            session,
            [Lease(unit.id, unit.fence) for unit in claimed],
            [
                _outcome(unit, at, outcomes[image.ordinal % len(outcomes)])
                for unit in claimed
                for at, image in enumerate(unit.images)
            ],
        )


def _outcome(unit: Claimed, at: int, outcome: str) -> Outcome:
    image = unit.images[at]
    asked = outcome in ("classified", "abstained")
    return Outcome(
        image.id,
        unit.id,
        image.ordinal,
        outcome,
        label="mpox" if asked else None,
        answer=ANSWER if asked else None,
        reasons=("ambiguous",) if outcome == "abstained" else ("damaged",) if outcome == "rejected" else (),
        model_id="demo" if asked else None,
        model_digest="ab" * 32 if asked else None,
        has_copy=asked,
        timings={"network": 0.01} if asked else None,
    )
