"""Which models serve now, and which of them answers a job.

One row says it, with a version that grows with every change. Claims bring that version along, so that a worker that
has seen no other need not ask.
"""

from dataclasses import dataclass
from hashlib import sha256
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

_READ = sa.text("SELECT version, live, canary, canary_share, shadow, shadow_share FROM model_serving")
_UNIT: Final = 2.0**64


@dataclass(frozen=True, slots=True)
class Serving:
    """The digests that serve; ``live`` is None for the bundle that ``MODEL`` names. Shares are of 1.

    A canary answers a share of jobs; a shadow looks at a share of photos, and what it says is no answer.
    """

    version: int = 0
    live: str | None = None
    canary: str | None = None
    canary_share: float = 0.0
    shadow: str | None = None
    shadow_share: float = 0.0

    def is_for_canary(self, job_id: UUID) -> bool:
        """Return whether the canary answers this job: always the same of the same job and share."""
        return self.canary is not None and draw(job_id) < self.canary_share

    def is_for_shadow(self, image_id: UUID) -> bool:
        """Return whether the shadow looks at this photo."""
        return self.shadow is not None and draw(image_id) < self.shadow_share


NOTHING: Final = Serving()


def read(session: Session) -> Serving:
    """Return what serves; ``NOTHING`` while nothing was ever changed."""
    row = session.execute(_READ).one_or_none()
    return NOTHING if row is None else Serving(*row)


def draw(thing: UUID) -> float:
    """Return a number from 0 to below 1 that belongs to this id, evenly spread over ids."""
    return int.from_bytes(sha256(thing.bytes).digest()[:8], "big") / _UNIT
