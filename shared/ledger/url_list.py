"""The addresses of a job whose photos are still to be fetched: which are due, and which wait for another try."""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared.ledger.receiving import Address


@dataclass(frozen=True, slots=True)
class Due:
    """An address to fetch now, and how often that was tried before."""

    address: Address
    attempt: int


_DUE = sa.text("""
    SELECT ordinal, url, client_name, custom_id, attempt FROM intake_url
    WHERE job_id = :job AND available_at <= now() ORDER BY ordinal LIMIT :most
""")
_LEFT = sa.text("""
    SELECT count(*) AS addresses, greatest(0, extract(epoch FROM min(available_at) - now()))::float8 AS seconds
    FROM intake_url WHERE job_id = :job
""")
_PUT_OFF = sa.text("""
    UPDATE intake_url l SET attempt = l.attempt + 1, available_at = now() + make_interval(secs => x.delay)
    FROM unnest(CAST(:ordinals AS int[]), CAST(:delays AS float8[])) AS x(ordinal, delay)
    WHERE l.job_id = :job AND l.ordinal = x.ordinal
""")


def due(session: Session, job_id: UUID, most: int) -> list[Due]:
    """Return the first addresses that may be fetched now."""
    return [
        Due(Address(row.ordinal, row.url, row.client_name, row.custom_id), row.attempt)
        for row in session.execute(_DUE, {"job": job_id, "most": most})
    ]


def left(session: Session, job_id: UUID) -> tuple[int, float]:
    """Return how many addresses are to be fetched, and in how many seconds the first of them is due."""
    row = session.execute(_LEFT, {"job": job_id}).one()
    return row.addresses, row.seconds or 0.0


def put_off(session: Session, job_id: UUID, delays: Mapping[int, float]) -> None:
    """Let addresses wait, each for so many seconds; the caller holds the job's intake."""
    if delays:
        given = {"job": job_id, "ordinals": list(delays), "delays": list(delays.values())}
        session.execute(_PUT_OFF, given)
