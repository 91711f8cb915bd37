"""Answers as a worker would give them, through the ledger and without a network."""

from collections.abc import Sequence

from shared.database import Database
from shared.ledger.claim import Claimed, Lease, claim
from shared.ledger.complete import Outcome, complete
from tests.integration.ledger.said import ANSWER, EVIDENCE, said

__all__ = ["ANSWER", "EVIDENCE", "answer_all"]


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
        reasons=("ambiguous",) if outcome == "abstained" else ("damaged",) if outcome == "rejected" else (),
        has_copy=asked,
        network_ms=0.01 if asked else None,
        **(said() if asked else {}),
    )
