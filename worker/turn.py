"""A turn at taking a job in: what it may ask while it works, and how it writes what it has."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy.orm import Session

from shared.database import Database
from shared.errors import DatabaseAway

_AGAIN_SECONDS: Final = 0.5


class Interrupted(Exception):
    """The intake is no longer ours: what is stored and not in the job is stored again by whoever goes on."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What the work asks its receiver: whether the lease holds, whether it should go on, whether it must end now."""

    holds: Callable[[], bool]
    goes_on: Callable[[], bool]
    appended: Callable[[], None]
    must_end: Callable[[], bool] = lambda: False

    def commit(self, database: Database, act: Callable[[Session], bool]) -> None:
        """Do something in a transaction, again and again while the database is away and the lease holds.

        ``act`` returns False where the fence was lost. Raises ``Interrupted``.
        """
        while True:
            if not self.holds():
                raise Interrupted
            try:
                with database.transaction() as session:
                    if not act(session):
                        raise Interrupted
            except DatabaseAway:
                time.sleep(_AGAIN_SECONDS)
            else:
                self.appended()
                return
