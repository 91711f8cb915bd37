"""File names from outside are shown, never followed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.names import LONGEST, display_name, entry_name


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("a.jpg", "a.jpg"),
        ("C:\\Users\\jane\\a.jpg", "a.jpg"),
        ("../../etc/passwd", "passwd"),
        ("folder/", None),
        ("a\x00b\r\n.jpg", "ab.jpg"),
        ("evil\u202egpj.exe", "evilgpj.exe"),  # a direction mark would show it as evilexe.jpg
        ("  many   spaces .jpg ", "many spaces .jpg"),
        ("e\u0301.jpg", "é.jpg"),
        ("", None),
        (None, None),
        ("x" * 300 + ".jpeg", "x" * (LONGEST - 6) + "….jpeg"),
    ],
)
def test_a_name_is_cleaned(given: str | None, shown: str | None) -> None:
    assert display_name(given) == shown


@given(st.text(st.characters(), max_size=400))
def test_any_name_is_short_and_holds_no_path_and_no_control(name: str) -> None:
    shown = display_name(name)
    if shown is not None:
        assert 0 < len(shown) <= LONGEST
        assert "/" not in shown
        assert "\\" not in shown
        assert shown.isprintable() or "\xa0" in shown
        assert display_name(shown) == shown
        shown.encode()


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("ward 3/a.jpg", "ward 3/a.jpg"),
        ("../../etc/passwd", "../../etc/passwd"),
        ("/abs//a.jpg", "abs/a.jpg"),
        ("back\\slash.jpg", "back/slash.jpg"),
        ("nul\x00/a\u202eb.jpg", "nul/ab.jpg"),
        ("", None),
        ("a/" * 300 + "end.jpg", "…" + ("a/" * 300 + "end.jpg")[1 - LONGEST :]),
    ],
)
def test_a_name_in_an_archive_keeps_its_folders(given: str, shown: str | None) -> None:
    assert entry_name(given) == shown
