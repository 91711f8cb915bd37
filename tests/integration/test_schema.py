"""The classes of ``shared/tables.py`` and the migrations describe the same schema."""

from typing import Any

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from shared.tables import Base


def _counts(_object: Any, name: str | None, kind: str, _reflected: bool, _other: Any) -> bool:
    """Leave the partitions of ``attempt`` out: they come and go with the months."""
    return not (kind == "table" and (name or "").startswith("attempt_"))


def test_the_tables_are_those_that_the_migrations_make(owner_url: str) -> None:
    engine = sa.create_engine(sa.make_url(owner_url).set(drivername="postgresql+psycopg2"))
    try:
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True, "include_object": _counts})
            assert compare_metadata(context, Base.metadata) == []
    finally:
        engine.dispose()
