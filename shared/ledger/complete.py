"""Completing units: results, counts, and for the last unit the job's events, in one fenced transaction."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared.database import new_id
from shared.ledger import closing
from shared.ledger.claim import Lease


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one image. ``answer`` is what the network said, and None where it was not asked."""

    image_id: UUID
    unit_id: UUID
    ordinal: int
    outcome: str
    label: str | None = None
    answer: dict[str, Any] | None = None
    reasons: tuple[str, ...] = ()
    model_id: str | None = None
    model_digest: str | None = None
    attempts: int = 1
    has_copy: bool = False
    timings: dict[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Deferred:
    """An image of a unit whose photo could not be fetched now: it becomes a unit of its own and waits."""

    unit_id: UUID
    ordinal: int
    delay_seconds: float


@dataclass(frozen=True, slots=True)
class Completion:
    """The units that were still ours, the results really written, and the jobs that this closed."""

    units: frozenset[UUID]
    written: int
    closed: tuple[UUID, ...]


# Units are locked in the order of their ids, as everywhere: two orders would be a deadlock.
_DONE = sa.text("""
    WITH held AS MATERIALIZED (
      SELECT u.id FROM unit u, unnest(CAST(:units AS uuid[]), CAST(:fences AS bigint[])) AS h(id, fence)
      WHERE u.id = h.id AND u.fence = h.fence AND u.state = 'leased' ORDER BY u.id FOR UPDATE OF u)
    UPDATE unit u SET state = CASE WHEN u.id = ANY (CAST(:split AS uuid[])) THEN 'split' ELSE 'done' END,
      leased_by = NULL, lease_until = NULL
    FROM held WHERE u.id = held.id
    RETURNING u.id, u.n
""")

_RESULTS = sa.text("""
    INSERT INTO result (image_id, tenant_id, job_id, ordinal, fence, outcome, label, answer, reasons,
                        model_id, model_digest, attempts, has_copy, timings)
    SELECT x.image, u.tenant_id, u.job_id, x.ordinal, u.fence, x.outcome, x.label, CAST(x.answer AS jsonb),
           string_to_array(x.reasons, ','), x.model_id, x.model_digest, x.attempts, x.has_copy, CAST(x.timings AS jsonb)
    FROM unnest(CAST(:images AS uuid[]), CAST(:units AS uuid[]), CAST(:ordinals AS int[]), CAST(:outcomes AS text[]),
                CAST(:labels AS text[]), CAST(:answers AS text[]), CAST(:reasons AS text[]), CAST(:model_ids AS text[]),
                CAST(:model_digests AS text[]), CAST(:attempts AS smallint[]), CAST(:copies AS boolean[]),
                CAST(:timings AS text[]))
      AS x(image, unit, ordinal, outcome, label, answer, reasons, model_id, model_digest, attempts, has_copy, timings)
    JOIN unit u ON u.id = x.unit
    ON CONFLICT (image_id) DO NOTHING
    RETURNING job_id, outcome
""")

_SINGLES = sa.text("""
    INSERT INTO unit (id, tenant_id, job_id, lane, first, n, state, vft, attempt, crashes, available_at)
    SELECT x.id, u.tenant_id, u.job_id, u.lane, x.ordinal, 1, 'waiting', u.vft, u.attempt, u.crashes,
           now() + make_interval(secs => x.delay)
    FROM unnest(CAST(:ids AS uuid[]), CAST(:units AS uuid[]), CAST(:ordinals AS int[]), CAST(:delays AS float8[]))
      AS x(id, unit, ordinal, delay)
    JOIN unit u ON u.id = x.unit
""")


def complete(
    session: Session, leases: Sequence[Lease], outcomes: Sequence[Outcome], deferred: Sequence[Deferred] = ()
) -> Completion:
    """Write the answers of units whose fence still holds; nothing at all for the others.

    1. Units still leased under the given fence are done (or split, where some of their images are deferred).
    2. Results of those units are inserted; an image that has one keeps it.
    3. Deferred images become waiting units of one image.
    4. The jobs' counters move by the results really inserted, last and in the order of job ids.

    Raises ``ValueError`` unless every photo of such a unit has an outcome or is deferred: a unit closed without one of
    its photos would leave the job open for ever.
    """
    given = {
        "units": [str(lease.unit_id) for lease in leases],
        "fences": [lease.fence for lease in leases],
        "split": sorted({str(item.unit_id) for item in deferred}),
    }
    held = {row.id: row.n for row in session.execute(_DONE, given)}
    outcomes = [outcome for outcome in outcomes if outcome.unit_id in held]
    deferred = [item for item in deferred if item.unit_id in held]
    _check_whole(
        held, [(item.unit_id, item.ordinal) for item in outcomes] + [(item.unit_id, item.ordinal) for item in deferred]
    )
    tally = write_results(session, outcomes)
    _insert_singles(session, deferred)
    closed = closing.count(session, tally)
    return Completion(frozenset(held), sum(written.total() for written in tally.values()), tuple(closed))


def write_results(session: Session, outcomes: Sequence[Outcome]) -> dict[UUID, Counter[str]]:
    """Insert results and return how many of each outcome were new, by job. The caller holds the units' rows."""
    tally: defaultdict[UUID, Counter[str]] = defaultdict(Counter)
    if not outcomes:
        return tally
    rows = session.execute(
        _RESULTS,
        {
            "images": [str(item.image_id) for item in outcomes],
            "units": [str(item.unit_id) for item in outcomes],
            "ordinals": [item.ordinal for item in outcomes],
            "outcomes": [item.outcome for item in outcomes],
            "labels": [item.label for item in outcomes],
            "answers": [_json(item.answer) for item in outcomes],
            "reasons": [",".join(item.reasons) for item in outcomes],
            "model_ids": [item.model_id for item in outcomes],
            "model_digests": [item.model_digest for item in outcomes],
            "attempts": [item.attempts for item in outcomes],
            "copies": [item.has_copy for item in outcomes],
            "timings": [_json(item.timings) for item in outcomes],
        },
    )
    for row in rows:
        tally[row.job_id][row.outcome] += 1
    return tally


def _check_whole(held: Mapping[UUID, int], places: Sequence[tuple[UUID, int]]) -> None:
    known = Counter(unit for unit, _ in set(places))
    for unit, photos in held.items():
        if known[unit] != photos or len(places) != known.total():
            raise ValueError(f"unit {unit} has {photos} photos; each must be answered or deferred, and once")


def _insert_singles(session: Session, deferred: Sequence[Deferred]) -> None:
    if not deferred:
        return
    session.execute(
        _SINGLES,
        {
            "ids": [str(new_id()) for _ in deferred],
            "units": [str(item.unit_id) for item in deferred],
            "ordinals": [item.ordinal for item in deferred],
            "delays": [item.delay_seconds for item in deferred],
        },
    )


def _json(value: object) -> str | None:
    return None if value is None else json.dumps(value, separators=(",", ":"))
