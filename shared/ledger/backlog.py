"""What waits before a photo: counted by the sweep, read by whoever must say how long something will take.

Counting looks at every open unit, so it is done once for all, about once a second. What is kept has no names: for a
few hundred tags, how many photos are ahead of each. Workers claim in the order of tags, so the photos ahead of a tag,
whoever sent them, are exactly those that are answered before it.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared.vocabulary import LANES

# Figures older than this say nothing: the sweep is not running.
_TELLING_SECONDS: Final = 60.0
# Counting may take a twentieth of one core, however much waits.
_SHARE: Final = 0.05

_DUE = sa.text("""
    SELECT NOT EXISTS (SELECT FROM backlog_count
      WHERE counted_at > now() - make_interval(secs => greatest(:seconds, took / :share)))
""")
# One statement, so that a unit claimed meanwhile is counted once. Tags near the front are told apart finely, those far
# behind coarsely: all within 4 % of their distance.
_OPEN = sa.text("""
    WITH first AS MATERIALIZED (
      SELECT vft FROM unit WHERE state = 'ready' AND kind = 'images' ORDER BY vft, id LIMIT 1)
    SELECT lane, u.state, max(u.vft) AS tag, sum(n) AS photos
    FROM unit u, first WHERE u.state = 'ready' AND kind = 'images'
    GROUP BY lane, u.state, floor(25 * ln(1 + greatest(0, u.vft - first.vft)))
    UNION ALL
    SELECT lane, state, NULL, sum(n) FROM unit WHERE state = 'leased' AND kind = 'images' GROUP BY lane, state
    UNION ALL
    SELECT lane, state, NULL, sum(n) FROM unit WHERE state = 'waiting' AND kind = 'images' GROUP BY lane, state
    ORDER BY tag
""")
_KEEP = sa.text("""
    INSERT INTO backlog_count (counted_at, took, interactive, normal, bulk, leased, tags, ahead)
    VALUES (now(), extract(epoch FROM clock_timestamp() - now()), :interactive, :normal, :bulk, :leased,
            CAST(:tags AS float8[]), CAST(:ahead AS bigint[]))
    ON CONFLICT (sole) DO UPDATE SET counted_at = excluded.counted_at, took = excluded.took,
      interactive = excluded.interactive, normal = excluded.normal, bulk = excluded.bulk, leased = excluded.leased,
      tags = excluded.tags, ahead = excluded.ahead
""")
_LOOK = sa.text("""
    SELECT b.*, extract(epoch FROM clock_timestamp() - b.counted_at)::float8 AS age,
      (SELECT sum(images_per_second) FROM worker_node
       WHERE last_seen > now() - interval '30 seconds' AND state IN ('ready', 'busy')) AS rate
    FROM backlog_count b
""")
_FLOW = sa.text("SELECT last_vft FROM flow WHERE tenant_id = :tenant AND lane = :lane")
_LAST_UNITS = sa.text("""
    SELECT job_id, max(vft) FILTER (WHERE state = 'ready') AS tag,
      extract(epoch FROM max(available_at) FILTER (WHERE state = 'waiting') - now())::float8 AS pause
    FROM unit WHERE job_id = ANY (CAST(:jobs AS uuid[])) AND state IN ('ready', 'waiting') GROUP BY job_id
""")


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waited when it was last counted, ``age`` seconds ago, and what the living workers answer a second.

    ``lanes`` are photos without an answer, ``leased`` those of them that workers hold; ``ahead[i]`` ready photos have
    a tag of at most ``tags[i]``. ``rate`` is None where no worker says what it can do.
    """

    age: float
    lanes: Mapping[str, int]
    leased: int
    tags: Sequence[float]
    ahead: Sequence[int]
    rate: float | None

    def older(self, seconds: float) -> "Backlog":
        """Return the same, said so many seconds later."""
        return replace(self, age=self.age + seconds)

    def before(self, tag: float) -> float:
        """Return how many photos are answered before a unit of this tag: what is leased, and smaller tags."""
        place = bisect_right(self.tags, tag)
        if place == 0:
            return float(self.leased)
        at_least = self.ahead[place - 1]
        if place == len(self.tags):
            return float(self.leased + at_least)
        part = (tag - self.tags[place - 1]) / (self.tags[place] - self.tags[place - 1])
        return self.leased + at_least + part * (self.ahead[place] - at_least)

    def as_urgent_as(self, lane: str) -> int:
        """Return how many photos wait in this lane and in the more urgent ones."""
        return sum(self.lanes[each] for each in LANES[: LANES.index(lane) + 1])


def count(session: Session, seconds: float = 0.9) -> bool:
    """Count what waits, unless that was done within ``seconds`` or costs too much to be done again so soon."""
    if not session.execute(_DUE, {"seconds": seconds, "share": _SHARE}).scalar_one():
        return False
    recount(session)
    return True


def recount(session: Session) -> None:
    """Count what waits, whatever it costs."""
    lanes = dict.fromkeys(LANES, 0)
    tags: list[float] = []
    ahead: list[int] = []
    leased = 0
    for lane, state, tag, photos in session.execute(_OPEN):
        lanes[lane] += int(photos)
        if state == "leased":
            leased += int(photos)
        elif state == "ready":
            ahead.append((ahead[-1] if ahead else 0) + int(photos))
            tags.append(tag)
    session.execute(_KEEP, {**lanes, "leased": leased, "tags": tags, "ahead": ahead})


def look(session: Session) -> Backlog | None:
    """Return what was counted last; None where nothing is known, or nothing that is still true."""
    row = session.execute(_LOOK).one_or_none()
    if row is None or row.age > _TELLING_SECONDS:
        return None
    lanes = {lane: getattr(row, lane) for lane in LANES}
    return Backlog(row.age, lanes, row.leased, row.tags, row.ahead, row.rate or None)


def next_tag(session: Session, tenant_id: UUID, lane: str) -> float:
    """Return behind which tag the next job of the session's tenant queues in this lane."""
    found = session.execute(_FLOW, {"tenant": tenant_id, "lane": lane}).scalar_one_or_none()
    return float("-inf") if found is None else found


def last_units(session: Session, jobs: Sequence[UUID]) -> dict[UUID, tuple[float | None, float]]:
    """Return of each job the last tag of its ready units, None where all are taken, and how long its longest pause is.

    The pause is in seconds. A job that has neither is left out.
    """
    if not jobs:
        return {}
    found = session.execute(_LAST_UNITS, {"jobs": [str(job) for job in jobs]})
    return {row.job_id: (row.tag, max(0.0, row.pause or 0.0)) for row in found}
