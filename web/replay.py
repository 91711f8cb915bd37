"""One effect for a POST that is sent twice: what its Idempotency-Key stood for, and what it answers now."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from flask import Response
from pydantic import BaseModel
from sqlalchemy.orm import Session

from shared.accounts import Caller
from shared.errors import DatabaseAway
from shared.ledger import idempotency
from shared.logs import logger
from web.asking import idempotency_key
from web.auth import caller
from web.problems import KEY_REUSED, Problem
from web.services import Services, services
from web.wire import respond

Body = TypeVar("Body", bound=BaseModel)

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Stored:
    """An answer as it was given the first time."""

    status: int
    body: Mapping[str, Any]
    location: str | None


class Once:
    """The use of one Idempotency-Key by one request; without a key every step does nothing."""

    def __init__(self, services: Services, caller: Caller, key: str | None) -> None:
        """Put the key in flight, in a transaction of its own; raises ``InFlight`` while another request runs."""
        self._services, self._tenant, self._key = services, caller.tenant_id, key
        self._started: idempotency.Started | None = None
        self._replay: idempotency.Replay | None = None
        self._renewed_at = time.monotonic()
        if key is None:
            return
        with services.database.transaction(self._tenant) as session:
            found = idempotency.begin(session, self._tenant, key, services.settings.idempotency_lease)
        if isinstance(found, idempotency.Replay):
            self._replay = found
        else:
            self._started = found

    def stay_alive(self) -> None:
        """Renew the lease when a third of it has passed; called for every piece of a body that comes in."""
        lease = self._services.settings.idempotency_lease
        if self._started is None or self._key is None or time.monotonic() - self._renewed_at < lease / 3:
            return
        self._renewed_at = time.monotonic()
        try:
            with self._services.database.transaction(self._tenant) as session:
                idempotency.renew(session, self._tenant, self._key, self._started.fence, lease)
        except DatabaseAway:
            log.warning("lease_not_renewed")  # whether it was lost shows when the answer is stored

    @property
    def is_answered(self) -> bool:
        """Return whether the key has its answer already, so that nothing may be done again."""
        return self._replay is not None

    def stored(self, fingerprint: bytes) -> Stored:
        """Return the answer of the first request; raises ``Problem`` (422) where this is another request."""
        if self._replay is None:
            raise ValueError("the key has no answer yet")
        if self._replay.fingerprint != fingerprint:
            raise Problem(KEY_REUSED, "This Idempotency-Key was used for a request with another body or options.")
        body: Mapping[str, Any] = self._replay.body
        if "sealed" in body:
            body = json.loads(self._services.keyring.unseal(str(body["sealed"]).encode()))
        return Stored(self._replay.status, body, self._replay.location)

    def settle(
        self,
        session: Session,
        fingerprint: bytes,
        status: int,
        body: Mapping[str, Any],
        location: str | None = None,
        *,
        secret: bool = False,
    ) -> None:
        """Store the answer in the transaction of the effect; one that shows a secret is sealed.

        Raises ``TakenOver`` where the lease was lost.
        """
        if self._started is None or self._key is None:
            return
        kept = dict(body)
        if secret:
            kept = {"sealed": self._services.keyring.seal(json.dumps(kept).encode()).decode()}
        idempotency.settle(
            session,
            self._tenant,
            self._key,
            self._started.fence,
            fingerprint=fingerprint,
            status=status,
            body=kept,
            location=location,
        )

    def forget(self) -> None:
        """Free the key of a request that did nothing. Where the database is away, the lease ends by itself."""
        if self._started is None or self._key is None:
            return
        try:
            with self._services.database.transaction(self._tenant) as session:
                idempotency.forget(session, self._tenant, self._key, self._started.fence)
        except DatabaseAway:
            log.warning("idempotency_key_left_to_its_lease")


def perform(
    mark: bytes,
    shape: type[Body],
    act: Callable[[Session], Body],
    *,
    before: Callable[[], None] | None = None,
    status: int = 200,
    location: Callable[[Body], str] | None = None,
    secret: bool = False,
) -> Response:
    """Do something once for the request's Idempotency-Key, and answer with what came of it.

    ``act`` runs in a transaction of the caller's tenant, and its answer is stored in that very transaction; ``before``,
    which may take its time, runs outside of any. ``mark`` is the request's fingerprint.
    """
    here, asking = services(), caller()
    once = Once(here, asking, idempotency_key())
    if once.is_answered:
        stored = once.stored(mark)
        headers = {"Idempotency-Replayed": "true", **({"Location": stored.location} if stored.location else {})}
        return respond(shape.model_validate(stored.body), stored.status, headers)
    try:
        if before:
            before()
        with here.database.transaction(asking.tenant_id) as session:
            body = act(session)
            address = location(body) if location else None
            once.settle(session, mark, status, body.model_dump(mode="json"), address, secret=secret)
    except BaseException:
        once.forget()
        raise
    return respond(body, status, {"Location": address} if address else {})
