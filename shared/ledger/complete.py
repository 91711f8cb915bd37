"""Completing units: results, counts, and for the last unit the job's events, in one fenced transaction."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from operator import attrgetter
from typing import Any, Final, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared.answers import Scheme
from shared.database import new_id
from shared.ledger import closing
from shared.ledger.claim import Lease
from shared.prepared import Prepared, array, number_array

# Without Python's own code for each of hundreds of ids.
_INT: Final = attrgetter("int")
_HEX: Final = "%032x".__mod__


class Outcome(NamedTuple):
    """What became of one image. ``numbers`` are what the network said, packed by ``scheme``; both None where unasked.

    ``decode_ms`` and ``network_ms`` are the milliseconds that the photo took.
    """

    image_id: UUID
    unit_id: UUID
    ordinal: int
    outcome: str
    label: str | None = None
    scheme: Scheme | None = None
    numbers: bytes | None = None
    reasons: tuple[str, ...] = ()
    has_copy: bool = False
    decode_ms: float | None = None
    network_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Deferred:
    """An image of a unit whose photo could not be fetched now: it becomes a unit of its own and waits."""

    unit_id: UUID
    ordinal: int
    delay_seconds: float


@dataclass(frozen=True, slots=True)
class Completion:
    """The units that were still ours, the results really written, and the jobs that this closed."""

    units: frozenset[UUID]
    written: int
    closed: tuple[UUID, ...]


# Units are locked in the order of their ids, as everywhere: two orders would be a deadlock.
_FINISH: Final = """
    WITH ours AS MATERIALIZED (
      SELECT u.id FROM unit u, unnest(:units, :fences) AS h(id, fence)
      WHERE u.id = h.id AND u.fence = h.fence AND u.state = 'leased' ORDER BY u.id FOR UPDATE OF u),
    done AS (
      UPDATE unit u SET state = CASE WHEN u.id = ANY (:split) THEN 'split' ELSE 'done' END,
        leased_by = NULL, lease_until = NULL
      FROM ours WHERE u.id = ours.id
      RETURNING u.id, u.n, u.tenant_id, u.job_id, u.fence, u.attempt)"""
_OF_LEASES: Final = {"units": "uuid[]", "fences": "bigint[]", "split": "uuid[]"}
_DONE = Prepared(f"{_FINISH} SELECT id AS unit_id, n FROM done", _OF_LEASES)  # noqa: S608  # a constant

# A column goes in as one word, an array in text, and all packed numbers as one: what has hundreds of literals costs the
# server more to parse than to insert. What few photos differ in is sent once for all that share it. A result takes
# tenant, job, fence and attempt from its unit, which the caller holds, or which is done by the same statement.
_OF_RESULTS: Final = {
    "schemes": "jsonb",
    "held": "uuid[]",
    "outcomes": "text[]",
    "labels": "text[]",
    "scheme_ids": "uuid[]",
    "sizes": "int[]",
    "reasons": "text[]",
    "copies": "boolean[]",
    "numbers": "bytea",
    "images": "uuid[]",
    "places": "smallint[]",
    "ordinals": "int[]",
    "said": "smallint[]",
    "starts": "int[]",
    "decode_ms": "real[]",
    "network_ms": "real[]",
}
_KNOWN_SCHEMES: Final = """
    known AS (
      INSERT INTO answer_scheme (id, model_id, model_digest, labels, thresholds, quality)
      SELECT s.id, s.model_id, s.model_digest, s.labels, s.thresholds, s.quality
      FROM jsonb_to_recordset(:schemes)
        AS s(id uuid, model_id text, model_digest text, labels text[], thresholds float8[], quality text[])
      WHERE NOT EXISTS (SELECT FROM answer_scheme a WHERE a.id = s.id)
      ON CONFLICT (id) DO NOTHING)"""
_WRITTEN: Final = """
    written AS (
      INSERT INTO result (image_id, tenant_id, job_id, ordinal, fence, written_in, outcome, label, scheme_id, numbers,
                          reasons, attempts, has_copy, decode_ms, network_ms)
      SELECT x.image, u.tenant_id, u.job_id, x.ordinal, u.fence, (SELECT pg_current_xact_id()::text::bigint),
             (:outcomes)[x.said], (:labels)[x.said], (:scheme_ids)[x.said],
             substring(:numbers FROM x.starts FOR (:sizes)[x.said]),
             string_to_array((:reasons)[x.said], ','), u.attempt, (:copies)[x.said],
             x.decode_ms, x.network_ms
      FROM unnest(:images, :places, :ordinals, :said, :starts, :decode_ms, :network_ms)
        AS x(image, place, ordinal, said, starts, decode_ms, network_ms)
      JOIN held u ON u.place = x.place
      ON CONFLICT (image_id) DO NOTHING
      RETURNING job_id, outcome)"""
_RESULTS = Prepared(
    f"""
    WITH {_KNOWN_SCHEMES},
    held AS MATERIALIZED (
      SELECT h.place::smallint, u.tenant_id, u.job_id, u.fence, u.attempt
      FROM unnest(:held) WITH ORDINALITY AS h(id, place) JOIN unit u ON u.id = h.id),
    {_WRITTEN}
    SELECT job_id, outcome, count(*) AS n FROM written GROUP BY job_id, outcome
    """,  # noqa: S608  # made of the constants above
    _OF_RESULTS,
)
# Both at once, which spares a turn of the connection; of many photos that is less than what the larger statement costs.
# What is not ours any more is no row of `done`, and so its results are none. A row of either kind has NULLs for what
# the other says.
_FEW: Final = 32
_DONE_WITH_RESULTS = Prepared(
    f"""
    {_FINISH},
    {_KNOWN_SCHEMES},
    held AS MATERIALIZED (
      SELECT h.place::smallint, u.tenant_id, u.job_id, u.fence, u.attempt
      FROM unnest(:held) WITH ORDINALITY AS h(id, place) JOIN done u ON u.id = h.id),
    {_WRITTEN}
    SELECT id AS unit_id, NULL::uuid AS job_id, NULL AS outcome, n::bigint FROM done
    UNION ALL SELECT NULL, job_id, outcome, count(*) FROM written GROUP BY job_id, outcome
    """,  # noqa: S608  # made of the constants above
    _OF_LEASES | _OF_RESULTS,
)

_SINGLES = sa.text("""
    INSERT INTO unit (id, tenant_id, job_id, lane, first, n, state, vft, attempt, crashes, available_at)
    SELECT x.id, u.tenant_id, u.job_id, u.lane, x.ordinal, 1, 'waiting', u.vft, u.attempt, u.crashes,
           now() + make_interval(secs => x.delay)
    FROM unnest(CAST(:ids AS uuid[]), CAST(:units AS uuid[]), CAST(:ordinals AS int[]), CAST(:delays AS float8[]))
      AS x(id, unit, ordinal, delay)
    JOIN unit u ON u.id = x.unit
