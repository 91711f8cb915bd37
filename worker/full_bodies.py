"""Full bodies of webhooks: built once, and kept with their delivery, so that every attempt sends the same bytes."""

import contextlib
from dataclasses import replace
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared import event_body, history, ids
from shared.errors import Gone, NotFound
from shared.tables import Delivery, Event
from shared.views import ResultView
from shared.webhooks import Recorded
from worker.deliveries import Owed

# More than a body holds.
_MOST_ANSWERS: Final = 100

# A deletion comes before this, and the body is thin, or after it, and takes the answers out.
_HOLD: Final = sa.text("SELECT FROM job WHERE id = :job FOR KEY SHARE")


def build(session: Session, owed: Owed, public_url: str) -> bytes | None:
    """Return the body and keep it; None where the lease was lost, and another's body is the one that is sent."""
    event, job_id, answers = owed.event, owed.event.job_id, None
    if job_id is not None:
        session.execute(_HOLD, {"job": job_id})
        event = _as_it_stands(session, event)
        with contextlib.suppress(Gone, NotFound):
            answers = _answers(session, event, job_id)
    body = event_body.render(event, public_url, owed.previous_id, owed.form, answers)
    kept = session.execute(
        sa.update(Delivery)
        .where(Delivery.id == owed.id, Delivery.fence == owed.fence, Delivery.state == "leased")
        .values(body=body)
        .returning(Delivery.id)
    )
    return body if kept.first() else None


def _as_it_stands(session: Session, event: Recorded) -> Recorded:
    """Return the event as its row has it now: a deletion after the claim took out what the photo was called."""
    told = sa.select(Event.body).where(Event.tenant_id == event.tenant_id, Event.seq == event.seq)
    return replace(event, body=session.execute(told).scalar_one())


def _answers(session: Session, event: Recorded, job_id: UUID) -> list[ResultView] | None:
    """Return the answers that an event is about; None where a photo has another one, or none, since it was retried.

    Only failed photos are tried again, so one that failed in an earlier round may have failed anew, otherwise.
    """
    job = history.job(session, job_id)
    if event.kind != "image.completed":
        return history.results(session, job, limit=_MOST_ANSWERS).rows
    found = history.image(session, ids.parse("image", event.body["image"]))
    return [found] if job.round == event.round or found.outcome == event.body["outcome"] != "failed" else None
