"""Statements that the server reads and plans once a connection, for the few that run hundreds of times a second.

psycopg2 has no prepared statements of its own; PostgreSQL has them in SQL (PREPARE, EXECUTE). They belong to the
connection and outlive a rollback, so what a connection knows is kept with it and forgotten when the pool replaces it.
They pass SQLAlchemy's own way of running a statement by, for its cost; what goes wrong is raised as there.
"""

import re
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, Final

import psycopg2
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from shared.errors import DatabaseAway

_PLACE: Final = re.compile(r"(?<!:):([a-z_]+)")
_KNOWN: Final = "prepared"
# There is no such statement (somebody else has discarded it), a migration has changed what it returns, and there is one
# already (whoever prepared it was interrupted before that was noted). A new connection mends them, and nothing else.
_STALE: Final = frozenset({"26000", "0A000", "42P05"})


@dataclass(frozen=True)
class Prepared:
    """SQL with ``:name`` where values go, and PostgreSQL's type of each name; its rows are all read at once."""

    text: str
    types: Mapping[str, str]

    def run(
        self, session: Session, values: Mapping[str, Any], *, first: "tuple[Prepared, Mapping[str, Any]] | None" = None
    ) -> list[Any]:
        """Run it in the session's transaction and return its rows, named tuples.

        ``first`` is another statement and its values, which goes along and is done before; nobody asks for its rows.

        Arrays of other things than text, booleans and whole numbers go in as PostgreSQL's text of an array (``array``),
        which its parser reads as one word. Raises SQLAlchemy's errors, and ``DatabaseAway`` where the connection's
        statement has gone stale.
        """
        connection = session.connection()
        known: dict[str, Any] = connection.info.setdefault(_KNOWN, {})
        raw: Any = connection.connection.dbapi_connection
        try:
            with raw.cursor() as cursor:
                text, given = self.ready(cursor, known, values)
                if first:
                    before, given_before = first[0].ready(cursor, known, first[1])
                    text, given = f"{before}; {text}", given_before + given
                cursor.execute(text, given)
                if not cursor.description:
                    return []
                # Its columns are those that it had when it was prepared.
                row = known[self._name] = known[self._name] or _row_of(cursor.description)
                return list(map(row, cursor.fetchall()))
        except psycopg2.Error as error:
            raised: Any = error
            raise self._said(connection, error, lost=connection.dialect.is_disconnect(raised, raw, None)) from error

    def ready(self, cursor: Any, known: dict[str, Any], values: Mapping[str, Any]) -> tuple[str, list[Any]]:
        """Prepare it where that was not done, and return what runs it."""
        if self._name not in known:
            cursor.execute(self._prepare)
            known[self._name] = None
        return self._execute, [values[name] for name in self.types]

    def _said(self, connection: sa.Connection, error: psycopg2.Error, *, lost: bool) -> Exception:
        """Return the error as SQLAlchemy would raise it; a connection that is of no use any more is given up."""
        stale = error.pgcode in _STALE
        if stale or lost:
            connection.invalidate(error)
        if stale:
            return DatabaseAway("the database has changed under a prepared statement; try again in a moment")
        return DBAPIError.instance(
            self.text, None, error, psycopg2.Error, True, connection_invalidated=lost, dialect=connection.dialect
        )

    @cached_property
    def _name(self) -> str:
        return f"poxvisio_{sha256(self.text.encode()).hexdigest()[:16]}"

    @cached_property
    def _prepare(self) -> str:
        places = {name: f"${place}" for place, name in enumerate(self.types, start=1)}
        text = _PLACE.sub(lambda found: places[found[1]], self.text)
        return f"PREPARE {self._name}{_listed(self.types.values())} AS {text}"

    @cached_property
    def _execute(self) -> str:
        return f"EXECUTE {self._name}{_listed('%s' for _ in self.types)}"


def _row_of(columns: Sequence[Any]) -> Callable[[Iterable[Any]], Any]:
    """Return what makes a named tuple of a row."""
    shape: Any = namedtuple("Row", [column.name for column in columns], rename=True)  # type: ignore[misc]  # by the database
    made: Callable[[Iterable[Any]], Any] = shape._make
    return made


def _listed(words: Iterable[str]) -> str:
    """Return the words as a list in brackets, which SQL wants left out where it is empty."""
    inside = ", ".join(words)
    return f" ({inside})" if inside else ""


def array(elements: Iterable[str]) -> str:
    """Return PostgreSQL's text of an array whose elements need no quotes; NULL stands for none."""
    return f"{{{','.join(elements)}}}"


def text_array(elements: Iterable[str | None]) -> str:
    """Return PostgreSQL's text of an array of any texts, quoted as it reads them."""
    return array(
        "NULL" if text is None else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' for text in elements
    )


def number_array(values: Iterable[float | None]) -> str:
    """Return PostgreSQL's text of an array of numbers; Python's text of a list is nearly that, and made at once."""
    return f"{{{str(list(values))[1:-1].replace('None', 'NULL')}}}"
