"""Endpoints as their owners manage them: change, rotate, test, read the log, and send again what did not arrive.

Every function works in a transaction of the owner's tenant, so that row-level security shows what is theirs alone;
somebody else's id is not found. New endpoints are made by ``webhooks.create_endpoint``, where there is room for one.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from shared import events, ids, signing
from shared.database import new_id
from shared.errors import Conflict, NotFound
from shared.event_body import Detail, Format
from shared.events import NewEvent
from shared.signing import Keyring
from shared.tables import Attempt, Delivery, Endpoint, Event
from shared.webhooks import BY_NAME, check_kinds

# How long the old secret goes on signing beside the new one.
OVERLAP: Final = timedelta(hours=24)
# What is older is not sent again.
REACH: Final = timedelta(days=28)
# Sent again by one request, the oldest first; whoever asks again gets the next ones.
AT_ONCE: Final = 10_000


class EndpointsFull(Conflict):
    """The tenant has as many endpoints as it may have. Do not retry before one is deleted."""


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One try of a delivery, numbered from 1 for good; ``response`` holds the first 64 KiB of the answer."""

    number: int
    started_at: datetime
    duration_ms: int
    status: int | None
    error: str | None
    response: bytes


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """An event owed to an endpoint, and every try so far, oldest first."""

    id: UUID
    endpoint_id: UUID
    event_id: UUID
    sequence: int
    kind: str
    job_id: UUID | None
    previous_id: UUID | None
    state: str
    next_at: datetime | None
    created_at: datetime
    finished_at: datetime | None
    attempts: tuple[AttemptView, ...]


def get(session: Session, endpoint_id: UUID) -> Endpoint:
    """Return an endpoint; raises ``NotFound``."""
    found = session.scalar(sa.select(Endpoint).where(Endpoint.id == endpoint_id))
    if found is None:
        raise NotFound("there is no such webhook")
    return found


def all_of(session: Session, *, job_id: UUID | None = None) -> list[Endpoint]:
    """Return the tenant's endpoints, oldest first; with ``job_id`` the one-off endpoints of that job instead."""
    whose = Endpoint.job_id.is_(None) if job_id is None else Endpoint.job_id == job_id
    return list(session.scalars(sa.select(Endpoint).where(whose).order_by(Endpoint.id)))


def check_room(session: Session, tenant_id: UUID, most: int) -> None:
    """Raise ``EndpointsFull`` where the tenant has ``most`` endpoints already; one-off ones are not counted.

    It holds the tenant's counter of events, so that of several who make one at once each sees those of the others.
    """
    events.hold(session, tenant_id)
    lasting = sa.select(sa.func.count()).select_from(Endpoint).where(Endpoint.job_id.is_(None))
    if session.execute(lasting.where(Endpoint.tenant_id == tenant_id)).scalar_one() >= most:
        raise EndpointsFull(f"there are {most} webhooks already, as many as a tenant may have: delete one first")


def update(
    session: Session,
    endpoint_id: UUID,
    *,
    url: str | None = None,
    kinds: Sequence[str] | None = None,
    description: str | None = None,
    state: Literal["enabled", "disabled"] | None = None,
    detail: Detail | None = None,
    form: Format | None = None,
) -> Endpoint:
    """Change what is given and leave the rest; the caller has asked ``webhooks.check_url`` about a new URL.

    An endpoint that is enabled again starts with a clean record, and what was kept for it goes out.
    """
    values: dict[str, Any] = {}
    if url is not None:
        values["url"] = url
    if kinds is not None:
        check_kinds(kinds)
        values["kinds"] = list(kinds)
    if description is not None:
        values["description"] = description
    if detail is not None:
        values["detail"] = detail
    if form is not None:
        values["format"] = form
    if state == "enabled":
        values |= {"state": state, "state_reason": None, "failing_since": None, "open_until": None}
    elif state == "disabled":
        values |= {"state": state, "state_reason": "disabled by its owner"}
    return _change(session, endpoint_id, values) if values else get(session, endpoint_id)


def delete(session: Session, endpoint_id: UUID) -> None:
    """Delete an endpoint with its deliveries and their log; raises ``NotFound``. Its events stay in the feed."""
    gone = session.execute(sa.delete(Endpoint).where(Endpoint.id == endpoint_id).returning(Endpoint.id)).first()
    if gone is None:
        raise NotFound("there is no such webhook")


