"""``poxvisio admin key`` on a real database: made with an end, listed with their state, rotated."""

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from click.testing import CliRunner

from cli.main import main
from shared import accounts
from shared.accounts import KeyUnknown
from shared.database import Database
from tests.integration.ledger.factories import change, rows


def run(owner_url: str, *words: str, code: int = 0) -> str:
    ended = CliRunner().invoke(main, ["admin", "key", *words], env={"DATABASE_URL": owner_url})
    assert ended.exit_code == code, ended.output
    return ended.stdout.strip()


def is_good(app_db: Database, token: str) -> bool:
    try:
        with app_db.transaction() as session:
            accounts.authenticate(session, token)
    except KeyUnknown:
        return False
    return True


@pytest.fixture
def clinic(owner_db: Database, tenant: UUID) -> str:
    [row] = rows(owner_db, "SELECT name FROM tenant")
    return str(row.name)


def test_a_key_is_rotated_with_the_grace_that_is_given(owner_url: str, app_db: Database, clinic: str) -> None:
    old = run(owner_url, "create", "--tenant", clinic)
    name = f"key_{old.split('_')[1]}"
    new = json.loads(run(owner_url, "rotate", name, "--tenant", clinic, "--grace-hours", "0.5", "--json"))
    left = datetime.fromisoformat(new["previous_until"]) - datetime.now(UTC)
    assert timedelta(minutes=29) < left <= timedelta(minutes=30)
    assert (is_good(app_db, old), is_good(app_db, new["key"])) == (True, True)
    last = run(owner_url, "rotate", name, "--tenant", clinic, "--grace-hours", "0")
    assert [is_good(app_db, token) for token in (old, new["key"], last)] == [False, False, True]


def test_a_key_ends_by_itself_and_the_list_says_so(
    owner_url: str, owner_db: Database, app_db: Database, clinic: str
) -> None:
    later = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S%z")
    token = run(owner_url, "create", "--tenant", clinic, "--expires", later)
    [listed] = json.loads(run(owner_url, "list", "--tenant", clinic, "--json"))
    assert datetime.fromisoformat(listed["expires_at"]) == datetime.fromisoformat(later)
    assert " valid " in run(owner_url, "list", "--tenant", clinic)
    change(owner_db, "UPDATE api_key SET expires_at = now() - interval '1 second'")
    assert " expired " in run(owner_url, "list", "--tenant", clinic)
    assert not is_good(app_db, token)
    run(owner_url, "rotate", listed["id"], "--tenant", clinic, code=3)
    run(owner_url, "create", "--tenant", clinic, "--expires", "2020-01-01", code=2)
