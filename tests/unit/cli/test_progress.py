import pytest

from cli.progress import progress


def test_off_a_terminal_progress_is_a_plain_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("sending", 2_000_000, "bytes") as advance:
        for done in (0, 1_000_000, 2_000_000, 2_000_000):
            advance(done)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "sending: 2,000,000 of 2,000,000 bytes\n"


def test_quiet_progress_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("sending", 1, "photos", quiet=True) as advance:
        advance(1)
    assert capsys.readouterr() == ("", "")
