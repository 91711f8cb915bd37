"""Tenants and their API keys: ``pxv_<id>_<secret>``, of which only the SHA-256 of the secret is kept.

A secret has 192 random bits, so a plain hash suffices (OWASP ASVS 5.0, 6.5.2). A key is found by its id through a
function that may look across tenants, then compared in constant time.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared.database import new_id
from shared.errors import Conflict, NotFound, Refused
from shared.prepared import Prepared
from shared.tables import ApiKey, Tenant

SCOPES = ("jobs:read", "jobs:write", "webhooks", "models", "admin")

_TOKEN = re.compile(r"pxv_([0-9a-f]{32})_([0-9a-f]{48})")
_LOOK_UP = Prepared("SELECT * FROM lookup_api_key(:key)", {"key": "uuid"})
_TOUCH = Prepared("SELECT touch_api_key(:key)", {"key": "uuid"})
_UNKNOWN = "the API key is unknown, expired or revoked"


class KeyUnknown(Refused):
    """The API key is unknown, expired or revoked."""


class ScopeUnknown(Refused):
    """There is no such scope."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What somebody showed: a key, and which of its two secrets, as its SHA-256."""

    key_id: UUID
    secret_hash: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request, and what the key allows."""

    tenant_id: UUID
    key_id: UUID
    scopes: frozenset[str]
    weight: float
    keep_originals: bool
    proof: Proof = field(compare=False)


def create_tenant(session: Session, name: str, *, keep_originals: bool = False) -> Tenant:
    """Create a tenant; its name must be free. Needs the owner's role."""
    if session.scalar(sa.select(Tenant.id).where(Tenant.name == name)) is not None:
        raise Refused(f"there is a tenant named {name!r} already")
    tenant = Tenant(id=new_id(), name=name, keep_originals=keep_originals)
    session.add(tenant)
    session.flush()
    return tenant


def tenant_named(session: Session, name: str) -> Tenant:
    """Return the tenant of that name; raises ``NotFound``. Needs the owner's role."""
    tenant = session.scalar(sa.select(Tenant).where(Tenant.name == name))
    if tenant is None:
        raise NotFound(f"there is no tenant named {name!r}")
    return tenant


def create_key(
    session: Session, tenant_id: UUID, name: str, scopes: Sequence[str], expires_at: datetime | None = None
) -> str:
    """Create a key and return its token, which is shown this once."""
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown:
        raise ScopeUnknown(f"there is no scope {unknown[0]!r}; there are {', '.join(SCOPES)}")
    secret = secrets.token_hex(24)
    key = ApiKey(
        id=new_id(),
        tenant_id=tenant_id,
        name=name,
        secret_hash=_hash(secret),
        scopes=list(scopes),
        expires_at=expires_at,
    )
    session.add(key)
    session.flush()
    return f"pxv_{key.id.hex}_{secret}"


def keys(session: Session, tenant_id: UUID) -> list[ApiKey]:
    """Return the tenant's keys, oldest first."""
    return list(session.scalars(sa.select(ApiKey).where(ApiKey.tenant_id == tenant_id).order_by(ApiKey.id)))


def holding(session: Session, proofs: Collection[Proof]) -> set[Proof]:
    """Return those of these proofs, of the session's tenant, whose key and secret are still good."""
    now = sa.func.now()
    previous = sa.case((ApiKey.previous_until > now, ApiKey.previous_hash))
    found = session.execute(
        sa.select(ApiKey.id, ApiKey.secret_hash, previous.label("previous_hash")).where(
            ApiKey.id.in_({proof.key_id for proof in proofs}),
            ApiKey.revoked_at.is_(None),
            sa.or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > now),
        )
    )
    good = {(row.id, bytes(secret)) for row in found for secret in (row.secret_hash, row.previous_hash) if secret}
    return {proof for proof in proofs if (proof.key_id, proof.secret_hash) in good}


