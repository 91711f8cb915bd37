"""Which schema the program knows, as Alembic says it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from web import schema

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def read_anew() -> Iterator[None]:
    schema.known_revision.cache_clear()
    yield
    schema.known_revision.cache_clear()


def test_the_newest_migration_is_the_one_that_alembic_upgrades_to() -> None:
    head = ScriptDirectory(str(ROOT / "migrations")).get_current_head()
    assert head is not None
    assert schema.known_revision() == head


def test_a_program_without_its_migrations_knows_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "_MIGRATIONS", tmp_path / "none")
    assert schema.known_revision() is None