""")


def complete(
    session: Session, leases: Sequence[Lease], outcomes: Sequence[Outcome], deferred: Sequence[Deferred] = ()
) -> Completion:
    """Write the answers of units whose fence still holds; nothing at all for the others.

    1. Units still leased under the given fence are done (or split, where some of their images are deferred).
    2. Results of those units are inserted; an image that has one keeps it.
    3. Deferred images become waiting units of one image.
    4. The jobs' counters move by the results really inserted, last and in the order of job ids.

    Raises ``ValueError`` unless every photo of such a unit has an outcome or is deferred: a unit closed without one of
    its photos would leave the job open for ever.
    """
    given = {
        "units": array(lease.unit_id.hex for lease in leases),
        "fences": array(str(lease.fence) for lease in leases),
        "split": array(sorted({item.unit_id.hex for item in deferred})),
    }
    at_once = 0 < len(outcomes) <= _FEW
    done = _DONE_WITH_RESULTS.run(session, given | _values(outcomes)) if at_once else _DONE.run(session, given)
    # By number: what looks a UUID up runs Python's own code for each photo.
    held = {row.unit_id.int: row.n for row in done if row.unit_id is not None}
    outcomes = [outcome for outcome in outcomes if outcome.unit_id.int in held]
    deferred = [item for item in deferred if item.unit_id.int in held]
    _check_whole(held, [*outcomes, *deferred])
    tally = _tallied(row for row in done if row.unit_id is None) if at_once else write_results(session, outcomes)
    _insert_singles(session, deferred)
    closed = closing.count(session, tally)
    return Completion(
        frozenset(UUID(int=unit) for unit in held), sum(written.total() for written in tally.values()), tuple(closed)
    )


def write_results(session: Session, outcomes: Sequence[Outcome]) -> dict[UUID, Counter[str]]:
    """Insert results and return how many of each outcome were new, by job. The caller holds the units' rows."""
    return _tallied(_RESULTS.run(session, _values(outcomes)) if outcomes else [])


