"""Counting answers into jobs, and closing a job whose last photo has its answer.

This comes last in a transaction: it locks job rows in the order of their ids, then the tenants' event counters.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared import events, image_events
from shared.prepared import Prepared, array
from shared.vocabulary import OUTCOMES

# Jobs of fewer photos are over before anybody could ask how far they are.
_MANY: Final = 100

# Results inserted before hold their job by its key already, as foreign keys do; the stronger FOR UPDATE would make two
# transactions that both have results of a job wait for each other.
_LOCK = sa.text("SELECT id FROM job WHERE id = ANY (CAST(:jobs AS uuid[])) ORDER BY id FOR NO KEY UPDATE")

# A job that still takes photos in goes on, however many of those it has are answered.
_ENDS = "j.remaining = x.written AND j.closed_at IS NULL AND j.state <> 'receiving'"

_COUNT = Prepared(
    f"""
    UPDATE job j SET
      remaining = j.remaining - x.written,
      {", ".join(f"{outcome} = j.{outcome} + x.{outcome}" for outcome in OUTCOMES)},
      state = CASE WHEN {_ENDS} THEN :closing ELSE j.state END,
      closed_at = CASE WHEN {_ENDS} THEN now() ELSE j.closed_at END,
      started_at = CASE WHEN x.classified + x.abstained + x.rejected + x.failed > 0
        THEN coalesce(j.started_at, now()) ELSE j.started_at END
    FROM unnest(:jobs, :written, {", ".join(f":{outcome}" for outcome in OUTCOMES)})
      AS x(id, written, {", ".join(OUTCOMES)})
    WHERE j.id = x.id
    RETURNING j.id, j.tenant_id, j.state, j.round, j.total, j.remaining, {", ".join(f"j.{o}" for o in OUTCOMES)},
      {image_events.ASKED} AS is_asked
    """,  # noqa: S608  # made of the constant names above
    {"jobs": "uuid[]", "written": "int[]", **dict.fromkeys(OUTCOMES, "int[]"), "closing": "text"},
)


def lock(session: Session, jobs: Iterable[UUID]) -> None:
    """Lock these jobs in the order of their ids, for a transaction that changes several before it counts."""
    session.execute(_LOCK, {"jobs": sorted(str(job) for job in jobs)})


def count(
    session: Session,
    tally: Mapping[UUID, Mapping[str, int]],
    *,
    closing: str = "completed",
    ended: Iterable[UUID] = (),
) -> list[UUID]:
    """Add new results to their jobs and return the jobs that this closed; whoever asked hears of each photo.

    ``tally`` gives, for each job, how many results of each outcome were really inserted: so ``remaining`` is ``total``
    minus the results at every instant. ``closing`` is the state that a job takes when nothing remains. ``ended`` are
    jobs that take nothing in any more: their last photo may have had its answer before.
    """
    ended = set(ended)
    tally = {job: Counter[str]() for job in ended} | {job: new for job, new in tally.items() if sum(new.values())}
    jobs = sorted(tally)
    if not jobs:
        return []
    if len(jobs) > 1:  # one alone has no order, and its update locks it
        lock(session, jobs)
    rows = _COUNT.run(
        session,
        {
            "jobs": array(job.hex for job in jobs),
            "closing": closing,
            "written": [sum(tally[job].values()) for job in jobs],
            **{outcome: [tally[job].get(outcome, 0) for job in jobs] for outcome in OUTCOMES},
        },
    )
    closed = [row for row in rows if row.remaining == 0 and row.state != "receiving"]
    far = [row for row in rows if row.remaining and _passes_a_quarter(row, sum(tally[row.id].values()))]
    late = _put_off(session, closed, tally, ended)
    told = [_event(row, f"job.{row.state}") for row in closed if row.id not in late]
    told += [_event(row, "job.progress") for row in far]
    if asked := [row.id for row in rows if row.is_asked and row.id not in late]:
        image_events.record(session, asked, {event.tenant_id for event in told})
    events.record(session, told)
    return [row.id for row in closed]


def _put_off(
    session: Session, closed: Iterable[Any], tally: Mapping[UUID, Mapping[str, int]], ended: Collection[UUID]
) -> set[UUID]:
    """Return the closed jobs of so many photos, answered here, that the sweep is to tell of them, and of the end."""
    # Photos of a list that were never fetched are answered outside the tally, by what ends the job.
    many = [
        row
        for row in closed
        if row.is_asked and (row.id in ended or sum(tally[row.id].values()) > image_events.AT_ONCE)
    ]
    return image_events.put_off(session, [_event(row, f"job.{row.state}") for row in many]) if many else set()


def _passes_a_quarter(job: Any, written: int) -> bool:
    """Tell whether these results took a job of many photos past a quarter, a half or three quarters of them."""
    if job.total < _MANY or job.state == "receiving":
        return False
    done = job.total - job.remaining
    return bool(4 * done // job.total > 4 * (done - written) // job.total)


def _event(job: Any, kind: str) -> events.NewEvent:
    body: dict[str, Any] = {"total": job.total, "counts": {outcome: getattr(job, outcome) for outcome in OUTCOMES}}
    if kind == "job.progress":
        body["progress"] = round((job.total - job.remaining) / job.total, 4)
    return events.NewEvent(job.tenant_id, kind, job.id, job.round, body)
