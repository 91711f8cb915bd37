"""CSV cells that a spreadsheet would run are made harmless."""

import pytest

from web.api.results import safe


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("a.jpg", "a.jpg"),
        (None, ""),
        ("=1+1", "'=1+1"),
        ("+41 22", "'+41 22"),
        ("-2", "'-2"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("  =1", "'  =1"),
        ("\uff1dcmd", "'\uff1dcmd"),  # full width: some spreadsheets fold it to "="
        ("a=1", "a=1"),
    ],
)
def test_a_formula_is_text(text: str | None, cell: str) -> None:
    assert safe(text) == cell
