"""Who is turned away, with which answer, and until when."""

import pytest
from werkzeug import Request
from werkzeug.test import EnvironBuilder

from shared.ledger.backlog import Backlog
from shared.settings import Settings
from web.intake.pressure import likely_lane, refuse
from web.problems import SERVICE_FULL, TENANT_FULL, Kind, Problem

MEGABYTE = 1_000_000
HOUR = 3600.0
SETTINGS = Settings.load(
    {
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing",
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "STORAGE_URL": "file:///nowhere",
        "SECRET_KEY": "a-secret-of-the-tests-32-characters-long",
        "POXVISIO_TENANT_BACKLOG_SECONDS": str(2 * HOUR),
        "POXVISIO_BACKLOG_SECONDS": str(6 * HOUR),
        "POXVISIO_TENANT_BACKLOG_PHOTOS": "1000",
        "POXVISIO_BACKLOG_PHOTOS": "5000",
    }
)


def waiting(rate: float | None = 10.0, **lanes: int) -> Backlog:
    return Backlog(0.5, {"interactive": 0, "normal": 0, "bulk": 0} | lanes, 0, (), (), rate)


def outcome(found: Backlog, before: float, lane: str = "bulk", chance: float = 0.0) -> tuple[Kind, int] | None:
    try:
        refuse(found, before, lane, SETTINGS, chance)
    except Problem as problem:
        return problem.kind, int(problem.headers["Retry-After"])
    return None


@pytest.mark.parametrize(
    ("found", "before", "lane", "expected"),
    [
        (waiting(), 0, "bulk", None),
        # At 10 a second 72,000 photos are two hours: as long as a tenant may wait. Figures may be 2 s old.
        (waiting(bulk=72_000), 72_000, "bulk", None),
        (waiting(bulk=73_000), 73_000, "bulk", (TENANT_FULL, 102)),
        # Its own bulk job is behind its single photo.
        (waiting(bulk=73_000), 0, "interactive", None),
        # 216,000 are six hours, for all together; bulk is turned away first.
        (waiting(bulk=216_010, normal=10), 0, "bulk", (SERVICE_FULL, 4)),
        (waiting(bulk=216_010, normal=10), 0, "normal", None),
        (waiting(interactive=216_020), 0, "interactive", (SERVICE_FULL, 4)),
        # Without a worker there is no rate: photos wait, but not without end.
        (waiting(None, bulk=1000), 1000, "bulk", None),
        (waiting(None, bulk=1001), 1001, "bulk", (TENANT_FULL, 60)),
        (waiting(None, bulk=5001), 0, "bulk", (SERVICE_FULL, 60)),
        (waiting(None, bulk=5001), 0, "interactive", None),
    ],
)
def test_who_is_turned_away_and_until_when(
    found: Backlog, before: float, lane: str, expected: tuple[Kind, int] | None
) -> None:
    assert outcome(found, before, lane) == expected


def test_clients_are_told_different_times_so_that_they_do_not_come_back_at_once() -> None:
    told = [outcome(waiting(bulk=82_000), 82_000, chance=chance / 10) for chance in range(10)]
    seconds = [answer[1] for answer in told if answer]
    assert len(seconds) == 10
    assert min(seconds) == 1002  # never sooner than the wait has shrunk to the bound
    assert max(seconds) <= 1.2 * 1002
    assert len(set(seconds)) == 10


def posted(length: int | None) -> Request:
    environ = EnvironBuilder(method="POST", path="/v1/jobs", content_type="multipart/form-data").get_environ()
    environ |= {"HTTP_TRANSFER_ENCODING": "chunked"} if length is None else {"CONTENT_LENGTH": str(length)}
    return Request(environ)


@pytest.mark.parametrize(
    ("length", "priority", "lane"),
    [
        (3 * MEGABYTE, None, "interactive"),  # may be one photo
        (50 * MEGABYTE, None, "interactive"),
        (60 * MEGABYTE, None, "normal"),  # cannot be one
        (500 * MEGABYTE, None, "normal"),  # a hundred of a phone
        (600 * MEGABYTE, None, "bulk"),
        (None, None, "bulk"),  # in chunks: may go on for hours
        (3 * MEGABYTE, "bulk", "bulk"),
        (9_000 * MEGABYTE, "interactive", "interactive"),
    ],
)
def test_the_lane_is_told_by_the_query_or_by_the_size(length: int | None, priority: str | None, lane: str) -> None:
    assert likely_lane(posted(length), priority, SETTINGS.max_photo_bytes) == lane
