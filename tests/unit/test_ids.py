"""Ids outside: what goes out comes back, everything else is not found."""

from uuid import UUID

import pytest

from shared import ids
from shared.errors import NotFound

SOME = UUID("018f3c5e-7d2a-7abc-8def-0123456789ab")


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [
        ("job", "job_"),
        ("image", "img_"),
        ("endpoint", "whk_"),
        ("event", "evt_"),
        ("delivery", "dlv_"),
        ("key", "key_"),
    ],
)
def test_an_id_keeps_its_prefix_and_comes_back(kind: str, prefix: str) -> None:
    assert ids.text(kind, SOME) == prefix + "018f3c5e7d2a7abc8def0123456789ab"
    assert ids.parse(kind, ids.text(kind, SOME)) == SOME


def test_a_kind_may_be_named_by_its_prefix() -> None:
    assert ids.text("img", SOME) == ids.text("image", SOME)
    assert ids.parse("whk", ids.text("endpoint", SOME)) == SOME


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "job_",
        "018f3c5e7d2a7abc8def0123456789ab",  # no prefix
        "img_018f3c5e7d2a7abc8def0123456789ab",  # another kind's prefix
        "job_018f3c5e7d2a7abc8def0123456789a",  # a digit short
        "job_018f3c5e7d2a7abc8def0123456789abc",  # a digit long
        "job_018F3C5E7D2A7ABC8DEF0123456789AB",  # one id has one spelling
        "job_018f3c5e-7d2a-7abc-8def-0123456789ab",
        "job_job_018f3c5e7d2a7abc8def0123456789ab",
        "job_018f3c5e7d2a7abc8def0123456789ab\n",
        "job_\uff10" + "1" * 31,  # a full-width digit
    ],
)
def test_everything_else_is_not_found(wrong: str) -> None:
    with pytest.raises(NotFound):
        ids.parse("job", wrong)