def rotate_secret(session: Session, keyring: Keyring, endpoint_id: UUID, secret: str | None = None) -> str:
    """Give an endpoint a new secret and return it, shown this once; the old one signs too for another 24 hours."""
    shown = secret or signing.new_secret()
    signing.secret_bytes(shown)
    values = {
        "previous_secret": Endpoint.secret,
        "previous_until": sa.func.now() + OVERLAP,
        "secret": keyring.seal(shown.encode()),
    }
    _change(session, endpoint_id, values)
    return shown


def send_test(session: Session, endpoint_id: UUID) -> DeliveryView:
    """Send a ``ping`` to this endpoint alone, whatever kinds it wants; raises ``Conflict`` where it is disabled."""
    endpoint = _enabled(session, endpoint_id)
    events.hold(session, endpoint.tenant_id)
    _hold(session, endpoint_id)
    body = {"endpoint": ids.text("endpoint", endpoint_id)}
    (event,) = events.record(session, [NewEvent(endpoint.tenant_id, "ping", None, 0, body, addressee=endpoint_id)])
    _unpause(session, endpoint_id)
    (sent,) = _views(session, [Delivery.endpoint_id == endpoint_id, Delivery.event_seq == event.seq], 1, bodies=True)
    return sent


def deliveries(
    session: Session, endpoint_id: UUID, *, state: str | None = None, after: UUID | None = None, limit: int = 50
) -> list[DeliveryView]:
    """Return an endpoint's deliveries, newest first, each with its attempts; ``after`` is the last id of a page."""
    get(session, endpoint_id)
    wanted = [Delivery.endpoint_id == endpoint_id]
    if state is not None:
        wanted.append(Delivery.state == state)
    if after is not None:
        # By number and not by id, so that the unique index on (endpoint, number) serves every page.
        wanted.append(Delivery.event_seq < sa.select(Delivery.event_seq).where(Delivery.id == after).scalar_subquery())
    return _views(session, wanted, limit)


def delivery(session: Session, delivery_id: UUID) -> DeliveryView:
    """Return one delivery with its attempts; raises ``NotFound``."""
    found = _views(session, [Delivery.id == delivery_id], 1, bodies=True)
    if not found:
        raise NotFound("there is no such delivery")
    return found[0]


def redeliver(session: Session, delivery_id: UUID) -> DeliveryView:
    """Send an event again, at once and with a fresh schedule, under the id it always had.

    An attempt that is under way cannot write anything any more. Raises ``Conflict`` where the endpoint is disabled.
    """
    owed = delivery(session, delivery_id)
    _enabled(session, owed.endpoint_id)
    _unpause(session, owed.endpoint_id)
    _again(session, [Delivery.id == delivery_id])
    return delivery(session, delivery_id)


def recover(session: Session, endpoint_id: UUID, since: datetime, *, preview: bool) -> int:
    """Send again what was given up since then, 28 days back at most, the oldest ``AT_ONCE``; or only count it."""
    get(session, endpoint_id)
    lost = [
        Delivery.endpoint_id == endpoint_id,
        Delivery.state == "dead",
        Delivery.created_at >= since,
        Delivery.created_at >= sa.func.now() - REACH,
    ]
    if preview:
        return session.scalar(sa.select(sa.func.count()).select_from(Delivery).where(*lost)) or 0
    _hold(session, endpoint_id)
    return _again(session, lost, AT_ONCE)


def replay(session: Session, endpoint_id: UUID, since: datetime, *, preview: bool) -> int:
    """Owe the endpoint the oldest ``AT_ONCE`` of the events since then that it was never owed; or only count them all.

    It reaches 28 days back at most.

    They are events from before the endpoint was made or of kinds it did not want then. They come without a
    ``previous_id``: they stand outside the endpoint's chain.
    """
    endpoint = get(session, endpoint_id)
    owed = sa.exists().where(Delivery.endpoint_id == endpoint_id, Delivery.event_seq == Event.seq)
    missed = [Event.tenant_id == endpoint.tenant_id, Event.created_at >= since, ~owed, Event.kind != "ping"]
    missed.append(Event.created_at >= sa.func.now() - REACH)
    if endpoint.kinds:
        missed.append(Event.kind.in_(endpoint.kinds))
    else:
        missed.append(Event.kind.not_in(BY_NAME))
    if endpoint.job_id is not None:
        missed.append(Event.job_id == endpoint.job_id)
    if preview:
        return session.scalar(sa.select(sa.func.count()).select_from(Event).where(*missed)) or 0
    _hold(session, endpoint_id)
    numbers = session.scalars(sa.select(Event.seq).where(*missed).order_by(Event.seq).limit(AT_ONCE)).all()
    rows = [
        {"id": new_id(), "tenant_id": endpoint.tenant_id, "endpoint_id": endpoint_id, "event_seq": number}
        for number in numbers
    ]
    if rows:
        # Two at once owe each event once; whoever comes second owes nothing.
        owe = (
            insert(Delivery).on_conflict_do_nothing(index_elements=["endpoint_id", "event_seq"]).returning(Delivery.id)
        )
        return len(session.scalars(owe, rows).all())
    return 0