def _values(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return what the statements that write results are given; there is at least one."""
    images, units, ordinals, _, _, _, numbers, _, _, decode_ms, network_ms = zip(*outcomes, strict=True)
    said: dict[tuple[Any, ...], int] = {}
    saying = [said.setdefault(_shared(item), len(said) + 1) for item in outcomes]
    names, labels, schemes, sizes, reasons, copies = zip(*said, strict=True)
    at = {unit: place for place, unit in enumerate(dict.fromkeys(map(_HEX, map(_INT, units))), start=1)}
    return {
        "schemes": json.dumps([asdict(scheme) | {"id": scheme.id.hex} for scheme in set(schemes) if scheme]),
        "held": array(at),
        "outcomes": list(names),
        "labels": list(labels),
        "scheme_ids": array(scheme.id.hex if scheme else "NULL" for scheme in schemes),
        "sizes": number_array(sizes),
        "reasons": [",".join(why) for why in reasons],
        "copies": list(copies),
        "numbers": b"".join(filter(None, numbers)),
        "images": array(map(_HEX, map(_INT, images))),
        "places": number_array(map(at.__getitem__, map(_HEX, map(_INT, units)))),
        "ordinals": number_array(ordinals),
        "said": number_array(saying),
        "starts": number_array(accumulate((len(packed or b"") for packed in numbers[:-1]), initial=1)),
        "decode_ms": number_array(decode_ms),
        "network_ms": number_array(network_ms),
    }


def _tallied(rows: Iterable[Any]) -> dict[UUID, Counter[str]]:
    tally: defaultdict[UUID, Counter[str]] = defaultdict(Counter)
    for row in rows:
        tally[row.job_id][row.outcome] = row.n
    return tally


def _shared(item: Outcome) -> tuple[Any, ...]:
    size = None if item.numbers is None else len(item.numbers)
    return item.outcome, item.label, item.scheme, size, item.reasons, item.has_copy


def _check_whole(held: Mapping[int, int], items: Sequence[Outcome | Deferred]) -> None:
    places = {(item.unit_id.int, item.ordinal) for item in items}
    known = Counter(unit for unit, _ in places)
    for unit, photos in held.items():
        if known[unit] != photos or len(items) != len(places):
            raise ValueError(f"unit {UUID(int=unit)} has {photos} photos; each must be answered or deferred, and once")


def _insert_singles(session: Session, deferred: Sequence[Deferred]) -> None:
    if not deferred:
        return
    session.execute(
        _SINGLES,
        {
            "ids": [str(new_id()) for _ in deferred],
            "units": [str(item.unit_id) for item in deferred],
            "ordinals": [item.ordinal for item in deferred],
            "delays": [item.delay_seconds for item in deferred],
        },
    )
