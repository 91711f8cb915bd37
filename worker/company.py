"""The drains of one process: what one may claim depends on what the others hold.

A suspect, a photo that was under a worker when it died, may end this process too. So none is claimed while any drain
holds something, and nothing while one of them holds a suspect.
"""

import threading
from typing import Protocol


class Member(Protocol):
    """A drain."""

    @property
    def is_busy(self) -> bool:
        """Whether it holds anything."""

    @property
    def holds_suspect(self) -> bool:
        """Whether it holds a suspect."""


class Company:
    """Who claims holds ``claiming`` from the question to the claim's end; otherwise two could claim side by side."""

    def __init__(self) -> None:
        self.claiming = threading.Lock()
        self._members: list[Member] = []

    def join(self, member: Member) -> None:
        """Become one of the drains."""
        self._members.append(member)

    @property
    def is_busy(self) -> bool:
        """Whether any of them holds something."""
        return any(member.is_busy for member in self._members)

    @property
    def holds_suspect(self) -> bool:
        """Whether any of them holds a suspect."""
        return any(member.holds_suspect for member in self._members)
