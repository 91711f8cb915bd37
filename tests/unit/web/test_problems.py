"""Every error of ours has its kind of problem, and every kind its own name."""

import dataclasses
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from shared import errors
from shared.accounts import KeyUnknown
from shared.events import EventsGone
from shared.ledger.idempotency import InFlight, TakenOver
from shared.views import JobDeleted, JobView, Tombstone
from shared.vocabulary import OUTCOMES
from web import problems
from web.problems import KINDS, problem_of


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (KeyUnknown("no"), problems.UNAUTHORIZED),
        (errors.NotFound("there is no job 5"), problems.NOT_FOUND),
        (InFlight(7), problems.IN_FLIGHT),
        (TakenOver("gone"), problems.IN_FLIGHT),
        (errors.Gone("deleted"), problems.GONE),
        (errors.Conflict("closed"), problems.CONFLICT),
        (errors.Refused("no"), problems.REFUSED),
        (errors.DatabaseAway("x"), problems.DATABASE_AWAY),
        (errors.StorageAway("/mnt/secret is full"), problems.STORAGE_AWAY),
        (errors.BundleMissing("/srv/models"), problems.MODEL_AWAY),
        (errors.BrokerAway("x"), problems.UNAVAILABLE),
        (errors.ObjectMissing("x"), problems.INTERNAL),
    ],
)
def test_an_error_has_its_kind(error: errors.PoxVisioError, kind: problems.Kind) -> None:
    assert problem_of(error).kind is kind


def every_error(kind: type[errors.PoxVisioError]) -> list[type[errors.PoxVisioError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in every_error(child))]


def some_tombstone() -> Tombstone:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    given: dict[str, Any] = dict.fromkeys(field.name for field in dataclasses.fields(JobView))
    counts = dict.fromkeys((*OUTCOMES, "waiting"), 0) | {"classified": 1}
    given |= {"id": UUID(int=7), "state": "completed", "round": 0, "total": 1, "counts": counts, "created_at": now}
    return Tombstone(JobView(**given), now, None)


@pytest.mark.parametrize("kind", every_error(errors.PoxVisioError))
def test_no_error_is_forgotten(kind: type[errors.PoxVisioError]) -> None:
    error = kind.__new__(kind)
    Exception.__init__(error, "told")
    error.retry_after = 1  # type: ignore[attr-defined]
    if isinstance(error, JobDeleted):
        error.tombstone = some_tombstone()
    if isinstance(error, EventsGone):
        error.oldest = 7
    assert problem_of(error).kind in KINDS.values()


def test_what_is_unavailable_says_when_to_come_back() -> None:
    for error in (
        errors.DatabaseAway("x"),
        errors.StorageAway("x"),
        errors.BundleMissing("x"),
        InFlight(3),
        TakenOver("x"),
    ):
        assert int(problem_of(error).headers["Retry-After"]) > 0


def test_paths_of_ours_are_not_told() -> None:
    assert "/mnt/secret" not in problem_of(errors.StorageAway("/mnt/secret is full")).detail
    assert "5" not in problem_of(errors.NotFound("there is no job 5")).detail


def test_names_fit_an_address() -> None:
    assert all(name.replace("-", "").isalpha() and name.islower() for name in KINDS)
