"""How fast a closed job went: nobody worked on what was cancelled or ran out of time."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.orm import Session

from shared.database import new_id
from shared.views import JobView
from shared.vocabulary import OUTCOMES
from web.outlook import outlooks

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def closed(**counts: int) -> JobView:
    """Return a job that ran ten seconds."""
    return JobView(
        id=new_id(),
        tenant_id=new_id(),
        key_id=None,
        state="cancelled",
        lane="bulk",
        round=0,
        total=sum(counts.values()),
        remaining=0,
        counts=dict.fromkeys(OUTCOMES, 0) | counts,
        model=None,
        deadline=None,
        max_failure_rate=None,
        keep_originals=False,
        details={},
        created_at=BEGAN,
        started_at=BEGAN,
        closed_at=BEGAN + timedelta(seconds=10),
        originals_deleted_at=None,
        receipt_digest=None,
    )


@pytest.mark.parametrize(
    ("counts", "pace"),
    [
        ({"classified": 20, "abstained": 5, "rejected": 3, "failed": 2}, 3.0),
        ({"classified": 20, "cancelled": 50_000}, 2.0),
        ({"expired": 50_000}, None),
    ],
)
def test_only_photos_that_were_worked_on_count(counts: dict[str, int], pace: float | None) -> None:
    assert outlooks(Session(), [closed(**counts)]) == [(pace, None)]
