"""Tags of the fair queue, computed by hand."""

import pytest

from shared.ledger.fairness import UNIT_IMAGES, WEIGHTS, Slice, default_lane, runs, slices


@pytest.mark.parametrize(
    ("photos", "lane", "last_vft", "now_vft", "weight", "expected"),
    [
        # one urgent photo on an idle system: 1 / 8
        (1, "interactive", 0, 0, 1, [(0, 1, 0.125)]),
        # it starts from the virtual time, not from its own past: 100 + 1 / 8
        (1, "interactive", 3, 100, 1, [(0, 1, 100.125)]),
        # a tenant that is ahead of the virtual time queues behind itself: 200 + 1 / 8
        (1, "interactive", 200, 100, 1, [(0, 1, 200.125)]),
        # just under, at and over one unit in the normal lane: n / 4
        (31, "normal", 0, 0, 1, [(0, 31, 7.75)]),
        (32, "normal", 0, 0, 1, [(0, 32, 8.0)]),
        (33, "normal", 0, 0, 1, [(0, 32, 8.0), (32, 1, 8.25)]),
        # bulk weighs 1: each full unit moves the tag by 32
        (100, "bulk", 10, 0, 1, [(0, 32, 42.0), (32, 32, 74.0), (64, 32, 106.0), (96, 4, 110.0)]),
        # a tenant of weight 2 is tagged half as far out: 64 / (1 * 2)
        (64, "bulk", 0, 0, 2, [(0, 32, 16.0), (32, 32, 32.0)]),
        # a tenant of weight one half, twice as far: 2 / (8 * 0.5)
        (2, "interactive", 0, 0, 0.5, [(0, 2, 0.5)]),
    ],
)
def test_units_are_tagged_by_their_share(
    *, photos: int, lane: str, last_vft: float, now_vft: float, weight: float, expected: list[tuple[int, int, float]]
) -> None:
    cut = slices(photos, lane=lane, last_vft=last_vft, now_vft=now_vft, tenant_weight=weight)
    assert cut == [Slice(*piece) for piece in expected]


@pytest.mark.parametrize("photos", [1, 31, 32, 33, 64, 65, 10_000, 50_000])
def test_units_cover_every_photo_once_and_tags_only_grow(photos: int) -> None:
    cut = slices(photos, lane="bulk", last_vft=7.5, now_vft=3)
    assert [place for piece in cut for place in range(piece.first, piece.first + piece.n)] == list(range(photos))
    assert all(1 <= piece.n <= UNIT_IMAGES for piece in cut)
    assert [piece.vft for piece in cut] == sorted({piece.vft for piece in cut})
    assert cut[-1].vft == 7.5 + photos


def test_a_job_cut_in_two_ends_where_one_job_would() -> None:
    whole = slices(96, lane="normal", last_vft=0, now_vft=0)
    first = slices(32, lane="normal", last_vft=0, now_vft=0)
    second = slices(64, lane="normal", last_vft=first[-1].vft, now_vft=0)
    assert [piece.vft for piece in whole] == [piece.vft for piece in first + second]


def test_the_weights_are_those_of_the_documentation() -> None:
    assert WEIGHTS == {"interactive": 8.0, "normal": 4.0, "bulk": 1.0}


@pytest.mark.parametrize(
    ("photos", "lane"), [(1, "interactive"), (2, "normal"), (100, "normal"), (101, "bulk"), (50_000, "bulk")]
)
def test_the_lane_follows_from_the_number_of_photos(photos: int, lane: str) -> None:
    assert default_lane(photos) == lane


@pytest.mark.parametrize(
    ("ordinals", "units"),
    [
        ([0], [(0, 1)]),
        (list(range(70)), [(0, 32), (32, 32), (64, 6)]),
        ([3, 4, 6, 7, 8], [(3, 2), (6, 3)]),  # a gap ends a unit
        ([5, 9, 13], [(5, 1), (9, 1), (13, 1)]),
    ],
)
def test_runs_hold_neighbours_alone_under_the_tags_of_their_last_photos(
    ordinals: list[int], units: list[tuple[int, int]]
) -> None:
    found = runs(ordinals, lane="normal", last_vft=10.0, now_vft=3.0, tenant_weight=2.0)
    assert [(piece.first, piece.n) for piece in found] == units
    before = 0
    for piece in found:
        before += piece.n
        assert piece.vft == pytest.approx(10.0 + before / 8)
