"""What a piece of work asks of the database: every statement of a session, whichever way it is sent."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared.prepared import Prepared


@contextmanager
def statements(session: Session) -> Iterator[list[str]]:
    """Yield a list to which the statements are added as they are sent; what goes along with one is not counted."""
    sent: list[str] = []
    run = Prepared.run

    def prepared(self: Prepared, session: Session, values: dict[str, Any], **more: Any) -> list[Any]:
        sent.append(self.text)
        return run(self, session, values, **more)

    def note(*given: Any) -> None:
        sent.append(given[2])

    connection = session.connection()
    sa.event.listen(connection, "before_cursor_execute", note)
    with patch.object(Prepared, "run", prepared):
        yield sent
    sa.event.remove(connection, "before_cursor_execute", note)