def revoke_key(session: Session, tenant_id: UUID, key_id: UUID) -> None:
    """End a key at once; raises ``NotFound``. Revoking twice is no error."""
    found = session.execute(
        sa.update(ApiKey)
        .where(ApiKey.tenant_id == tenant_id, ApiKey.id == key_id)
        .values(revoked_at=sa.func.coalesce(ApiKey.revoked_at, sa.func.now()))
        .returning(ApiKey.id)
    ).first()
    if found is None:
        raise NotFound("there is no such key")


def rotate_key(
    session: Session, tenant_id: UUID, key_id: UUID, grace: timedelta, expires_at: datetime | None = None
) -> str:
    """Give a key another secret and return the new token, which is shown this once.

    The secret it had is good for ``grace`` more; one from a rotation before ends at once, so that two live at most.
    ``expires_at`` replaces the key's own where it is given. Raises ``NotFound``, and ``Conflict`` for a key that is
    revoked or expired: nothing makes such a one good again.
    """
    now = sa.func.now()
    secret = secrets.token_hex(24)
    kept = grace > timedelta(0)
    renewed = {} if expires_at is None else {"expires_at": expires_at}
    found = session.execute(
        sa.update(ApiKey)
        .where(
            ApiKey.tenant_id == tenant_id,
            ApiKey.id == key_id,
            ApiKey.revoked_at.is_(None),
            sa.or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > now),
        )
        .values(
            secret_hash=_hash(secret),
            previous_hash=ApiKey.secret_hash if kept else None,
            previous_until=now + grace if kept else None,
            **renewed,
        )
        .returning(ApiKey.id)
    ).first()
    if found is None:
        key_of(session, tenant_id, key_id)
        raise Conflict("the key is revoked or expired; make a new one")
    return f"pxv_{key_id.hex}_{secret}"


def key_of(session: Session, tenant_id: UUID, key_id: UUID) -> ApiKey:
    """Return one of the tenant's keys as the database has it now; raises ``NotFound``."""
    found = session.scalar(
        sa.select(ApiKey)
        .where(ApiKey.tenant_id == tenant_id, ApiKey.id == key_id)
        .execution_options(populate_existing=True)
    )
    if found is None:
        raise NotFound("there is no such key")
    return found


def authenticate(session: Session, token: str, *, touch: bool = True) -> Caller:
    """Return who holds the token; raises ``KeyUnknown`` with one sentence for every way to be wrong.

    That the key was used is noted, once a minute at most, unless the caller has just had that done.
    """
    key_id, secret = _parse(token)
    row = _looked_up(session, key_id)
    # What is missing is compared too, so that time does not tell which ids exist, nor which were rotated.
    given = _hash(secret)
    is_present = hmac.compare_digest(bytes(row.secret_hash) if row else bytes(32), given)
    is_previous = hmac.compare_digest(bytes(row.previous_hash) if row and row.previous_hash else bytes(32), given)
    if not (is_present or is_previous) or row is None:
        raise KeyUnknown(_UNKNOWN)
    if touch:
        _TOUCH.run(session, {"key": key_id.hex})
    return Caller(row.tenant_id, key_id, frozenset(row.scopes), row.weight, row.keep_originals, Proof(key_id, given))


def tenant_of(session: Session, key_id: UUID) -> UUID:
    """Return the tenant of a key while the key is good; raises ``KeyUnknown``.

    For what was given out in the key's name and ends with it: it says nothing of who is asking.
    """
    row = _looked_up(session, key_id)
    if row is None:
        raise KeyUnknown(_UNKNOWN)
    return UUID(str(row.tenant_id))


def _looked_up(session: Session, key_id: UUID) -> Any:
    rows = _LOOK_UP.run(session, {"key": key_id.hex})
    return rows[0] if rows else None


def _parse(token: str) -> tuple[UUID, str]:
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise KeyUnknown(_UNKNOWN)
    return UUID(hex=match[1]), match[2]


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
