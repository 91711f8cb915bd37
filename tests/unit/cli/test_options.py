"""What is wrong with a key or an address is told before anything is asked of anybody."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from cli.options import _KEY
from shared import accounts

GATE = "http://127.0.0.1:9"  # the discard port: nobody listens
KEY = f"pxv_{'0' * 32}_{'0' * 48}"
PRIVATE = "postgresql://owner:hidden@127.0.0.1"


def run(*arguments: str, **variables: str) -> Result:
    unset = {"POXVISIO_KEY": None, "POXVISIO_URL": GATE, "DATABASE_URL": None, "DATABASE_URL_FILE": None}
    return CliRunner().invoke(main, arguments, env={**unset, **variables})


@pytest.fixture
def photo(tmp_path: Path) -> str:
    (tmp_path / "a.jpg").write_bytes(b"photo")
    return str(tmp_path / "a.jpg")


def test_a_key_has_the_form_that_the_service_gives_it() -> None:
    assert _KEY.pattern == re.sub(r"[()]", "", accounts._TOKEN.pattern)


@pytest.mark.parametrize("command", [("jobs",), ("jobs", "show", "job_1"), ("classify", __file__)])
def test_without_a_key_nothing_is_asked(command: tuple[str, ...]) -> None:
    ended = run(*command)
    assert ended.exit_code == 2
    assert "give --key or POXVISIO_KEY" in ended.stderr


@pytest.mark.parametrize("key", ["pxv_wrong", KEY[:-1], KEY.upper(), f"{KEY} {KEY}"])
def test_a_key_of_another_form_is_not_sent_and_not_shown(key: str) -> None:
    ended = run("jobs", POXVISIO_KEY=key)
    assert ended.exit_code == 2
    assert "is no API key" in ended.stderr
    assert key not in ended.stderr


def test_a_key_may_come_with_the_end_of_its_line() -> None:
    assert run("jobs", POXVISIO_KEY=f"{KEY}\n").exit_code == 3  # it is the service that is away


@pytest.mark.parametrize("option", ["--receipt", "--csv"])
@pytest.mark.parametrize("place", ["no/such/folder/file", "a.jpg/file"])
def test_a_file_that_cannot_be_written_is_told_before_anything_is_sent(photo: str, option: str, place: str) -> None:
    ended = run("classify", photo, option, str(Path(photo).parent / place), POXVISIO_KEY=KEY)
    assert ended.exit_code == 2
    assert "cannot be written" in ended.stderr


def test_looking_whether_a_file_can_be_written_changes_nothing(photo: str, tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text("kept")
    files = ("--receipt", str(tmp_path / "new.json"), "--csv", str(tmp_path / "old.csv"))
    assert run("classify", photo, *files, POXVISIO_KEY=KEY).exit_code == 3
    assert (tmp_path / "old.csv").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "old.csv"]


@pytest.mark.parametrize("command", [("admin", "tenant", "create", "clinic"), ("migrate",)])
@pytest.mark.parametrize(
    "url",
    [
        "foo",
        "mysql://owner:hidden@127.0.0.1/poxvisio",
        f"{PRIVATE}:port/poxvisio",
        f"{PRIVATE}/poxvisio?port=port",
        f"{PRIVATE}/poxvisio?hidden=1",
    ],
)
def test_what_is_no_address_of_a_database_is_told_without_its_password(command: tuple[str, ...], url: str) -> None:
    ended = run(*command, DATABASE_URL=url)
    assert ended.exit_code == 2
    assert "DATABASE_URL" in ended.stderr
    assert "hidden" not in ended.stderr


@pytest.mark.parametrize("command", [("admin", "key", "list", "--tenant", "clinic"), ("migrate",)])
def test_a_database_that_is_away_is_one_line(command: tuple[str, ...]) -> None:
    ended = run(*command, "--database-url", f"{PRIVATE}:9/poxvisio")
    assert ended.exit_code == 3
    assert ended.stderr.startswith("poxvisio: the database is out of reach: ")
    assert "refused" in ended.stderr
    assert ended.stderr.count("\n") == 1
