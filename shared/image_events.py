"""Telling what became of each photo, ``image.completed``: where an endpoint names that kind, and nowhere else.

A photo's event is written with its result, in one transaction, where neither the number of photos nor that of the
endpoints makes another statement. But the end of a job may answer fifty thousand at once, and whoever asked for it
waits: of more than ``AT_ONCE`` only a note is kept (``put_off``), and the sweep tells of them piece by piece
(``tell_more``), the event that ends the job last.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared import events
from shared.database import new_id
from shared.events import NewEvent

KIND: Final = "image.completed"
#: Photos that the end of a job tells of itself.
AT_ONCE: Final = 1000
# Photos times endpoints of one piece.
_DELIVERIES: Final = 5000

#: Whether anybody is to hear of the photos of a job ``j``. `ix_endpoint_images` holds those endpoints alone, so where
#: there are none this reads one empty page.
ASKED: Final = """EXISTS (
    SELECT FROM endpoint p WHERE p.tenant_id = j.tenant_id AND 'image.completed' = ANY (p.kinds)
      AND (p.job_id IS NULL OR p.job_id = j.id))"""

# `ix_result_written` leads to what this very transaction wrote, whoever wrote it.
_MINE: Final = "r.job_id = ANY (CAST(:jobs AS uuid[])) AND r.written_in = pg_current_xact_id()::text::bigint"
_PIECE: Final = "r.image_id = ANY (CAST(:images AS uuid[]))"
_COUNT: Final = sa.text(
    f"SELECT r.tenant_id, count(*) FROM result r WHERE {_MINE} GROUP BY r.tenant_id"  # noqa: S608  # of the name above
)
_LISTENING: Final = sa.text("""
    SELECT id, tenant_id FROM endpoint
    WHERE tenant_id = ANY (CAST(:tenants AS uuid[])) AND 'image.completed' = ANY (kinds)
    ORDER BY id FOR NO KEY UPDATE
""")
# Deliveries are sent in the order of their ids, and those rise with the numbers of the events.
_TELL: Final = """
    WITH answered AS MATERIALIZED (
      SELECT r.tenant_id, r.job_id, j.round, r.image_id, r.ordinal, r.outcome, i.custom_id,
        row_number() OVER (ORDER BY r.tenant_id, r.job_id, r.ordinal) AS place,
        row_number() OVER (PARTITION BY r.tenant_id ORDER BY r.job_id, r.ordinal) AS turn
      FROM result r JOIN job j ON j.id = r.job_id JOIN image i ON i.id = r.image_id
      WHERE {which}),
    told AS (
      INSERT INTO event (tenant_id, seq, id, kind, job_id, round, body)
      SELECT a.tenant_id, x.before + a.turn, (CAST(:event_ids AS uuid[]))[a.place], 'image.completed', a.job_id,
        a.round, jsonb_build_object('image', 'img_' || replace(a.image_id::text, '-', ''), 'ordinal', a.ordinal,
                                    'custom_id', a.custom_id, 'outcome', a.outcome)
      FROM answered a
      JOIN unnest(CAST(:tenants AS uuid[]), CAST(:before AS bigint[])) AS x(tenant_id, before) USING (tenant_id)
      RETURNING tenant_id, seq, id, job_id),
    owed AS (
      SELECT t.tenant_id, p.id AS endpoint_id, t.seq, t.id,
        coalesce(lag(t.id) OVER chain, p.last_event_id) AS previous_id,
        lead(t.id) OVER chain IS NULL AS is_last,
        row_number() OVER (ORDER BY t.tenant_id, t.seq, p.id) AS place
      FROM told t
      JOIN endpoint p ON p.tenant_id = t.tenant_id AND p.id = ANY (CAST(:endpoints AS uuid[]))
        AND (p.job_id IS NULL OR p.job_id = t.job_id)
      WINDOW chain AS (PARTITION BY p.id ORDER BY t.seq)),
    written AS (
      INSERT INTO delivery (id, tenant_id, endpoint_id, event_seq, previous_id)
      SELECT (CAST(:delivery_ids AS uuid[]))[place], tenant_id, endpoint_id, seq, previous_id FROM owed)
    UPDATE endpoint p SET last_event_id = owed.id FROM owed WHERE owed.is_last AND p.id = owed.endpoint_id
"""
_TELL_MINE: Final = sa.text(_TELL.format(which=_MINE))
_TELL_PIECE: Final = sa.text(_TELL.format(which=_PIECE))
_PUT_OFF: Final = sa.text(f"""
    INSERT INTO untold (job_id, tenant_id, kind, body)
    SELECT j.id, j.tenant_id, x.kind, CAST(x.body AS jsonb)
    FROM unnest(CAST(:jobs AS uuid[]), CAST(:kinds AS text[]), CAST(:bodies AS text[])) AS x(job_id, kind, body)
    JOIN job j ON j.id = x.job_id
    WHERE (SELECT count(*) FROM result r WHERE r.job_id = x.job_id AND {_MINE}) > :most
    RETURNING job_id
