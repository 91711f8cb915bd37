"""Connections that spare turns: what opens a transaction goes to the server along with its first statement.

A turn (one question to the server and its answer) costs both sides some tens of microseconds of CPU, and psycopg2 takes
one of its own for BEGIN. Here the connection says BEGIN itself, in one text with what comes first, and COMMIT or
ROLLBACK only where there is a transaction to end.
"""

from typing import Any

import psycopg2.extensions
from psycopg2 import ProgrammingError
from psycopg2.extensions import TRANSACTION_STATUS_IDLE


class Connection(psycopg2.extensions.connection):
    """A connection that begins no transaction by itself, unless ``open_with`` told it to. Not for two threads."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.cursor_factory = Cursor
        self.autocommit = True
        self._ahead = b""
        self._streams: list[Cursor] = []

    def open_with(self, text: str) -> None:
        """Send this text with the next statement, and with each until one of them has begun a transaction.

        So a first statement that never ran leaves none behind it alone, and a text that begins no transaction goes with
        every statement. ``commit`` and ``rollback`` end that.
        """
        self._ahead = text.encode()

    @property
    def ahead(self) -> bytes:
        """What is to be sent with the next statement."""
        return b"" if self._is_within else self._ahead

    def open_now(self) -> None:
        """Begin the transaction in a turn of its own, for what takes no text along.

        Raises ``ProgrammingError`` where each statement is a transaction: nothing could be set for this one.
        """
        if self._ahead and not self._is_within:
            with super().cursor() as cursor:
                psycopg2.extensions.cursor.execute(cursor, self._ahead)
        if not self._is_within:
            raise ProgrammingError("this way of sending a statement needs a transaction")

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

    @property
    def _is_within(self) -> bool:
        return self.get_transaction_status() != TRANSACTION_STATUS_IDLE

    def _end(self, how: str) -> None:
        self._ahead = b""
        self._streams.clear()
        if self._is_within:
            with super().cursor() as cursor:
                cursor.execute(how)


class Cursor(psycopg2.extensions.cursor):
    """A cursor that sends with its statement what its connection has to send first."""

    connection: Connection

    def execute(self, query: Any, vars: Any = None) -> None:  # noqa: A002  # psycopg2's name
        """Run a statement; the rows are those of the statement, whatever was sent before it."""
        if self.name is not None:
            self.connection.open_now()
        elif ahead := self.connection.ahead:
            query, vars = ahead + self.mogrify(query, vars), None  # noqa: A001
        super().execute(query, vars)

    # What follows never comes by ``execute``.

    def executemany(self, *given: Any, **named: Any) -> None:
        """Run a statement once for each set of values, in a transaction that has been begun."""
        self.connection.open_now()
        super().executemany(*given, **named)

    def callproc(self, *given: Any, **named: Any) -> Any:
        """Call a function, in a transaction that has been begun."""
        self.connection.open_now()
        return super().callproc(*given, **named)

    def copy_expert(self, *given: Any, **named: Any) -> None:
        """Copy rows in or out, in a transaction that has been begun."""
        self.connection.open_now()
        super().copy_expert(*given, **named)

    def copy_from(self, *given: Any, **named: Any) -> None:
        """Copy rows in, in a transaction that has been begun."""
        self.connection.open_now()
        super().copy_from(*given, **named)

    def copy_to(self, *given: Any, **named: Any) -> None:
        """Copy rows out, in a transaction that has been begun."""
        self.connection.open_now()
        super().copy_to(*given, **named)
