"""The worker's main work: claimed photos in, answers out, with decoding, the network and the ledger overlapping.

One photo's way: ``_claims`` takes units off the ledger, ``PhotoReader`` fetches and decodes ahead in its own children,
``Network`` has two micro-batches under way, and ``Finisher`` stores working copies and completes units whose photos all
have their outcome. A bad photo is rejected alone; a batch that fails is halved until the one photo that breaks it is
found; a photo that cannot be fetched now waits and is tried again.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol
from uuid import UUID

from sqlalchemy.orm import Session

from shared.crash_points import passing
from shared.database import Database
from shared.errors import DatabaseAway
from shared.hints import Hinting
from shared.ledger.claim import MOST_OF_PEOPLE, Lease, Whose, claim
from shared.ledger.fairness import UNIT_IMAGES
from shared.ledger.reap import give_back, release
from shared.logs import logger
from shared.processors import processors
from shared.settings import Settings
from shared.storage import Storage
from worker.company import Company
from worker.finishing import Finisher
from worker.leases import LeaseKeeper
from worker.models import Choice, ModelAway
from worker.network import Network, Photo, Seen, batch_size, by_network
from worker.photos import Decoded, PhotoReader, Request, Unreadable
from worker.photos import Outcome as Read
from worker.shadow import Shadow
from worker.work import DECODER_UNAVAILABLE, Work

log = logger(__name__)

_FIRST_GUESS = 20.0
_SMALL_UNITS = 8
_LOADING_SECONDS = 0.2
_MOST_PARKED = 64


def _requests(works: Iterable[Work]) -> Iterator[Request]:
    for work in works:
        for image in work.unit.images:
            yield Request(image.storage_key, image.bytes, (work, image), image.sha256)


def _is_of_people(work: Work) -> bool:
    return work.unit.lane == "interactive" and work.unit.n <= MOST_OF_PEOPLE


class Beside(Protocol):
    """Who answers people's photos while this drain holds others."""

    @property
    def takes_people(self) -> bool:
        """Whether it does so now."""

    def attend(self) -> None:
        """Begin."""

    def rest(self) -> None:
        """End; returns when what was claimed is answered."""


def _always() -> bool:
    return True


