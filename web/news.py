"""What clients wait for beside answers: events behind a number, and jobs that change; one look serves all of a tenant.

Whoever waits for events may be a stream that goes on for an hour, so each look also asks whether its key still holds.
"""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from shared import accounts, events, history
from shared.accounts import Proof
from shared.database import Database
from shared.views import JobView
from shared.webhooks import Recorded

#: Events of one look at most; who is told of fewer has heard all there are.
PAGE: Final = 100


@dataclass(frozen=True, slots=True)
class Reader:
    """Somebody who has heard of all events up to a number, and what it showed to be let in."""

    after: int
    proof: Proof


@dataclass(frozen=True, slots=True)
class News:
    """Events in order, or that the key holds no longer."""

    events: Sequence[Recorded] = ()
    is_refused: bool = False


@dataclass(frozen=True, slots=True)
class AsKnown:
    """A job as somebody knows it: all marks it may have without being news."""

    job: UUID
    marks: frozenset[str]


def for_readers(database: Database, tenant: UUID, readers: Collection[Reader]) -> Mapping[Reader, News]:
    """Return what there is to tell those of the tenant's readers that there is anything to tell.

    Who is far behind comes first: the others hear theirs at the next look.
    """
    with database.transaction(tenant) as session:
        holding = accounts.holding(session, {reader.proof for reader in readers})
        found = events.since(session, min(reader.after for reader in readers), PAGE)
    numbers = [event.seq for event in found]
    told = {}
    for reader in readers:
        if reader.proof not in holding:
            told[reader] = News(is_refused=True)
        elif ahead := found[bisect_right(numbers, reader.after) :]:
            told[reader] = News(ahead)
    return told


def of_jobs(database: Database, tenant: UUID, known: Collection[AsKnown]) -> Mapping[AsKnown, bool]:
    """Return, as keys, those of the tenant's jobs that are not as known any more, have closed or are gone."""
    with database.transaction(tenant) as session:
        views = history.jobs(session, {each.job for each in known})
    return {each: True for each in known if is_news(views.get(each.job), each.marks)}


def is_news(view: JobView | None, marks: Collection[str]) -> bool:
    """Tell whether there is nothing to wait for: the job is another than known, is closed, or is gone."""
    return view is None or view.is_closed or mark(view) not in marks


def mark(view: JobView) -> str:
    """Return what names the state and the counts of a job, and nothing that moves by itself."""
    seen = [view.id.hex, view.state, view.round, view.total, *sorted(view.counts.items())]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:32]
