"""What clients wait for: events, jobs that change, the answer of a photo; one look serves all of a tenant.

Who waits for a minute, or as a stream for an hour, was let in long ago: so looks also ask whether its key still holds.
"""

import hashlib
import json
import time
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from shared import accounts, events, history
from shared.accounts import Proof
from shared.database import Database
from shared.views import JobView, ResultView
from shared.webhooks import Recorded

#: Events of one look at most; who is told of fewer has heard all there are.
PAGE: Final = 100
_CHECK_SECONDS: Final = 1.0
_MOST_TENANTS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Reader:
    """Somebody who has heard of all events up to a number, and what it showed to be let in."""

    after: int
    proof: Proof


@dataclass(frozen=True, slots=True)
class News:
    """Events in order; or that the key holds no longer, or the next events are deleted and which the oldest is."""

    events: Sequence[Recorded] = ()
    is_refused: bool = False
    oldest: int | None = None


@dataclass(frozen=True, slots=True)
class AsKnown:
    """A job as somebody knows it: all marks it may have without being news."""

    job: UUID
    marks: frozenset[str]
    proof: Proof


@dataclass(frozen=True, slots=True)
class Change:
    """A job is not as known any more, or the key holds no longer."""

    is_refused: bool = False


@dataclass(frozen=True, slots=True)
class AnswerOf:
    """Somebody waits for the answer of a job of one photo."""

    job: UUID
    proof: Proof


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer; None says that the key holds no longer."""

    answer: ResultView | None


def for_readers(database: Database, tenant: UUID, readers: Collection[Reader]) -> Mapping[Reader, News]:
    """Return what there is to tell those of the tenant's readers that there is anything to tell.

    Who is far behind comes first: the others hear theirs at the next look.
    """
    with database.transaction(tenant) as session:
        holding = accounts.holding(session, {reader.proof for reader in readers})
        found = events.kept(session, min(reader.after for reader in readers), PAGE)
    numbers = [event.seq for event in found]
    told = {}
    for reader in readers:
        if reader.proof not in holding:
            told[reader] = News(is_refused=True)
        elif oldest := events.oldest_kept(found, reader.after):
            told[reader] = News(oldest=oldest)
        elif ahead := found[bisect_right(numbers, reader.after) :]:
            told[reader] = News(ahead)
    return told


def of_jobs(database: Database, tenant: UUID, known: Collection[AsKnown]) -> Mapping[AsKnown, Change]:
    """Return what there is to tell of those of these jobs that are not as known any more, have closed or are gone."""
    with database.transaction(tenant) as session:
        holding = accounts.holding(session, {each.proof for each in known})
        views = history.jobs(session, {each.job for each in known})
    told = {each: Change(is_refused=True) for each in known if each.proof not in holding}
    return {each: Change() for each in known if is_news(views.get(each.job), each.marks)} | told


class Answers:
    """Looks for answers. Those looks are many, so they ask after the keys of a tenant once a second only."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database, self._clock = database, clock
        self._checked: dict[UUID, float] = {}

    def look(self, tenant: UUID, wanted: Collection[AnswerOf]) -> Mapping[AnswerOf, Answered]:
        """Return what there is to tell of those of the tenant's jobs that are answered, or whose asker is refused."""
        is_due = self._is_due(tenant)
        with self._database.looking(tenant) as session:
            found = history.answers_of_one(session, {each.job for each in wanted})
            proofs = {each.proof for each in wanted}
            holding = accounts.holding(session, proofs) if is_due else proofs
        told = {each: Answered(found[each.job]) for each in wanted if each.job in found}
        return told | {each: Answered(None) for each in wanted if each.proof not in holding}

    def _is_due(self, tenant: UUID) -> bool:
        now = self._clock()
        if now - self._checked.get(tenant, float("-inf")) < _CHECK_SECONDS:
            return False
        if len(self._checked) >= _MOST_TENANTS:
            self._checked.clear()
        self._checked[tenant] = now
        return True


def is_news(view: JobView | None, marks: Collection[str]) -> bool:
    """Tell whether there is nothing to wait for: the job is another than known, is closed, or is gone."""
    return view is None or view.is_closed or mark(view) not in marks


def mark(view: JobView) -> str:
    """Return what names the state and the counts of a job, and nothing that moves by itself."""
    seen = [view.id.hex, view.state, view.round, view.total, *sorted(view.counts.items())]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:32]
