from typing import Any

import pytest

from cli.listing import added, counts_line, line, printable, result_table

COUNTS = {"classified": 1200, "abstained": 0, "rejected": 3, "failed": 0, "cancelled": 0, "expired": 0, "waiting": 1}


def test_counts_are_one_sentence_without_what_is_zero() -> None:
    assert counts_line(COUNTS) == "1,204 photos: 1,200 classified, 3 rejected, 1 waiting"


def test_the_counts_of_several_jobs_are_added() -> None:
    assert added([{"counts": COUNTS}, {"counts": COUNTS}])["rejected"] == 6


def test_results_stand_in_columns() -> None:
    results: list[dict[str, Any]] = [
        {
            "image": "img_1",
            "file_name": "a.jpg",
            "outcome": "classified",
            "label": "mpox",
            "probabilities": {"mpox": 0.97254, "other": 0.02746},
            "reasons": [],
        },
        {
            "image": "img_2",
            "file_name": "long.jpg",
            "outcome": "rejected",
            "label": None,
            "reasons": ["damaged", "small"],
        },
    ]
    assert list(result_table(results, ["a.jpg", "long.jpg"])) == [
        "photo     outcome     label              probability  reasons",
        "a.jpg     classified  mpox               0.973",
        "long.jpg  rejected                                    damaged; small",
    ]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("wound.jpg", "wound.jpg"),
        ("\x1b[2Jgone.jpg", "�[2Jgone.jpg"),
        ("two\nlines.jpg", "two�lines.jpg"),
        ("beulenpest-ä-痘.jpg", "beulenpest-ä-痘.jpg"),
    ],
)
def test_a_file_name_cannot_steer_the_terminal(name: str, shown: str) -> None:
    assert printable(name) == shown


def test_a_long_name_loses_its_beginning() -> None:
    assert line(("very/long/folder/photo.jpg", "x"), (10,)) == "…photo.jpg  x"
