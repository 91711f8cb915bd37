"""Webhooks on our side of the wire: who is owed an event, where it may go, and when to try again.

A delivery is written in the transaction that writes its event, for disabled endpoints too: their events are kept.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared import addresses, signing
from shared.database import new_id
from shared.errors import Refused
from shared.prepared import Prepared, array
from shared.signing import Keyring
from shared.tables import Delivery, Endpoint

# What is sent, and so what can be asked for.
KINDS: Final = (
    "job.accepted",
    "job.started",
    "job.progress",
    "job.completed",
    "job.stopped",
    "job.cancelled",
    "job.expired",
    "image.completed",
    "endpoint.disabled",
    "endpoint.warning",
    "model.activated",
    "model.drift",
    "ping",
)
# One for every photo: who asks for no kind in particular does not get these.
BY_NAME: Final = frozenset({"image.completed"})
_MAX_URL: Final = 2048
_MAX_LABEL: Final = 63
# A host whose last label is a number is an address in some spelling (WHATWG URL, section 3.5): no such domain exists.
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_JITTER: Final = 0.2
# A receiver may ask for a day of peace and no more.
_LONGEST_WAIT: Final = 86_400.0
# One-off endpoints hear of their own job alone, so that those of all jobs before need not be looked at.
_LISTENING: Final = Prepared(
    """
    SELECT id, tenant_id, kinds, job_id, last_event_id FROM endpoint
    WHERE tenant_id = ANY (:tenants)
      AND (job_id IS NULL OR job_id = ANY (:jobs) OR id = ANY (:addressees))
    ORDER BY id FOR NO KEY UPDATE
    """,
    {"tenants": "uuid[]", "jobs": "uuid[]", "addressees": "uuid[]"},
)


class UrlRefused(Refused):
    """A webhook may not go to this URL. Do not retry."""


class KindUnknown(Refused):
    """There is no such kind of event. Do not retry."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event as it stands in the table; ``addressee`` is the one endpoint it is meant for, if it is for one alone."""

    tenant_id: UUID
    seq: int
    id: UUID
    kind: str
    job_id: UUID | None
    round: int
    body: dict[str, Any]
    created_at: datetime
    addressee: UUID | None = None


def next_delay(
    attempt: int, schedule: Sequence[float], chance: float, retry_after: float | None = None
) -> float | None:
    """Return the seconds to wait after the attempt-th try (from 1), or None where the schedule is exhausted.

    ``chance``, uniform in [0, 1), spreads the delay by 20 % either way. A receiver's ``Retry-After`` is obeyed where it
    is longer than that, up to a day.
    """
    if attempt > len(schedule):
        return None
    spread = schedule[attempt - 1] * (1 + _JITTER * (2 * chance - 1))
    return max(spread, min(retry_after or 0.0, _LONGEST_WAIT))


def check_url(url: str, loopback: Collection[str] = ()) -> None:
    """Raise ``UrlRefused`` unless webhooks may be sent to this URL.

    https on port 443 or 8443 to a name that is not ``localhost`` or a public address in its plain spelling, without a
    user; http also to an exact ``host:port`` of ``loopback``. What a name resolves to is decided when it is dialled,
    not here.
    """
    if len(url) > _MAX_URL or not url.isascii() or not url.isprintable() or set(url) & set(' \\"<>^`{|}'):
        raise UrlRefused("the URL must be printable ASCII, 2,048 characters at most")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise UrlRefused("the URL cannot be read") from None
    if not parts.hostname:
        raise UrlRefused("the URL names no host")
    if "@" in parts.netloc:
        raise UrlRefused("the URL must not hold a user or password")
    if parts.fragment:
        raise UrlRefused("the URL must not have a fragment")
    if is_loopback_pair(parts.hostname, port or (80 if parts.scheme == "http" else 443), loopback):
        if parts.scheme not in ("http", "https"):
            raise UrlRefused("the URL must begin with https:// or http://")
        return
    _check_public(parts, port)


def is_loopback_pair(host: str, port: int, loopback: Collection[str]) -> bool:
    """Tell whether this very host and port is one of the loopback pairs of the settings."""
    return (f"[{host}]:{port}" if ":" in host else f"{host.lower()}:{port}") in loopback


