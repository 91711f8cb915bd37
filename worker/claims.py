"""What one drain has claimed: under the rules of its process's company, and open until each unit is whole or lost.

A unit whose network is being loaded is parked meanwhile. While anything but people's photos is held, these are left to
the drain beside, where there is one.
"""

import time
from collections.abc import Iterable
from typing import Final, Protocol
from uuid import UUID

from shared.crash_points import passing
from shared.database import Database
from shared.ledger.claim import MOST_OF_PEOPLE, Lease, Whose, claim
from shared.logs import logger
from worker.company import Company
from worker.leases import LeaseKeeper
from worker.models import Choice, ModelAway
from worker.work import Work

log = logger(__name__)

_MOST_PARKED: Final = 64


class Beside(Protocol):
    """Who answers people's photos while this drain holds others."""

    @property
    def takes_people(self) -> bool:
        """Whether it does so now."""

    def attend(self) -> None:
        """Begin."""

    def rest(self) -> None:
        """End; returns when what was claimed is answered."""


class Claims:
    """The units of one drain; for its thread alone, but for what the company asks."""

    def __init__(
        self,
        database: Database,
        models: Choice,
        keeper: LeaseKeeper,
        *,
        holder: str,
        company: Company,
        people_only: bool,
        beside: Beside | None,
    ) -> None:
        self._database, self._models, self._keeper = database, models, keeper
        self._holder, self._company = holder, company
        self._people_only, self._beside = people_only, beside
        self._is_attended = False
        # Of these the network is being loaded.
        self._parked: list[Work] = []
        self.open: dict[UUID, Work] = {}
        #: How many units were claimed so far, and whether the last claim brought all that was asked for.
        self.made = 0
        self.was_full = False
        company.join(self)

    @property
    def is_busy(self) -> bool:
        """Whether anything is held."""
        return not self._keeper.is_empty

    @property
    def holds_suspect(self) -> bool:
        """Whether a photo that was under a dying worker is on its way here."""
        return any(work.unit.crashes for work in list(self.open.values()))

    @property
    def parked(self) -> int:
        """How many units wait for their network."""
        return len(self._parked)

    def take(self, wanted: int, photos: int) -> list[Work]:
        """Claim units; nothing beside a suspect and no suspect beside anything, since it may end this process.

        Returns those that can be worked on now.
        """
        with self._company.claiming:
            if self._company.holds_suspect or self.parked >= _MOST_PARKED:
                return []
            whose: Whose = "people" if self._people_only else "others" if self._is_relieved else "anybody"
            claimed_at = time.monotonic()
            with self._database.transaction() as session:
                units = claim(
                    session,
                    self._holder,
                    units=wanted,
                    photos=photos,
                    lease_seconds=self._keeper.seconds,
                    whose=whose,
                    busy=self._people_only or self._company.is_busy,
                )
            passing("worker.claimed")
            self.made += len(units)
            self.was_full = len(units) >= wanted or sum(unit.n for unit in units) >= photos
            self._keeper.add(units, claimed_at)
            works = [Work(unit) for unit in units]
            self.open.update((work.unit.id, work) for work in works)
        if self._beside is not None and not self._is_attended and not all(map(_is_of_people, works)):
            self._is_attended = True
            self._beside.attend()
        return self._ready_of(works)

    def take_parked(self) -> list[Work]:
        """Return what was parked and can be worked on now."""
        parked, self._parked = self._parked, []
        return self._ready_of(work for work in parked if work.unit.id in self.open)

    def take_back(self) -> bool:
        """Claim people's photos here again; return whether they were left to another drain until now."""
        if self._beside is None or not self._is_attended:
            return False
        self._is_attended = False
        self._beside.rest()
        return True

    def take_whole(self) -> list[Work]:
        """Return what is whole or no longer ours, and forget it."""
        whole = [work for work in self.open.values() if work.is_whole or not self._keeper.holds(work.unit)]
        for work in whole:
            del self.open[work.unit.id]
        return whole

    def drop(self) -> list[Lease]:
        """Forget everything, and return the leases there were."""
        leases = self._keeper.drop_all()
        self.open.clear()
        self._parked.clear()
        return leases

    @property
    def _is_relieved(self) -> bool:
        return self._beside is not None and self._beside.takes_people

    def _ready_of(self, works: Iterable[Work]) -> list[Work]:
        """Give each unit its network, and return those that have one; the others are parked, or put off."""
        ready: list[Work] = []
        for work in works:
            try:
                work.classifier = self._models.of(work.unit)
            except ModelAway as error:
                log.warning("model_unavailable", job=str(work.unit.job_id), model=work.unit.model, why=str(error))
                work.settle_without_model()
                continue
            (ready if work.classifier else self._parked).append(work)
        return ready


def _is_of_people(work: Work) -> bool:
    return work.unit.lane == "interactive" and work.unit.n <= MOST_OF_PEOPLE