class Classification:
    """Claims, decodes, classifies and completes until nothing is ready. For one thread at a time.

    Beside it another may drain in the same ``company``. One with ``people_only`` takes photos that somebody waits for,
    each alone through the network; ``beside`` is told when people would wait for anything else here.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        database: Database,
        storage: Storage,
        models: Choice,
        photos: PhotoReader,
        holder: str,
        company: Company | None = None,
        people_only: bool = False,
        beside: Beside | None = None,
        shadow: Shadow | None = None,
    ) -> None:
        self._settings = settings
        # Asked for each photo, and read from a dozen files.
        self._threads = settings.engine_threads or processors()
        self._database = database
        self._models = models
        self._photos = photos
        self._holder = holder
        self._company = company or Company()
        self._people_only, self._beside = people_only, beside
        self._keeper = LeaseKeeper(database, settings.lease_floor)
        self._finisher = Finisher(database, storage, self._keeper, Hinting(settings))
        self._network = Network()
        self._shadow = shadow or Shadow(database, models)
        self._ended = 0.0
        self._open: dict[UUID, Work] = {}
        # Of these the network is being loaded.
        self._parked: list[Work] = []
        self._stopping = threading.Event()
        self._goes_on: Callable[[], bool] = _always
        self._is_attended = False
        self._is_behind = self._is_blind = False
        self._claimed = 0
        self._seconds_each = 1 / _FIRST_GUESS
        self._company.join(self)

    def stop(self) -> None:
        """Ask for a stop after the present micro-batch; what is unfinished then goes back to the ledger."""
        self._stopping.set()

    def close(self) -> None:
        """Release threads and decoding children."""
        self._stopping.set()
        self._network.close()
        self._finisher.close()
        self._keeper.close()
        self._photos.close()

    def warm_up(self) -> None:
        """Start what people's photos would wait for."""
        self._photos.warm_up()

    def drain(self, goes_on: Callable[[], bool] = _always) -> int:
        """Work until nothing is ready (or a stop is asked for) and return how many photos were answered.

        Nothing more is claimed once it is not to go on, and what waits for a network is given back then. Faults of the
        database end the drain; what was claimed goes back, or is reaped. Photos wait, none is lost.
        """
        before = self._finisher.answered
        self._goes_on = goes_on
        try:
            while (self._work_through() or self._parked or self._look_in_shadow() or self._take_back()) and (
                goes_on() and not self._stopping.is_set()
            ):
                if self._parked:
                    self._models.wait(_LOADING_SECONDS)
        except DatabaseAway as error:
            log.warning("drain_interrupted", error=str(error))
            self._let_go(give_back)
        except BaseException:
            # Nobody knows which photo it was: its units are suspects now, or they would come back first for ever.
            self._let_go(self._bury)
            raise
        else:
            self._let_go(give_back)
        finally:
            self._take_back()
        return self._finisher.answered - before

    def _work_through(self) -> bool:
        """Claim and work until no more is to be had beside what is claimed; return whether there was anything."""
        before = self._claimed
        for batch in self._batches(self._photos.read(self._claims())):
            self._work_off(batch)
            if self._stopping.is_set():
                break
        self._settle_all()
        self._finisher.finish()
        return self._claimed > before

    def _look_in_shadow(self) -> bool:
        """Use a tenth of a second in which nothing waits; return whether there was a photo to look at."""
        return not self._people_only and self._shadow.look(self._batch_size)

    @property
    def answered(self) -> int:
        """How many photos this drain has answered."""
        return self._finisher.answered

    @property
    def needs_help(self) -> bool:
        """Whether the last claim brought all that was asked for, so that more may wait, or no child decodes here."""
        return self._is_behind or self._is_blind

    @property
    def is_busy(self) -> bool:
        """Whether it holds a unit."""
        return not self._keeper.is_empty

    @property
    def holds_suspect(self) -> bool:
        """Whether a photo that was under a dying worker is on its way here."""
        return any(work.unit.crashes for work in list(self._open.values()))

    @property
    def images_per_second(self) -> float:
        """How many photos the network answers while it has them, as it was lately."""
        return 1 / max(self._seconds_each, 1e-6)

    @property
    def _batch_size(self) -> int:
        if self._people_only:
            return 1
        return batch_size(self.images_per_second, threads=self._threads, most=self._settings.micro_batch)

    def _claims(self) -> Iterator[Request]:
        """Yield the photos of claimed units, claiming again whenever they run out."""
        while not self._stopping.is_set():
            yield from _requests(self._ready_of(self._take_parked()))
            photos = max(1, round(self.images_per_second * self._settings.claim_seconds))
            # Jobs of one photo each are claimed together too, but not so many that another worker finds none.
            parked = len(self._parked)
            units = self._claim(max(_SMALL_UNITS, -(-photos // UNIT_IMAGES)), photos)
            if not units and len(self._parked) == parked:
                return
            yield from _requests(units)
            if not self._goes_on():
                return

    def _take_parked(self) -> list[Work]:
        parked, self._parked = self._parked, []
        return [work for work in parked if work.unit.id in self._open]

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

    def _claim(self, wanted: int, photos: int) -> list[Work]:
        """Claim units; nothing beside a suspect and no suspect beside anything, since it may end this process.

        Returns those that can be worked on now.
        """
        with self._company.claiming:
            if self._company.holds_suspect or len(self._parked) >= _MOST_PARKED:
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
            self._claimed += len(units)
            self._is_behind = len(units) >= wanted or sum(unit.n for unit in units) >= photos
            self._keeper.add(units, claimed_at)
            works = [Work(unit) for unit in units]
            self._open.update((work.unit.id, work) for work in works)
        if self._beside is not None and not self._is_attended and not all(map(_is_of_people, works)):
            self._is_attended = True
            self._beside.attend()
        return self._ready_of(works)

    def _take_back(self) -> bool:
        """Answer people's photos here again; return whether they were left to another drain until now."""
        if self._beside is None or not self._is_attended:
            return False
        self._is_attended = False
        self._beside.rest()
        return True

    @property
    def _is_relieved(self) -> bool:
        return self._beside is not None and self._beside.takes_people

    def _batches(self, photos: Iterable[tuple[Request, Read]]) -> Iterator[list[Photo]]:
        """Yield micro-batches of decoded photos; photos that need no network are settled on the way."""
        batch: list[Photo] = []
        size = self._batch_size
        for request, photo in photos:
            work, image = request.context
            passing("worker.decoded")
            self._is_blind = isinstance(photo, Unreadable) and photo.reason == DECODER_UNAVAILABLE
            if isinstance(photo, Decoded):
                # Where there is more to do, the network does not wait for what becomes of its answers.
                if work.unit.n <= MOST_OF_PEOPLE and len(self._open) == 1:
                    self._finisher.store_ahead(work, image.id, photo.copy)
                batch.append(Photo(work, image, photo))
            else:
                work.settle_unclassified(image, photo)
            if len(batch) >= size or work.is_whole:
                yield batch
                batch, size = [], self._batch_size
        yield batch

    def _work_off(self, batch: Sequence[Photo]) -> None:
        """Put a micro-batch into the network, and settle what has come out of it."""
        held = [photo for photo in batch if self._keeper.holds(photo.work.unit)]
        for classifier, photos in by_network(held):
            self._network.put(classifier, photos)
            self._settle(self._network.seen())
        self._finish_whole()

    def _settle_all(self) -> None:
        self._settle(self._network.seen(all_of_it=True))
        self._finish_whole()

    def _settle(self, batches: Iterable[Seen]) -> None:
        for seen in batches:
            self._keeper.pace(seen.ended - seen.began)
            # Where batches overlap, each took as long as it ended after the one before: sometimes nothing, so that the
            # mean of the seconds is right and that of rates is not.
            took = seen.ended - max(seen.began, self._ended)
            self._ended = seen.ended
            self._seconds_each += 0.2 * (max(took, 0.0) / len(seen.found) - self._seconds_each)
            self._photos.batch = self._batch_size
            for photo, found, milliseconds in seen.found:
                if isinstance(found, Exception):
                    photo.work.settle_broken(photo.image, found)
                else:
                    photo.work.settle_answered(photo.image, photo.decoded, found, seen.bundle, milliseconds)
                    looked = photo.decoded
                    self._shadow.offer(
                        photo.work.unit, photo.image.id, looked.pixels, looked.quality, found, seen.bundle
                    )

    def _finish_whole(self) -> None:
        """Hand over to the finisher what is whole, and forget what is no longer ours."""
        whole = [work for work in self._open.values() if work.is_whole or not self._keeper.holds(work.unit)]
        for work in whole:
            del self._open[work.unit.id]
        if whole:
            self._finisher.put(whole)

    def _let_go(self, how: Callable[[Session, Sequence[Lease]], int]) -> None:
        """Return what is unfinished to the ledger, whatever went wrong; where that fails, the leases run out."""
        self._network.drop()
        self._finisher.settle()
        leases = self._keeper.drop_all()
        if not self._people_only:
            self._shadow.drop()
        self._open.clear()
        self._parked.clear()
        if not leases:
            return
        try:
            with self._database.transaction() as session:
                returned = how(session, leases)
        except DatabaseAway:
            log.warning("units_left_to_the_sweep", units=len(leases))
        else:
            log.info("units_given_back", units=returned)

    def _bury(self, session: Session, _: Sequence[Lease]) -> int:
        return release(session, self._holder).total
