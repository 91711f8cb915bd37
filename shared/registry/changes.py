"""Changes of what serves: asked for by the web, made by the sweep, told to every tenant, and kept for good.

The web writes a wish; it cannot see other tenants, whom a change concerns, and may not say what serves. The sweep makes
the change in one transaction, and then tells the tenants a hundred at a time, each with the next number of its own:
nobody's counter is held for long, and a sweep that dies goes on where it was.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from shared import events, ids
from shared.database import Database, new_id
from shared.errors import Conflict
from shared.logs import logger
from shared.registry import serving
from shared.registry.heartbeats import SYSTEM
from shared.registry.serving import Serving
from shared.tables import ModelChange

log = logger(__name__)

ACTIVATED: Final = "model.activated"
_TENANTS_AT_ONCE: Final = 100
_NOBODY: Final = UUID(int=0)

_ASK = sa.text("""
    INSERT INTO model_change (id, kind, model_id, digest, share, by_tenant, by_key)
    VALUES (:id, :kind, :model, :digest, :share, :tenant, :key)
""")
_WAITING = sa.text("""
    SELECT c.id, c.kind, c.model_id, c.digest, c.share, m.state AS model_state, m.verdict
    FROM model_change c LEFT JOIN model m ON m.digest = c.digest
    WHERE c.state = 'waiting' ORDER BY c.id FOR UPDATE OF c SKIP LOCKED
""")
_BEFORE = sa.text("""
    SELECT from_digest FROM model_change
    WHERE state = 'applied' AND kind = 'activate' AND to_digest IS NOT DISTINCT FROM :live
    ORDER BY version DESC LIMIT 1
""")
_SERVE = sa.text("""
    INSERT INTO model_serving (version, live, canary, canary_share, shadow, shadow_share)
    VALUES (:version, :live, :canary, :canary_share, :shadow, :shadow_share)
    ON CONFLICT (sole) DO UPDATE SET version = excluded.version, live = excluded.live, canary = excluded.canary,
      canary_share = excluded.canary_share, shadow = excluded.shadow, shadow_share = excluded.shadow_share,
      changed_at = now()
""")
_DONE = sa.text("""
    UPDATE model_change SET state = :state, reason = :reason, role = :role, from_digest = :before, to_digest = :after,
      version = :version, done_at = now(), told_upto = :told
    WHERE id = :id
""")
_WITHDRAW = sa.text("""
    UPDATE model_change SET state = 'refused', reason = 'withdrawn by a rollback', done_at = now()
    WHERE state = 'waiting' AND kind <> 'rollback' AND digest IS NOT DISTINCT FROM :digest RETURNING id
""")
_LOCK = sa.text("SELECT pg_advisory_xact_lock(hashtext('poxvisio model changes'))")
_UNTOLD = sa.text("""
    SELECT c.id, c.kind, c.role, c.share, c.told_upto, c.done_at, c.from_digest, c.to_digest,
      f.id AS from_id, t.id AS to_id
    FROM model_change c LEFT JOIN model f ON f.digest = c.from_digest LEFT JOIN model t ON t.digest = c.to_digest
    WHERE c.told_upto IS NOT NULL ORDER BY c.id LIMIT 1 FOR UPDATE OF c SKIP LOCKED
""")
# Whoever has an endpoint, or a feed that ever held an event; the system itself listens to nothing.
_AUDIENCE = sa.text(f"""
    SELECT tenant_id FROM (
      SELECT tenant_id FROM event_counter UNION SELECT tenant_id FROM endpoint WHERE job_id IS NULL) AS everybody
    WHERE tenant_id > :after AND tenant_id <> '{SYSTEM}' ORDER BY tenant_id LIMIT :many
