"""The rows of published models: putting one in, reading them, and the fenced check that lets one serve.

A check belongs to whoever holds its fence. One whose worker died is taken up again when its lease has run out; a bundle
under which three workers died is refused.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared.bundle import Bundle
from shared.errors import Conflict, NotFound, Refused
from shared.tables import Model

# A bundle's id stands in addresses, and in those of the register some words are taken.
_ID: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_TAKEN: Final = frozenset({"changes"})
_TRIES: Final = 3
LEASE_SECONDS: Final = 180


class IdRefused(Refused):
    """A bundle may not have this id. Do not retry."""


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A published model; ``state`` is ``checking``, ``ready`` or ``refused``, and ``verdict`` says why."""

    digest: str
    id: str
    card: Mapping[str, Any]
    labels: tuple[str, ...]
    clinical: bool
    synthetic: bool
    bytes: int
    published_at: datetime
    state: str
    verdict: Mapping[str, Any] | None
    checked_at: datetime | None

    @property
    def problem(self) -> str | None:
        """Why it may not serve; None where nothing is known against it."""
        return str((self.verdict or {}).get("problem") or "") or None


@dataclass(frozen=True, slots=True)
class Check:
    """A check to be made, and the fence under which its verdict is written."""

    digest: str
    id: str
    fence: int


_INSERT = sa.text("""
    INSERT INTO model (digest, id, card, labels, clinical, synthetic, bytes, published_by)
    VALUES (:digest, :id, :card, :labels, :clinical, :synthetic, :bytes, :by)
    ON CONFLICT DO NOTHING
""").bindparams(sa.bindparam("card", type_=sa.JSON()))
_TAKE = sa.text(f"""
    WITH next AS MATERIALIZED (
      SELECT digest FROM model WHERE state = 'checking' AND (lease_until IS NULL OR lease_until < now())
      ORDER BY published_at LIMIT 1 FOR UPDATE SKIP LOCKED)
    UPDATE model m SET
      state = CASE WHEN attempts >= {_TRIES} THEN 'refused' ELSE state END,
      verdict = CASE WHEN attempts >= {_TRIES}
        THEN jsonb_build_object('passed', false, 'problem', 'every worker that checked it died') ELSE verdict END,
      checked_at = CASE WHEN attempts >= {_TRIES} THEN now() ELSE checked_at END,
      attempts = attempts + 1, fence = nextval('fence_seq'), lease_until = now() + make_interval(secs => :lease)
    FROM next WHERE m.digest = next.digest RETURNING m.digest, m.id, m.fence, m.state
""")  # noqa: S608  # made of a constant
_DECIDE = sa.text("""
    UPDATE model SET state = :state, verdict = :verdict, checked_at = now(), lease_until = NULL
    WHERE digest = :digest AND fence = :fence AND state = 'checking' RETURNING digest
""").bindparams(sa.bindparam("verdict", type_=sa.JSON()))
_PUT_BACK = sa.text("""
    UPDATE model SET attempts = attempts - 1, lease_until = now() + make_interval(secs => :delay)
    WHERE digest = :digest AND fence = :fence AND state = 'checking'
""")

_NEEDED = sa.text("""
    SELECT live FROM model_serving WHERE live IS NOT NULL UNION
    SELECT canary FROM model_serving WHERE canary IS NOT NULL UNION
    SELECT shadow FROM model_serving WHERE shadow IS NOT NULL UNION
    SELECT digest FROM model WHERE state = 'checking' UNION
    SELECT m.digest FROM model m WHERE EXISTS (SELECT FROM job j WHERE j.model = m.id AND j.closed_at IS NULL)
""")


def check_id(model_id: str) -> None:
    """Raise ``IdRefused`` unless a published bundle may have this id."""
    if _ID.fullmatch(model_id) is None or model_id in _TAKEN:
        raise IdRefused(
            f"the bundle's id {model_id!r} must be 1 to 100 of a-z, 0-9, '.', '_' and '-', beginning with a letter or "
            f"digit, and none of: {', '.join(sorted(_TAKEN))}"
        )


def publish(session: Session, bundle: Bundle, size: int, by: UUID | None) -> ModelRow:
    """Enter a bundle that is in the storage; it is checked before it may serve. Twice is no error.

    Raises ``Conflict`` where another bundle has its id: ids are never given anew.
    """
    check_id(bundle.id)
    session.execute(
        _INSERT,
        {
            "digest": bundle.digest,
            "id": bundle.id,
            "card": dict(bundle.card),
            "labels": list(bundle.labels),
            "clinical": bundle.clinical,
            "synthetic": bundle.synthetic,
            "bytes": size,
            "by": by,
        },
    )
    found = find(session, bundle.id)
    if found.digest != bundle.digest:
        raise Conflict(
            f"another bundle was published as {bundle.id!r} (digest {found.digest[:12]}...): an id is given once, "
            "so that an answer that names it means one model; give this bundle an id of its own"
        )
    return found


def find(session: Session, model_id: str) -> ModelRow:
    """Return a published model by its id; raises ``NotFound``."""
    row = session.scalar(sa.select(Model).where(Model.id == model_id).execution_options(populate_existing=True))
    if row is None:
        raise NotFound("there is no such model")
    return _row(row)


def by_digest(session: Session, digest: str) -> ModelRow | None:
    """Return a published model by its digest, None where there is none."""
    row = session.get(Model, digest, populate_existing=True)
    return None if row is None else _row(row)


def needed(session: Session) -> set[str]:
    """Return the digests that may be asked for at any moment: what serves, what is checked, what open jobs ask for."""
    return set(session.execute(_NEEDED).scalars())


def every(session: Session) -> list[ModelRow]:
    """Return all published models, newest first."""
    return [_row(row) for row in session.scalars(sa.select(Model).order_by(Model.published_at.desc(), Model.id))]


def digest_of(session: Session, model_id: str) -> str | None:
    """Return the digest of a published model that passed its check; None for every other id."""
    return session.scalar(sa.select(Model.digest).where(Model.id == model_id, Model.state == "ready"))


def take_check(session: Session) -> Check | None:
    """Take the check that waits longest, under a fence; None where there is none to make."""
    row = session.execute(_TAKE, {"lease": LEASE_SECONDS}).one_or_none()
    return None if row is None or row.state != "checking" else Check(row.digest, row.id, row.fence)


def decide(session: Session, check: Check, verdict: Mapping[str, Any]) -> bool:
    """Write what a check found; False where its fence was lost, and nothing was written."""
    state = "ready" if verdict.get("passed") is True else "refused"
    given = {"state": state, "verdict": dict(verdict), "digest": check.digest, "fence": check.fence}
    return session.execute(_DECIDE, given).one_or_none() is not None


def put_back(session: Session, check: Check, delay: float) -> None:
    """Give a check back that could not be made now, for ``delay`` seconds: that says nothing about the bundle."""
    session.execute(_PUT_BACK, {"digest": check.digest, "fence": check.fence, "delay": delay})


def _row(row: Model) -> ModelRow:
    return ModelRow(
        digest=row.digest,
        id=row.id,
        card=row.card,
        labels=tuple(row.labels),
        clinical=row.clinical,
        synthetic=row.synthetic,
        bytes=row.bytes,
        published_at=row.published_at,
        state=row.state,
        verdict=row.verdict,
        checked_at=row.checked_at,
    )
