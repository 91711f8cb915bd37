"""Full bodies of webhooks: built once, and kept with their delivery, so that every attempt sends the same bytes."""

import contextlib
from typing import Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared import event_body, history
from shared.errors import Gone, NotFound
from shared.tables import Delivery
from worker.deliveries import Owed

# More than a body holds.
_MOST_ANSWERS: Final = 100

# A deletion comes before this, and the body is thin, or after it, and takes the answers out.
_HOLD: Final = sa.text("SELECT FROM job WHERE id = :job FOR KEY SHARE")


def build(session: Session, owed: Owed, public_url: str) -> bytes | None:
    """Return the body and keep it; None where the lease was lost, and another's body is the one that is sent."""
    answers = None
    if owed.event.job_id is not None:
        session.execute(_HOLD, {"job": owed.event.job_id})
        with contextlib.suppress(Gone, NotFound):
            answers = history.results(session, history.job(session, owed.event.job_id), limit=_MOST_ANSWERS).rows
    body = event_body.render(owed.event, public_url, owed.previous_id, owed.form, answers)
    kept = session.execute(
        sa.update(Delivery)
        .where(Delivery.id == owed.id, Delivery.fence == owed.fence, Delivery.state == "leased")
        .values(body=body)
        .returning(Delivery.id)
    )
    return body if kept.first() else None
