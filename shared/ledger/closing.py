"""Counting answers into jobs, and closing a job whose last photo has its answer.

This comes last in a transaction: it locks job rows in the order of their ids, then the tenants' event counters.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final
from uuid import UUID

from sqlalchemy.orm import Session

from shared import events, image_events
from shared.database import new_id
from shared.prepared import Prepared, array
from shared.vocabulary import OUTCOMES

# Jobs of fewer photos are over before anybody could ask how far they are.
_MANY: Final = 100

# Results inserted before hold their job by its key already, as foreign keys do; the stronger FOR UPDATE would make two
# transactions that both have results of a job wait for each other.
# It is a statement of its own: one that locks and changes too would, after it has waited, begin with rows as they were.
_LOCK = Prepared("SELECT id FROM job WHERE id = ANY (:jobs) ORDER BY id FOR NO KEY UPDATE", {"jobs": "uuid[]"})

# A job that still takes photos in goes on, however many of those it has are answered.
_ENDS = "j.remaining = x.written AND j.closed_at IS NULL AND j.state <> 'receiving'"

# Ends are told by the statement itself, unless one of the jobs has more to tell before.
_COUNT = Prepared(
    f"""
    WITH counted AS (
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
        {image_events.ASKED} AS is_asked),
    all_told AS MATERIALIZED (
      SELECT NOT EXISTS (SELECT FROM counted WHERE is_asked OR (remaining > 0 AND total >= {_MANY})) AS so),
    news AS (
      SELECT tenant_id, row_number() OVER w AS place, (:ends)[row_number() OVER w] AS id, 'job.' || state AS kind,
        id AS job_id, round, jsonb_build_object('total', total, 'counts',
          jsonb_build_object({", ".join(f"'{outcome}', {outcome}" for outcome in OUTCOMES)})) AS body
      FROM counted WHERE remaining = 0 AND state <> 'receiving' AND (SELECT so FROM all_told)
      WINDOW w AS (ORDER BY id)),
    {events.TELLING}
    SELECT counted.*, (SELECT so FROM all_told) AS all_told, {events.OWED} AS owed FROM counted
    """,  # noqa: S608  # made of the constant names above
    {
        "jobs": "uuid[]",
        "written": "int[]",
        **dict.fromkeys(OUTCOMES, "int[]"),
        "closing": "text",
        "ends": "uuid[]",
    },
)


def lock(session: Session, jobs: Iterable[UUID]) -> None:
    """Lock these jobs in the order of their ids, for a transaction that changes several before it counts."""
    _LOCK.run(session, _named(jobs))


def _named(jobs: Iterable[UUID]) -> dict[str, str]:
    return {"jobs": array(job.hex for job in jobs)}


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
    rows = _COUNT.run(
        session,
        {
            **_named(jobs),
            "closing": closing,
            "ends": array(new_id().hex for _ in jobs),
            "written": [sum(tally[job].values()) for job in jobs],
            **{outcome: [tally[job].get(outcome, 0) for job in jobs] for outcome in OUTCOMES},
        },
        first=(_LOCK, _named(jobs)) if len(jobs) > 1 else None,  # one alone has no order, and its update locks it
    )
    closed = [row for row in rows if row.remaining == 0 and row.state != "receiving"]
    if rows and rows[0].all_told:
        events.owe(session, rows[0].owed)
        return [row.id for row in closed]
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