def create_endpoint(  # noqa: PLR0917 - the order is the one people say it in
    session: Session,
    keyring: Keyring,
    tenant_id: UUID,
    url: str,
    kinds: Sequence[str],
    description: str = "",
    *,
    job_id: UUID | None = None,
    secret: str | None = None,
    detail: str = "thin",
    form: str = "standard",
) -> tuple[Endpoint, str]:
    """Create an endpoint and return it with its secret, which is shown this once.

    No kinds means every kind but those of ``BY_NAME``.
    With ``job_id`` it is a one-off: it hears of that job alone. ``detail`` and ``form`` are those of its bodies
    (``event_body``). The caller has asked ``check_url`` about the URL.
    Raises ``KindUnknown``, and ``BadSecret`` for a secret of the wrong form.
    """
    check_kinds(kinds)
    shown = secret or signing.new_secret()
    signing.secret_bytes(shown)
    endpoint = Endpoint(
        id=new_id(),
        tenant_id=tenant_id,
        url=url,
        kinds=list(kinds),
        description=description,
        job_id=job_id,
        detail=detail,
        format=form,
        secret=keyring.seal(shown.encode()),
    )
    session.add(endpoint)
    session.flush()
    return endpoint, shown


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise ``KindUnknown`` for the first kind there is none of."""
    for kind in kinds:
        if kind not in KINDS:
            raise KindUnknown(f"there is no event {kind!r}; there are {', '.join(KINDS)}")


def owe(session: Session, events: Sequence[Recorded]) -> None:
    """Write the deliveries of these events, given in order of their numbers, and move each endpoint's chain on.

    The caller holds the tenants' event counters, which keeps the chain straight; endpoints are locked after them and
    in order of id, so that nobody waits in a circle.
    """
    endpoints = _LISTENING.run(
        session,
        {
            "tenants": array({event.tenant_id.hex for event in events}),
            "jobs": array({event.job_id.hex for event in events if event.job_id is not None}),
            "addressees": array({event.addressee.hex for event in events if event.addressee is not None}),
        },
    )
    deliveries, ends = [], {}
    for endpoint in endpoints:
        last = endpoint.last_event_id
        for event in events:
            if event.tenant_id == endpoint.tenant_id and _wants(endpoint.id, endpoint.kinds, endpoint.job_id, event):
                deliveries.append(
                    {
                        "id": new_id(),
                        "tenant_id": event.tenant_id,
                        "endpoint_id": endpoint.id,
                        "event_seq": event.seq,
                        "previous_id": last,
                    }
                )
                last = ends[endpoint.id] = event.id
    if deliveries:
        session.execute(sa.insert(Delivery), deliveries)
        session.execute(sa.update(Endpoint), [{"id": key, "last_event_id": last} for key, last in ends.items()])


def _wants(endpoint_id: UUID, kinds: Sequence[str], job_id: UUID | None, event: Recorded) -> bool:
    if event.addressee is not None:
        return event.addressee == endpoint_id
    if job_id is not None and job_id != event.job_id:
        return False
    return event.kind in kinds if kinds else event.kind not in BY_NAME


def _check_public(parts: SplitResult, port: int | None) -> None:
    if parts.scheme != "https":
        raise UrlRefused("the URL must begin with https://")
    if (443 if port is None else port) not in addresses.PORTS:
        raise UrlRefused("the URL's port must be 443 or 8443")
    host = parts.hostname or ""
    name = host.removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        raise UrlRefused("the URL's host is the machine itself (RFC 6761)")
    if ":" not in host and not all(0 < len(label) <= _MAX_LABEL for label in name.split(".")):
        raise UrlRefused("the URL's host is no name that DNS could hold (RFC 1035)")
    if addresses.is_literal(host):
        if not addresses.is_public(host):
            raise UrlRefused("the URL's address is not a public one")
    elif _NUMBER.fullmatch(name.rpartition(".")[2]):
        raise UrlRefused("the URL's address must be written as four decimal numbers")