""")  # noqa: S608  # made of a constant
_TOLD = sa.text("UPDATE model_change SET told_upto = :upto WHERE id = :id")


@dataclass(frozen=True, slots=True)
class Named:
    """A bundle as people name it; the one that ``MODEL`` names stands for an empty digest."""

    id: str
    digest: str


@dataclass(frozen=True, slots=True)
class _Outcome:
    role: str
    before: str | None
    after: str | None
    serves: Serving


class _Impossible(Exception):
    """The change cannot be made; the text says why."""


def ask(
    session: Session,
    kind: str,
    model_id: str,
    digest: str | None,
    *,
    share: float | None = None,
    tenant: UUID | None = None,
    key: UUID | None = None,
) -> ModelChange:
    """Write the wish for a change, with who has it; raises ``Conflict`` while another one waits."""
    change_id = new_id()
    given = {"id": change_id, "kind": kind, "model": model_id, "digest": digest, "share": share}
    try:
        session.execute(_ASK, {**given, "tenant": tenant, "key": key})
    except IntegrityError:
        raise Conflict("another change of the models is waiting to be made: wait for it, or roll it back") from None
    return session.get_one(ModelChange, change_id)


def history(session: Session, limit: int = 50) -> list[ModelChange]:
    """Return the changes that were asked for, newest first."""
    return list(session.scalars(sa.select(ModelChange).order_by(ModelChange.id.desc()).limit(limit)))


def previous_of(session: Session, live: str | None) -> tuple[bool, str | None]:
    """Return whether anything served before this, and its digest (None: the bundle that ``MODEL`` names)."""
    row = session.execute(_BEFORE, {"live": live}).one_or_none()
    return (False, None) if row is None else (True, row.from_digest)


def make(database: Database, default: Named | None) -> int:
    """Make the changes that can be made and tell the tenants; return how many were made or refused.

    ``default`` is the bundle that ``MODEL`` names, for the events; None where there is none.
    """
    with database.transaction() as session:
        waiting = session.execute(_WAITING).all()
        if waiting:
            session.execute(_LOCK)
        settled = sum(_settle(session, change) for change in waiting)
    while _tell(database, default):
        pass
    return settled


def _settle(session: Session, change: sa.Row[Any]) -> bool:
    """Make one change, or refuse it; False where its model is still being checked."""
    if change.kind != "rollback" and change.digest is not None and change.model_state == "checking":
        return False
    if change.kind == "rollback" and session.execute(_WITHDRAW, {"digest": change.digest}).all():
        nothing = {"role": None, "before": None, "after": None, "version": None, "told": None}
        reason = "what waited to be made of it was withdrawn"
        session.execute(_DONE, {"id": change.id, "state": "applied", "reason": reason, **nothing})
        return True
    present = serving.read(session)
    try:
        outcome = _outcome(session, change, present)
    except _Impossible as error:
        refused = {"role": None, "before": None, "after": None, "version": None, "told": None}
        session.execute(_DONE, {"id": change.id, "state": "refused", "reason": str(error), **refused})
        log.warning("model_change_refused", change=str(change.id), kind=change.kind, why=str(error))
        return True
    version = present.version + 1
    session.execute(_SERVE, asdict(outcome.serves) | {"version": version})
    session.execute(
        _DONE,
        {
            "id": change.id,
            "state": "applied",
            "reason": None,
            "role": outcome.role,
            "before": outcome.before,
            "after": outcome.after,
            "version": version,
            # A shadow answers nobody, so nobody hears of it.
            "told": None if outcome.role == "shadow" else _NOBODY,
        },
    )
    log.info("model_changed", kind=change.kind, role=outcome.role, model=change.model_id, version=version)
    return True


def _outcome(session: Session, change: sa.Row[Any], now: Serving) -> _Outcome:
    if change.kind == "rollback":
        return _rolled_back(session, change, now)
    digest = change.digest
    if digest is not None and change.model_state != "ready":
        why = (change.verdict or {}).get("problem", "it was never published")
        raise _Impossible(f"the model did not pass its check: {why}")
    if change.kind == "activate":
        if digest == now.live:
            raise _Impossible("the model is live already")
        return _Outcome("live", now.live, digest, replace(_without(now, digest), live=digest))
    if digest is None or digest == now.live:
        raise _Impossible("the model is live already")
    if change.kind == "shadow":
        serves = replace(_without(now, digest), shadow=digest, shadow_share=change.share)
        return _Outcome("shadow", now.shadow, digest, serves)
    return _Outcome(
        "canary", now.canary, digest, replace(_without(now, digest), canary=digest, canary_share=change.share)
    )


def _without(now: Serving, digest: str | None) -> Serving:
    """Return what serves, without this model as canary or shadow: it gets another role."""
    if digest is not None and now.canary == digest:
        now = replace(now, canary=None, canary_share=0.0)
    if digest is not None and now.shadow == digest:
        now = replace(now, shadow=None, shadow_share=0.0)
    return now


def _rolled_back(session: Session, change: sa.Row[Any], now: Serving) -> _Outcome:
    """Take the model out of the role it has: what was live before it is live again."""
    digest = change.digest
    if digest == now.live:
        is_known, before = previous_of(session, now.live)
        if not is_known:
            raise _Impossible("nothing was live before it")
        return _Outcome("live", now.live, before, replace(_without(now, before), live=before))
    if digest is not None and digest in (now.canary, now.shadow):
        return _Outcome("canary" if digest == now.canary else "shadow", digest, None, _without(now, digest))
    raise _Impossible("the model has no role that could be taken from it")


def _tell(database: Database, default: Named | None) -> bool:
    """Tell the next hundred tenants of the oldest change that some have not heard of; False where all have."""
    with database.transaction() as session:
        change = session.execute(_UNTOLD).one_or_none()
        if change is None:
            return False
        asked = {"after": change.told_upto, "many": _TENANTS_AT_ONCE}
        tenants = list(session.execute(_AUDIENCE, asked).scalars())
        upto = tenants[-1] if len(tenants) == _TENANTS_AT_ONCE else None
        session.execute(_TOLD, {"upto": upto, "id": change.id})
        body = _body(change, default)
        events.record(session, [events.NewEvent(tenant, ACTIVATED, None, 0, body) for tenant in tenants])
    return True


def _body(change: sa.Row[Any], default: Named | None) -> dict[str, Any]:
    is_live = change.role == "live"

    def named(model_id: str | None, digest: str | None) -> Mapping[str, str] | None:
        if digest is not None:
            return {"id": str(model_id), "digest": digest}
        return {"id": default.id, "digest": default.digest} if is_live and default else None

    told: dict[str, Any] = {
        "change": ids.text("change", change.id),
        "role": change.role,
        "from": named(change.from_id, change.from_digest),
        "model": named(change.to_id, change.to_digest),
        "at": _rfc3339(change.done_at),
    }
    return told | ({"share": change.share} if change.kind == "canary" else {})


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
