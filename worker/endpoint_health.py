"""What an attempt means for its endpoint: failures are counted in hours, then warned of, and end with its disabling."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared import events, ids
from shared.events import NewEvent
from shared.tables import Endpoint


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from an attempt: the delivery's state, when to try again, and what becomes of its endpoint."""

    state: str
    delay: float = 0.0
    pause: float = 0.0
    disable: str | None = None


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds of nothing but failures after which an endpoint's owner is warned, and it is disabled."""

    warn: float = 60 * 3600.0
    disable: float = 120 * 3600.0


@dataclass(frozen=True, slots=True)
class Change:
    """How the endpoint changes, and the kind of event that tells of it."""

    values: Mapping[str, Any]
    kind: str | None = None
    reason: str | None = None


def change_of(session: Session, endpoint_id: UUID, verdict: Verdict, patience: Patience) -> Change | None:
    """Return how an enabled endpoint changes by what an attempt came to; None where it stays as it is."""
    endpoint = session.execute(
        sa.select(
            Endpoint.state_reason,
            Endpoint.failing_since,
            sa.func.extract("epoch", sa.func.now() - Endpoint.failing_since).label("failing"),
        ).where(Endpoint.id == endpoint_id, Endpoint.state == "enabled")
    ).one_or_none()
    if endpoint is None:
        return None
    if verdict.state == "delivered":
        return Change({"failing_since": None, "state_reason": None}) if endpoint.failing_since else None
    failing = float(endpoint.failing or 0)
    reason = verdict.disable or (
        f"nothing but failures for {failing / 3600:.0f} hours" if failing >= patience.disable else None
    )
    values: dict[str, Any] = {}
    if not endpoint.failing_since:
        values["failing_since"] = sa.func.now()
    if verdict.pause:
        values["open_until"] = sa.func.now() + sa.func.make_interval(0, 0, 0, 0, 0, 0, verdict.pause)
    if reason:
        return Change(values | {"state": "disabled", "state_reason": reason}, "endpoint.disabled", reason)
    # While an endpoint is enabled its reason says that it has been warned.
    if failing >= patience.warn and not endpoint.state_reason:
        left = (patience.disable - failing) / 3600
        reason = f"nothing but failures for {failing / 3600:.0f} hours; it will be disabled in {left:.0f} hours"
        return Change(values | {"state_reason": reason}, "endpoint.warning", reason)
    return Change(values) if values else None


def apply(session: Session, tenant_id: UUID, endpoint_id: UUID, change: Change) -> None:
    """Write the change, and the event that tells of it; the caller holds the endpoint's row and the counter."""
    changed = session.execute(
        sa.update(Endpoint)
        .where(Endpoint.id == endpoint_id, Endpoint.state == "enabled")
        .values(**change.values)
        .returning(Endpoint.id)
    ).first()
    if changed and change.kind:
        body = {"endpoint": ids.text("endpoint", endpoint_id), "reason": change.reason}
        events.record(session, [NewEvent(tenant_id, change.kind, None, 0, body)])
