"""Connections that spare turns: what opens a transaction goes to the server along with its first statement.

A turn (one question to the server and its answer) costs both sides some tens of microseconds of CPU, and psycopg2 takes
one of its own for BEGIN. Here the connection says BEGIN itself, in one text with what comes first, and COMMIT or
ROLLBACK only where there is a transaction to end.
"""

from typing import Any

import psycopg2.extensions
from psycopg2.extensions import TRANSACTION_STATUS_IDLE


class Connection(psycopg2.extensions.connection):
    """A connection that begins no transaction by itself, unless ``open_with`` told it to. Not for two threads."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.cursor_factory = Cursor
        self.autocommit = True
        self._ahead = b""
        self._always = False
        self._streams: list[Cursor] = []

    def open_with(self, text: str, *, always: bool = False) -> None:
        """Send this text with the next statement, or ``always`` with each one until ``commit`` or ``rollback``."""
        self._ahead, self._always = text.encode(), always

    def take_ahead(self) -> bytes:
        """Return what is to be sent with the statement that is about to be sent."""
        ahead = self._ahead
        if not self._always:
            self._ahead = b""
        return ahead

    def commit(self) -> None:
        """Commit the transaction, if one was begun."""
        for stream in self._streams:
            stream.close()
        self._end("COMMIT")

    def rollback(self) -> None:
        """Roll the transaction back, if one was begun."""
        self._end("ROLLBACK")

    def cursor(self, *given: Any, **named: Any) -> Any:
        """Return a cursor; one with a name lies on the server, and there for its transaction."""
        made = super().cursor(*given, **named)
        if made.name is not None:
            # psycopg2 sees no transaction, and would refuse. The server keeps such a one beyond a commit.
            made.withhold = True
            self._streams.append(made)
        return made

    def _end(self, how: str) -> None:
        self._ahead, self._always = b"", False
        self._streams.clear()
        if self.get_transaction_status() != TRANSACTION_STATUS_IDLE:
            with super().cursor() as cursor:
                cursor.execute(how)


class Cursor(psycopg2.extensions.cursor):
    """A cursor that sends with its statement what its connection has to send first."""

    connection: Connection

    def execute(self, query: Any, vars: Any = None) -> None:  # noqa: A002  # psycopg2's name
        """Run a statement; the rows are those of the statement, whatever was sent before it."""
        if self.name is not None:
            self._open_first()
            super().execute(query, vars)
            return
        if ahead := self.connection.take_ahead():
            query, vars = ahead + self.mogrify(query, vars), None  # noqa: A001
        super().execute(query, vars)

    def _open_first(self) -> None:
        if ahead := self.connection.take_ahead():
            with self.connection.cursor() as cursor:
                psycopg2.extensions.cursor.execute(cursor, ahead)
