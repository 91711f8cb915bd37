"""Which tokens were good a moment ago: known by their digest, so that strangers' failures shut no one else out.

It lets nobody in. Every request is still authenticated; who is remembered here is merely not counted among those who
guess, and hears of a limit before the database is asked.
"""

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final
from uuid import UUID

_MOST: Final = 10_000


@dataclass(frozen=True, slots=True)
class Known:
    """Whose token it was, and when the database was last asked to note that it is used (monotonic)."""

    key_id: UUID
    tenant_id: UUID
    noted_at: float


class KnownKeys:
    """Those that were used last."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, Known] = OrderedDict()

    def recall(self, token: str) -> Known | None:
        """Return whose token this was when it was seen last."""
        digest = _digest(token)
        with self._lock:
            found = self._known.get(digest)
            if found is not None:
                self._known.move_to_end(digest)
            return found

    def remember(self, token: str, known: Known) -> None:
        """Keep in mind that this token was good."""
        with self._lock:
            self._known[_digest(token)] = known
            if len(self._known) > self._most:
                self._known.popitem(last=False)

    def forget(self, token: str) -> None:
        """Keep in mind no longer a token that was refused."""
        with self._lock:
            self._known.pop(_digest(token), None)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