def _change(session: Session, endpoint_id: UUID, values: dict[str, Any]) -> Endpoint:
    statement = sa.update(Endpoint).where(Endpoint.id == endpoint_id).values(**values).returning(Endpoint)
    found = session.scalar(statement, execution_options={"populate_existing": True})
    if found is None:
        raise NotFound("there is no such webhook")
    return found


def _hold(session: Session, endpoint_id: UUID) -> None:
    """Keep an endpoint from being deleted before this transaction ends; raises ``NotFound`` where it just was.

    Whoever deletes it deletes its deliveries, in no order: one of the two waits here.
    """
    there = sa.select(Endpoint.id).where(Endpoint.id == endpoint_id).with_for_update(read=True, key_share=True)
    if session.execute(there).first() is None:
        raise NotFound("there is no such webhook")


def _enabled(session: Session, endpoint_id: UUID) -> Endpoint:
    endpoint = get(session, endpoint_id)
    if endpoint.state != "enabled":
        raise Conflict("the webhook is disabled; enable it first")
    return endpoint


def _unpause(session: Session, endpoint_id: UUID) -> None:
    """Let what the owner asked for go out now, though the receiver asked for a pause."""
    session.execute(sa.update(Endpoint).where(Endpoint.id == endpoint_id).values(open_until=None))


def _again(session: Session, wanted: Sequence[sa.ColumnElement[bool]], most: int = 1) -> int:
    values = {
        "state": "waiting",
        "attempt": 0,
        "fence": Delivery.fence + 1,
        "next_at": sa.func.now(),
        "lease_until": None,
        "finished_at": None,
    }
    # In order of id, as everywhere: two orders would be a deadlock. Ids rise with time.
    held = sa.select(Delivery.id).where(*wanted).order_by(Delivery.id).limit(most).with_for_update().cte("held")
    statement = sa.update(Delivery).where(Delivery.id == held.c.id).values(**values).returning(Delivery.id)
    return len(session.scalars(statement).all())


def _views(
    session: Session, wanted: Sequence[sa.ColumnElement[bool]], limit: int, *, bodies: bool = False
) -> list[DeliveryView]:
    """Return deliveries, newest first; a list leaves out what receivers answered, up to 64 KiB a try."""
    found = session.execute(
        sa.select(Delivery, Event.id.label("event_id"), Event.kind, Event.job_id)
        .join(Event, (Event.tenant_id == Delivery.tenant_id) & (Event.seq == Delivery.event_seq))
        .where(*wanted)
        .order_by(Delivery.event_seq.desc())
        .limit(limit)
        .execution_options(populate_existing=True)
    ).all()
    attempts = _attempts(session, [row.Delivery.id for row in found], bodies=bodies)
    return [
        DeliveryView(
            id=row.Delivery.id,
            endpoint_id=row.Delivery.endpoint_id,
            event_id=row.event_id,
            sequence=row.Delivery.event_seq,
            kind=row.kind,
            job_id=row.job_id,
            previous_id=row.Delivery.previous_id,
            state=row.Delivery.state,
            next_at=row.Delivery.next_at if row.Delivery.state == "waiting" else None,
            created_at=row.Delivery.created_at,
            finished_at=row.Delivery.finished_at,
            attempts=tuple(attempts[row.Delivery.id]),
        )
        for row in found
    ]


def _attempts(session: Session, delivery_ids: Sequence[UUID], *, bodies: bool) -> dict[UUID, list[AttemptView]]:
    found: dict[UUID, list[AttemptView]] = defaultdict(list)
    response = Attempt.response if bodies else sa.null()
    columns = (Attempt.number, Attempt.started_at, Attempt.duration_ms, Attempt.status, Attempt.error)
    wanted = sa.select(Attempt.delivery_id, *columns, response.label("response"))
    rows = session.execute(wanted.where(Attempt.delivery_id.in_(delivery_ids)).order_by(Attempt.id))
    for row in rows if delivery_ids else ():
        found[row.delivery_id].append(
            AttemptView(row.number, row.started_at, row.duration_ms, row.status, row.error, bytes(row.response or b""))
        )
    return found
