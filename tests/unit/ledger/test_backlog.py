"""How many photos come before a tag: exact where tags were counted, in proportion between them."""

import pytest

from shared.ledger.backlog import Backlog

LANES = {"interactive": 8, "normal": 40, "bulk": 1000}


def counted(leased: int = 0, tags: tuple[float, ...] = (), ahead: tuple[int, ...] = ()) -> Backlog:
    return Backlog(0.5, LANES, leased, tags, ahead, 25.0)


@pytest.mark.parametrize(
    ("tag", "before"),
    [
        (float("-inf"), 16),  # a tenant that never sent anything comes behind what is leased
        (9.9, 16),  # before the first ready unit
        (10.0, 16 + 32),  # the first unit itself is ahead of whoever comes behind its tag
        (15.0, 16 + 48),  # half of the way to the next count
        (20.0, 16 + 64),
        (100.0, 16 + 96),
        (1e9, 16 + 96),  # behind everything
    ],
)
def test_what_comes_before_a_tag(tag: float, before: float) -> None:
    found = counted(16, (10.0, 20.0, 30.0), (32, 64, 96))
    assert found.before(tag) == pytest.approx(before)


def test_where_nothing_is_ready_only_leases_come_before() -> None:
    assert counted(7).before(1.0) == 7


@pytest.mark.parametrize(("lane", "photos"), [("interactive", 8), ("normal", 48), ("bulk", 1048)])
def test_a_lane_is_weighed_with_the_more_urgent_ones(lane: str, photos: int) -> None:
    assert counted().as_urgent_as(lane) == photos
