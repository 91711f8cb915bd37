"""The heartbeat: every few minutes photos with known answers go through the service, as a job that no clinic sees.

They are stored, queued, fetched, decoded, classified and completed like any others, in the lane of people who wait.
What comes back is held against the bundle's own reference: where a probability moved by more than the engines' parity
tolerance, or no answer came before the next round was due, whoever has a say in what serves gets ``model.drift``. It
begins behind the front door: that requests come in is seen by whoever sends them.
"""

import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from sqlalchemy.orm import Session

from shared import history
from shared.bundle import Bundle, load_bundle
from shared.database import Database, new_id
from shared.errors import BundleError, BundleMissing, Gone, NotFound, StorageAway, Unavailable
from shared.ledger.submit import NewImage, NewJob, submit
from shared.logs import logger
from shared.registry import bundles, heartbeats, serving
from shared.registry.heartbeats import SYSTEM, Finding, Round
from shared.storage import Storage
from shared.storage.keys import copies_of, original_key, originals_of
from shared.views import ResultView
from worker.backoff import backoff_seconds
from worker.known_answers import KnownAnswers, tolerance

log = logger(__name__)

LANE: Final = "interactive"
_PAUSE_SECONDS: Final = 1.0


class Heartbeat:
    """One process's rounds; several may run, one sends."""

    def __init__(
        self,
        database: Database,
        storage: Storage,
        wake: Callable[[Sequence[str]], object],
        *,
        default: Path,
        cache: Path,
        seconds: float,
    ) -> None:
        self._database, self._storage, self._wake = database, storage, wake
        self._default, self._cache, self._seconds = default, cache, seconds
        self._known: dict[str, KnownAnswers] = {}
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End after the present step."""
        self._stopping.set()

    def run(self) -> None:
        """Send and settle rounds until asked to stop."""
        # A service that has just started is given time to load its network.
        begins = time.monotonic() + self._seconds
        faults = 0
        while not self._stopping.wait(self._pause(faults)):
            try:
                self.settle()
                if time.monotonic() >= begins:
                    self.send()
                faults = 0
            except (Unavailable, BundleError) as error:
                faults += 1
                log.warning("heartbeat_interrupted", why=str(error))
            except Exception:  # the edge of a thread: one bad round must not be the last
                faults += 1
                log.exception("heartbeat_failed")

    def _pause(self, faults: int) -> float:
        """Return for how long to wait after so many faults in a row: what is gone may be gone for good."""
        if not faults:
            return _PAUSE_SECONDS
        longer = backoff_seconds(faults, random.random())  # noqa: S311  # jitter
        return max(_PAUSE_SECONDS, min(longer, self._seconds))

    def send(self) -> int:
        """Send a round of each model that serves, where one is due; return how many were sent.

        Raises ``BundleMissing`` where the bundle of none of them can be had.
        """
        with self._database.transaction() as session:
            if not heartbeats.is_due(session, self._seconds):
                return 0
            now = serving.read(session)
        known = self._answers_of_all(dict.fromkeys([now.live, now.canary or now.live]))
        if not known:
            raise BundleMissing("no bundle of what serves can be had: no known answers are sent")
        self._known = {one.digest: one for one in known}
        stored = [(one, self._stored(one)) for one in known]
        with self._database.transaction() as session:
            if not heartbeats.is_due(session, self._seconds):
                stored_for_nothing = [job.id for _, job in stored]
            else:
                stored_for_nothing = []
                heartbeats.make_tenant(session)
                for one, job in stored:
                    heartbeats.add(session, job.id, one.model_id, one.digest, len(job.images))
                    submit(session, job)
        for job_id in stored_for_nothing:
            self._storage.delete_prefix(originals_of(job_id))
        if stored_for_nothing:
            return 0
        self._wake([LANE])
        return len(stored)

    def settle(self) -> None:
        """Look at what is under way: settle what was answered or is late, and forget what has closed.

        Raises ``StorageAway``, after all else is done, where the photos of a closed round are still to be deleted.
        """
        away: StorageAway | None = None
        with self._database.transaction() as session:
            rounds = heartbeats.under_way(session)
        for beat in rounds:
            if beat.closed:
                self._judge(beat)
                try:
                    self._clear(beat)
                except StorageAway as error:
                    away = error
            elif beat.state == "waiting" and beat.age > self._seconds:
                late = Finding("late", problem=f"no answer within {self._seconds:g} seconds")
                with self._database.transaction() as session:
                    heartbeats.settle(session, beat, late)
        if away is not None:
            raise away

    def _judge(self, beat: Round) -> None:
        if beat.state != "waiting":
            return
        try:
            found = self._found(beat)
        except (BundleError, Gone, NotFound) as error:
            # Gone for good, as where MODEL names another bundle since: to wait for it would end all further rounds.
            # The error names folders of this machine: those stand in the log alone.
            log.warning("heartbeat_not_judged", model=beat.model_id, digest=beat.digest, why=str(error))
            found = Finding("failed", seconds=beat.seconds, problem="its bundle or its job is gone")
        with self._database.transaction() as session:
            heartbeats.settle(session, beat, found)

    def _found(self, beat: Round) -> Finding:
        known = self._known.get(beat.digest) or self._answers_for(beat)
        with self._database.transaction() as session:
            answers = history.results(session, history.job(session, beat.id)).rows
            bound = tolerance(_precisions(session, beat.digest) or known.precisions)
        return _finding(beat, known, answers, bound)

    def _clear(self, beat: Round) -> None:
        """Delete the photos and copies of a round, then its rows: a storage that is away keeps both until later."""
        self._storage.delete_prefix(originals_of(beat.id))
        self._storage.delete_prefix(copies_of(beat.id))
        with self._database.transaction() as session:
            heartbeats.end(session, beat)

    def _answers_for(self, beat: Round) -> KnownAnswers:
        """Return what a round sent by another process must be answered with."""
        default = load_bundle(self._default)
        return KnownAnswers.of(default) if default.digest == beat.digest else self._answers_of(beat.digest)

    def _answers_of_all(self, digests: Iterable[str | None]) -> list[KnownAnswers]:
        """Return the known answers of those that can be had: one bundle that is gone must not silence the others."""
        known: list[KnownAnswers] = []
        for digest in digests:
            try:
                known.append(self._answers_of(digest))
            except BundleError as error:
                log.error("heartbeat_without_model", digest=digest, why=str(error))
        return known

    def _answers_of(self, digest: str | None) -> KnownAnswers:
        if digest is not None and digest in self._known:
            return self._known[digest]
        return KnownAnswers.of(self._bundle(digest))

    def _bundle(self, digest: str | None) -> Bundle:
        return load_bundle(self._default) if digest is None else bundles.fetch(self._storage, digest, self._cache)

    def _stored(self, known: KnownAnswers) -> NewJob:
        job_id, images = new_id(), []
        for ordinal, data in enumerate(known.photos):
            with self._storage.create(original_key(job_id, ordinal), limit=len(data)) as upload:
                upload.write(data)
                stored = upload.finish()
            name = f"known-{ordinal}.png"
            images.append(NewImage(new_id(), ordinal, name, None, stored.key, stored.sha256, stored.size))
        self._storage.settle([image.storage_key for image in images])
        return NewJob(job_id, SYSTEM, None, LANE, images, model=known.model_id, details={"known_answers": True})


def _precisions(session: Session, digest: str) -> list[str]:
    """Return the precisions in which workers answer with this bundle now."""
    return [
        str(node.engine).rpartition(" ")[2]
        for node in history.workers(session)
        if node.bundle_digest == digest and node.engine
    ]


def _finding(beat: Round, known: KnownAnswers, answers: Sequence[ResultView], bound: float) -> Finding:
    """Hold the answers of a closed round against the known ones."""
    for answer in answers:
        if answer.answer is None:
            said = ", ".join(answer.reasons) or "no reason given"
            return Finding("failed", seconds=beat.seconds, problem=f"a photo was {answer.outcome}: {said}")
        if answer.model_digest != beat.digest:
            problem = f"{answer.model_id} ({str(answer.model_digest)[:12]}) answered in its place"
            return Finding("failed", seconds=beat.seconds, problem=problem)
    if len(answers) != len(known.photos):
        return Finding("failed", seconds=beat.seconds, problem=f"{len(answers)} of {len(known.photos)} came back")
    strays = max(known.strays(one.ordinal, one.label, (one.answer or {})["probabilities"]) for one in answers)
    if strays == float("inf"):
        return Finding("moved", seconds=beat.seconds, problem="a photo has another label than it must have")
    if strays > bound:
        problem = f"a probability moved by {strays:.2g}; {bound:g} is the tolerance"
        return Finding("moved", strays, beat.seconds, problem)
    return Finding("good", strays, beat.seconds)