""")  # noqa: S608  # made of the constant name above
# In no fixed order: jobs take turns.
_UNTOLD: Final = sa.text("""
    SELECT u.job_id, u.tenant_id, j.round, u.kind, u.body, u.written_in, u.upto,
      (SELECT count(*) FROM endpoint p WHERE p.tenant_id = u.tenant_id AND 'image.completed' = ANY (p.kinds)
         AND (p.job_id IS NULL OR p.job_id = u.job_id)) AS listening
    FROM untold u JOIN job j ON j.id = u.job_id
    ORDER BY random() LIMIT 1 FOR UPDATE OF u SKIP LOCKED
""")
_NEXT: Final = sa.text("""
    SELECT r.image_id, i.ordinal FROM image i JOIN result r ON r.image_id = i.id
    WHERE i.job_id = :job AND i.ordinal > :upto AND r.written_in = :written_in ORDER BY i.ordinal LIMIT :many
""")
_MOVE: Final = sa.text("UPDATE untold SET upto = :upto WHERE job_id = :job")
_DONE: Final = sa.text("DELETE FROM untold WHERE job_id = :job")


def record(session: Session, jobs: Sequence[UUID], beside: Collection[UUID] = ()) -> int:
    """Write an event, with its deliveries, for each result of these jobs that this transaction wrote; count them.

    Call it once in a transaction, behind the results and before the events of the jobs. ``beside`` are tenants that the
    caller will record other events of: all counters are taken at once, in one order.
    """
    written = {row[0]: int(row[1]) for row in session.execute(_COUNT, {"jobs": _texts(jobs)})}
    if not written:
        return 0
    numbers = dict.fromkeys(beside, 0) | written
    before = {tenant: last for tenant, (last, _) in events.take(session, numbers).items() if tenant in written}
    _tell(session, _TELL_MINE, {"jobs": _texts(jobs)}, written, before)
    return sum(written.values())


def put_off(session: Session, ends: Sequence[NewEvent]) -> set[UUID]:
    """Keep a note of the jobs, closed by this transaction, of which it answered more than ``AT_ONCE`` photos.

    ``ends`` are the events that end them. The caller records neither these nor the photos' of the jobs returned.
    """
    given = {
        "jobs": [str(event.job_id) for event in ends],
        "kinds": [event.kind for event in ends],
        "bodies": [json.dumps(event.body) for event in ends],
        "most": AT_ONCE,
    }
    return set(session.execute(_PUT_OFF, given).scalars())


def tell_more(session: Session) -> int:
    """Tell of some photos of one job that was put off, and of the job's end behind the last; return of how many.

    0 says that there is nothing to tell, or that others are at it.
    """
    owing = session.execute(_UNTOLD).one_or_none()
    if owing is None:
        return 0
    many = max(1, _DELIVERIES // max(1, owing.listening))
    given = {"job": owing.job_id, "upto": owing.upto, "written_in": owing.written_in, "many": many + 1}
    found = session.execute(_NEXT, given).all()
    piece, tenant = found[:many], owing.tenant_id
    if piece:
        before = {tenant: events.take(session, {tenant: len(piece)})[tenant][0]}
        _tell(session, _TELL_PIECE, {"images": _texts(row.image_id for row in piece)}, {tenant: len(piece)}, before)
    if len(found) > many:
        session.execute(_MOVE, {"job": owing.job_id, "upto": piece[-1].ordinal})
    else:
        session.execute(_DONE, {"job": owing.job_id})
        events.record(session, [NewEvent(tenant, owing.kind, owing.job_id, owing.round, owing.body)])
    return len(piece) or 1


def _tell(
    session: Session,
    statement: sa.TextClause,
    which: Mapping[str, Sequence[str]],
    written: Mapping[UUID, int],
    before: Mapping[UUID, int],
) -> None:
    endpoints = session.execute(_LISTENING, {"tenants": _texts(written)}).all()
    deliveries = sum(written[endpoint.tenant_id] for endpoint in endpoints)
    session.execute(
        statement,
        {
            **which,
            "tenants": _texts(before),
            "before": list(before.values()),
            "endpoints": [str(endpoint.id) for endpoint in endpoints],
            "event_ids": _new_ids(sum(written.values())),
            "delivery_ids": _new_ids(deliveries),
        },
    )


def _texts(ids: Iterable[UUID]) -> list[str]:
    return [str(each) for each in ids]


def _new_ids(number: int) -> str:
    """Return so many ids as PostgreSQL's text of an array: one literal is cheaper to read than thousands."""
    return f"{{{','.join(new_id().hex for _ in range(number))}}}"
