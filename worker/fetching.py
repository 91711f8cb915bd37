"""Fetching the photos of a list: several at a time through the guarded way out, each with a verdict of its own.

What a second try may mend (no answer, 429, 5xx) is tried again with growing pauses, and is ``failed`` in the end; what
it cannot (a redirect, a refusal, an address that may not be asked) is ``rejected`` at once.
"""

import asyncio
import random
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from sqlalchemy.orm import Session

from shared.database import Database, new_id
from shared.ledger import url_list
from shared.ledger.intake import Intake, Taken, append, known_digests
from shared.ledger.submit import NewImage
from shared.ledger.url_list import Due
from shared.settings import Settings
from shared.storage import Storage
from shared.storage.keys import original_key
from worker.backoff import backoff_seconds
from worker.egress import NOT_ALLOWED, TOO_LARGE, Egress, Fetched
from worker.expansion import refused
from worker.turn import Turn

MAX_TRIES: Final = 6
REASONS: Final = {
    "url_not_allowed": "The address is none that may be asked on another's behalf.",
    "url_redirects": "The address redirects; give the one where the photo is.",
    "url_refused": "The server did not answer with a photo.",
    "url_unreachable": "The server could not be reached, or was busy, at every try.",
    "too_large": "The photo has more bytes than one may have.",
}
_AT_ONCE: Final = 16
_LOOK_SECONDS: Final = 0.25
_LONGEST_PAUSE: Final = 300.0
_OK: Final = 200
_REDIRECTS: Final = range(300, 400)
_BUSY: Final = frozenset({408, 425, 429})
_SERVER_FAULTS: Final = range(500, 600)


class NothingDue(Exception):
    """Every address that is left waits for another try."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the next one is due in {seconds:.1f} s")
        self.seconds = seconds


def judge(fetched: Fetched) -> str | None:
    """Return the reason why what came is no photo, ``url_unreachable`` where another try may help; None for a photo."""
    if fetched.error in (NOT_ALLOWED, TOO_LARGE):
        return "url_not_allowed" if fetched.error == NOT_ALLOWED else "too_large"
    status = fetched.status
    if fetched.error is not None or status is None or status in _BUSY or status in _SERVER_FAULTS:
        return "url_unreachable"
    if status == _OK:
        return None
    return "url_redirects" if status in _REDIRECTS else "url_refused"


@dataclass(slots=True)
class _Haul:
    """What became of one round of addresses."""

    taken: list[Taken] = field(default_factory=list)
    delays: dict[int, float] = field(default_factory=dict)


class Fetching:
    """One list of addresses on its way into its job."""

    def __init__(self, settings: Settings, database: Database, storage: Storage, *, intake: Intake, turn: Turn) -> None:
        self._settings, self._database, self._storage = settings, database, storage
        self._intake, self._turn = intake, turn
        self._known: dict[bytes, UUID] = {}

    def run(self) -> bool:
        """Fetch until the end, which returns True, or until the turn is over.

        Raises ``NothingDue``, ``Interrupted``, ``StorageAway`` and ``DatabaseAway``; what was appended stays.
        """
        with self._database.transaction() as session:
            self._known = known_digests(session, self._intake.job_id)
        return asyncio.run(self._run())

    async def _run(self) -> bool:
        settings = self._settings
        async with Egress(seconds=settings.fetch_timeout, loopback=settings.webhook_loopback) as egress:
            while not self._turn.must_end():
                with self._database.transaction() as session:
                    # Whoever an address has killed a worker under is fetched alone.
                    found = url_list.due(session, self._intake.job_id, 1 if self._intake.crashes else _AT_ONCE)
                    left, seconds = url_list.left(session, self._intake.job_id)
                if not found:
                    raise NothingDue(seconds)
                haul = await self._fetch(egress, found)
                is_last = len(haul.taken) == left
                self._storage.settle([item.image.storage_key for item in haul.taken if item.outcome is None])
                self._append(haul, done=is_last)
                if is_last or not self._turn.goes_on():
                    return is_last
        return False

    async def _fetch(self, egress: Egress, found: list[Due]) -> _Haul:
        haul = _Haul()
        tasks = {asyncio.create_task(self._take(egress, each, haul)) for each in found}
        try:
            while tasks:
                done, tasks = await asyncio.wait(tasks, timeout=_LOOK_SECONDS)
                for task in done:
                    task.result()
                if self._turn.must_end():
                    break
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        haul.taken.sort(key=lambda item: item.image.ordinal)
        return haul

    async def _take(self, egress: Egress, due: Due, haul: _Haul) -> None:
        address = due.address
        key = original_key(self._intake.job_id, address.ordinal)
        limit = self._settings.max_photo_bytes
        with self._storage.create(key, limit=limit) as upload:
            fetched = await egress.fetch(address.url, upload.write, limit)
            reason = judge(fetched)
            stored = upload.finish() if reason is None else None
        if stored is not None:
            image = NewImage(
                new_id(), address.ordinal, address.client_name, address.custom_id, key, stored.sha256, stored.size
            )
            original = self._known.setdefault(stored.sha256, image.id) if stored.size else image.id
            haul.taken.append(Taken(image, duplicate_of=original if original != image.id else None))
        elif reason == "url_unreachable" and due.attempt + 1 < MAX_TRIES:
            pause = backoff_seconds(due.attempt + 1, random.random())  # noqa: S311  # jitter
            haul.delays[address.ordinal] = min(_LONGEST_PAUSE, max(pause, fetched.retry_after or 0.0))
        else:
            outcome = "failed" if reason == "url_unreachable" else "rejected"
            given = {"custom_id": address.custom_id, "outcome": outcome}
            haul.taken.append(refused(address.ordinal, address.client_name, key, str(reason), **given))

    def _append(self, haul: _Haul, *, done: bool) -> None:
        def act(session: Session) -> bool:
            if not append(session, self._intake, haul.taken, done=done):
                return False
            url_list.put_off(session, self._intake.job_id, haul.delays)
            return True

        self._turn.commit(self._database, act)
