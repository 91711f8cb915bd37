"""The page of a shadow run."""

from typing import Any

from cli.shadow_page import page
from shared.bundle import RESEARCH_USE

RATE = {"name": "all", "photos": 40, "agreeing": 38, "same_outcome": 37, "rate": 0.95, "low": 0.835, "high": 0.986}
FEW = {"name": "<b>odd", "photos": 3, "agreeing": 1, "same_outcome": 2, "rate": None, "low": None, "high": None}
REPORT: dict[str, Any] = {
    "model": "second",
    "digest": "d" * 64,
    "share": 0.1,
    "total": RATE | {"data": "enough"},
    "by_label": [FEW | {"data": "not enough data"}],
    "by_confidence": [],
    "moves": [{"standing": "a", "shadow": "b", "photos": 2}],
    "largest_difference": 0.25,
    "mean_difference": 0.01,
    "disagreements": [
        {
            "image": f"img_{n}",
            "standing": "a",
            "standing_probability": 0.61,
            "standing_outcome": "abstained",
            "shadow": "b",
            "shadow_probability": 0.9,
            "shadow_outcome": "classified",
            "page_url": "http://127.0.0.1/#job_1",
            "result_url": "http://127.0.0.1/v1/images/img_1",
        }
        for n in (1, 2)
    ],
}


def test_it_says_what_it_is_and_gives_rates_with_intervals_or_says_that_there_is_not_enough() -> None:
    said = page(REPORT, {})
    assert RESEARCH_USE in said
    assert "95.0% (83.5% to 98.6%)" in said
    assert said.count("not enough data") == 2, "of the group of three, and of no group at all"
    assert "<b>odd" not in said
    assert "&lt;b&gt;odd" in said


def test_it_needs_nothing_else_and_holds_the_photos_it_was_given() -> None:
    said = page(REPORT, {"img_1": b"\xff\xd8 a photo"})
    assert said.count("<img") == 1
    assert 'src="data:image/jpeg;base64,' in said
    assert "<script" not in said
    assert "<link" not in said


def test_other_labels_and_no_photos_are_said_in_words() -> None:
    said = page(REPORT | {"largest_difference": None, "disagreements": []}, {})
    assert "cannot be compared" in said
    assert "None of yours." in said
