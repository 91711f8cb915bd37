"""The worker's main work: claimed photos in, answers out, with decoding, the network and the ledger overlapping.

One photo's way: ``Claims`` takes units off the ledger, ``PhotoReader`` fetches and decodes ahead in its own children,
``Network`` has two micro-batches under way, and ``Finisher`` stores working copies and completes units whose photos all
have their outcome. A bad photo is rejected alone; a batch that fails is halved until the one photo that breaks it is
found; a photo that cannot be fetched now waits and is tried again.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

from sqlalchemy.orm import Session

from shared.announcing import Announced
from shared.crash_points import passing
from shared.database import Database
from shared.errors import DatabaseAway
from shared.hints import Hinting
from shared.ledger.claim import MOST_OF_PEOPLE, Lease
from shared.ledger.fairness import UNIT_IMAGES
from shared.ledger.reap import give_back, release
from shared.logs import logger
from shared.processors import processors
from shared.settings import Settings
from shared.storage import Storage
from worker.claims import Beside, Claims
from worker.company import Company
from worker.finishing import Finisher
from worker.leases import LeaseKeeper
from worker.models import Choice
from worker.network import Network, Photo, Seen, batch_size, by_network
from worker.photos import Decoded, PhotoReader, Request, Unreadable
from worker.photos import Outcome as Read
from worker.shadow import Shadow
from worker.work import DECODER_UNAVAILABLE, Work

log = logger(__name__)

_FIRST_GUESS = 20.0
_SMALL_UNITS = 8
_LOADING_SECONDS = 0.2
# A look finds together what came since the last one; a photo that is alone has its answer before there is one.
_LOOK_SECONDS = 0.02


def _requests(works: Iterable[Work]) -> Iterator[Request]:
    for work in works:
        for image in work.unit.images:
            yield Request(image.storage_key, image.bytes, (work, image), image.sha256)


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
        self._people_only = people_only
        self._keeper = LeaseKeeper(database, settings.lease_floor)
        self._finisher = Finisher(database, storage, self._keeper, Hinting(settings))
        self._network = Network()
        self._shadow = shadow or Shadow(database, models)
        self._claims = Claims(
            database,
            models,
            self._keeper,
            holder=holder,
            company=company or Company(),
            people_only=people_only,
            beside=beside,
        )
        self._ended = 0.0
        self._stopping = threading.Event()
        self._goes_on: Callable[[], bool] = _always
        self._is_blind = False
        self._seconds_each = 1 / _FIRST_GUESS
        # Decoded, and too few for the network while it is busy.
        self._over: list[Photo] = []

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

    def look_ahead(self, photo: Announced) -> None:
        """Begin to decode a photo whose job is still being written."""
        self._photos.look_ahead(Request(photo.key, photo.size, sha256=photo.sha256))

    def forget(self) -> None:
        """Keep nothing of such a photo where its job did not come."""
        self._photos.forget()

    def drain(self, goes_on: Callable[[], bool] = _always) -> int:
        """Work until nothing is ready (or a stop is asked for) and return how many photos were answered.

        Nothing more is claimed once it is not to go on, and what waits for a network is given back then. Faults of the
        database end the drain; what was claimed goes back, or is reaped. Photos wait, none is lost.
        """
        before = self._finisher.answered
        self._goes_on = goes_on
        try:
            while self._is_there_more() and goes_on() and not self._stopping.is_set():
                if self._claims.parked:
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
            self._claims.take_back()
        return self._finisher.answered - before

    def _is_there_more(self) -> bool:
        return self._work_through() or self._claims.parked > 0 or self._look_in_shadow() or self._claims.take_back()

    def _work_through(self) -> bool:
        """Claim and work until no more is to be had beside what is claimed; return whether there was anything."""
        before = self._claims.made
        self._work_off_ready()
        while (self._network.wait(_LOOK_SECONDS) or self._over) and not self._stopping.is_set():
            self._settle(self._network.ready())
            self._finish_whole()
            if self._over or (self._network.is_busy and self._goes_on()):
                self._work_off_ready()
        self._settle_all()
        self._finisher.finish()
        return self._claims.made > before

    def _work_off_ready(self) -> None:
        """Claim what is ready and put it into the network, photo after photo as they are decoded."""
        for batch in self._batches(self._photos.read(self._requests())):
            self._work_off(batch)
            if self._stopping.is_set():
                break

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
        return self._claims.was_full or self._is_blind

    @property
    def images_per_second(self) -> float:
        """How many photos the network answers while it has them, as it was lately."""
        return 1 / max(self._seconds_each, 1e-6)

    @property
    def _batch_size(self) -> int:
        if self._people_only:
            return 1
        return batch_size(self.images_per_second, threads=self._threads, most=self._settings.micro_batch)

    def _requests(self) -> Iterator[Request]:
        """Yield the photos of claimed units, claiming again whenever they run out."""
        while not self._stopping.is_set():
            yield from _requests(self._claims.take_parked())
            photos = max(1, round(self.images_per_second * self._settings.claim_seconds))
            # Jobs of one photo each are claimed together too, but not so many that another worker finds none.
            parked = self._claims.parked
            was_announced = self._photos.looks_ahead
            units = self._claims.take(max(_SMALL_UNITS, -(-photos // UNIT_IMAGES)), photos)
            if not units and self._claims.parked == parked:
                return
            yield from _requests(units)
            # A photo that was announced is decoded by now: the network comes before another look.
            if (was_announced and not self._claims.was_full) or not self._goes_on():
                return

    def _batches(self, photos: Iterable[tuple[Request, Read]]) -> Iterator[list[Photo]]:
        """Yield micro-batches of decoded photos; photos that need no network are settled on the way."""
        batch, self._over = self._over, []
        size = self._batch_size
        for request, photo in photos:
            work, image = request.context
            passing("worker.decoded")
            self._is_blind = isinstance(photo, Unreadable) and photo.reason == DECODER_UNAVAILABLE
            if isinstance(photo, Decoded):
                # Where there is more to do, the network does not wait for what becomes of its answers.
                if work.unit.n <= MOST_OF_PEOPLE and len(self._claims.open) == 1:
                    self._finisher.store_ahead(work, image.id, photo.copy)
                batch.append(Photo(work, image, photo))
            else:
                work.settle_unclassified(image, photo)
            if len(batch) >= (size if self._network.is_busy else min(size, self._threads)) or work.is_whole:
                yield batch
                batch, size = [], self._batch_size
        if self._network.is_busy and len(batch) < min(size, self._threads):
            self._over = batch  # alone it would have all threads, which are at work
        else:
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
        whole = self._claims.take_whole()
        if whole:
            self._finisher.put(whole)

    def _let_go(self, how: Callable[[Session, Sequence[Lease]], int]) -> None:
        """Return what is unfinished to the ledger, whatever went wrong; where that fails, the leases run out."""
        self._network.drop()
        self._over.clear()
        self._finisher.settle()
        leases = self._claims.drop()
        if not self._people_only:
            self._shadow.drop()
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
