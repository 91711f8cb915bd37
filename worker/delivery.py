"""The deliverer, ``python -m worker.delivery``: sends what is owed to endpoints until it is told to stop.

One loop on one thread holds hundreds of slow receivers at once; everything that speaks to the database runs in a few
threads beside it, because psycopg2 blocks. Nothing is kept here that the database does not know: a deliverer may be
killed at any point, and what it held goes out again, under the same id, when its lease runs out.
"""

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Final, TypeVar
from uuid import UUID

from sqlalchemy.orm import Session

from shared import crash_points, event_body, heap, ids, logs, signing, webhooks
from shared.crash_points import passing
from shared.database import Database
from shared.errors import DatabaseAway, InvalidSetting, Refused
from shared.logs import logger
from shared.settings import Settings
from shared.signing import Keyring
from worker import deliveries, full_bodies
from worker.deliveries import Owed, Tried
from worker.egress import Answer, Egress
from worker.endpoint_health import Patience, Verdict

log = logger(__name__)

IN_FLIGHT: Final = 512
LEASE_SECONDS: Final = 45.0
# The longest a receiver can hold all of an endpoint's deliveries back by one Retry-After.
_LONGEST_PAUSE: Final = 3600.0
_BATCH: Final = 128
# Who takes longer to answer is slow, and remembered as such until it answers faster; so many are remembered.
_SLOW_SECONDS: Final = 1.0
_MOST_SLOW: Final = 2_000
_POLL_SECONDS: Final = 0.25
_REAP_SECONDS: Final = 1.0
_AWAY_SECONDS: Final = (0.25, 0.5, 1.0, 2.0, 4.0)
_DATABASE_THREADS: Final = 4
_GONE: Final = 410
_SLOW_DOWN: Final = (429, 502, 503, 504)

Returned = TypeVar("Returned")


def judge(answer: Answer, attempt: int, schedule: tuple[float, ...], chance: float) -> Verdict:
    """Return what follows from the answer to the attempt-th try (from 1); ``chance`` is uniform in [0, 1)."""
    if answer.status is not None and 200 <= answer.status < 300:  # noqa: PLR2004 - the class of success, RFC 9110
        return Verdict("delivered")
    delay = webhooks.next_delay(attempt, schedule, chance, answer.retry_after)
    state = "dead" if delay is None or answer.instruction == "abort-message" else "waiting"
    asked = answer.retry_after if answer.status in _SLOW_DOWN and answer.retry_after else 0.0
    disable = None
    if answer.status == _GONE:
        disable = "the receiver answered 410 Gone"
    elif answer.instruction == "disable":
        disable = "the receiver asked to be disabled"
    return Verdict(state, delay or 0.0, min(asked, _LONGEST_PAUSE), disable)


class Deliverer:
    """Claims, signs, sends and settles deliveries."""

    def __init__(self, settings: Settings, database: Database, egress: Egress, patience: Patience) -> None:
        self._settings = settings
        self._database = database
        self._egress = egress
        self._patience = patience
        self._keyring = Keyring.from_settings(settings)
        self._lease = max(LEASE_SECONDS, 3 * settings.webhook_timeout)
        self._threads = ThreadPoolExecutor(_DATABASE_THREADS, thread_name_prefix="database")
        self._flying: set[asyncio.Task[None]] = set()
        # Claimed, and never sent, because the database went away before the body was built.
        self._unsent: list[Owed] = []
        self._slow: dict[UUID, None] = {}
        self._woken = asyncio.Event()
        self._stopping = False

    def stop(self) -> None:
        """Take nothing more; ``run`` returns when what is in flight has been settled."""
        self._stopping = True
        self._woken.set()

    async def run(self) -> None:
        """Deliver until stopped; wait out a database that is away."""
        away = 0
        reaped = 0.0
        while not self._stopping:
            self._woken.clear()
            pause = _POLL_SECONDS
            try:
                await self._give_back()
                if time.monotonic() - reaped > _REAP_SECONDS:
                    await self._reap()
                    reaped = time.monotonic()
                if await self._launch():
                    pause = 0.0
                away = 0
            except DatabaseAway:
                pause = _AWAY_SECONDS[min(away, len(_AWAY_SECONDS) - 1)]
                away += 1
                log.warning("database_away", seconds=pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), pause)
        await self._drain()

    async def _launch(self) -> bool:
        """Start what is due; tell whether there may be more at once."""
        free = min(_BATCH, IN_FLIGHT - len(self._flying))
        if free <= 0:
            return False
        slow = tuple(self._slow)
        claimed = await self._in_database(lambda session: deliveries.claim(session, free, self._lease, slow))
        for owed in claimed:
            task = asyncio.create_task(self._deliver(owed))
            self._flying.add(task)
            task.add_done_callback(self._landed)
        return len(claimed) == free

    async def _give_back(self) -> None:
        """Return what was never sent before anybody takes it for lost: its attempt was none."""
        while unsent := tuple(self._unsent):
            returned = await self._in_database(lambda session: deliveries.give_back(session, unsent))
            del self._unsent[: len(unsent)]
            log.info("deliveries_given_back", count=returned)

    async def _reap(self) -> None:
        attempts = len(self._settings.webhook_schedule) + 1
        lost = await self._in_database(lambda session: deliveries.reap(session, attempts))
        if lost:
            log.warning("leases_expired", count=lost)

    async def _drain(self) -> None:
        if self._flying:
            await asyncio.wait(self._flying, timeout=self._settings.webhook_timeout + 2)
        with contextlib.suppress(DatabaseAway):  # what cannot be given back is taken back when its lease runs out
            await self._give_back()
        left = len(self._flying)
        for task in self._flying:
            task.cancel()
        await asyncio.gather(*self._flying, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)
        log.info("deliverer_stopped", left=left)

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._flying.discard(task)
        self._woken.set()
        if not task.cancelled() and (error := task.exception()):
            # Its lease runs out by itself; the loop and the other deliveries go on.
            log.error("delivery_broke", exc_info=error)

    async def _deliver(self, owed: Owed) -> None:
        deadline = time.monotonic() + self._lease
        started = datetime.now(UTC)
        try:
            body = await self._body(owed)
        except DatabaseAway:
            self._unsent.append(owed)
            return
        if body is None:
            log.warning("delivery_left", delivery=ids.text("delivery", owed.id))
            return
        answer = await self._send(owed, body)
        self._remember(owed.endpoint_id, answer.seconds)
        passing("deliverer.answered")
        verdict = judge(answer, owed.attempt, self._settings.webhook_schedule, random.random())  # noqa: S311 - jitter
        tried = Tried(started, answer.seconds, answer.status, answer.error, answer.body)
        settled = await self._settle(owed, tried, verdict, deadline)
        log.info(
            "delivery_done",
            job=owed.event.job_id and ids.text("job", owed.event.job_id),
            event_id=ids.text("event", owed.event.id),
            kind=owed.event.kind,
            endpoint=ids.text("endpoint", owed.endpoint_id),
            delivery=ids.text("delivery", owed.id),
            attempt=owed.attempt,
            status=answer.status,
            error=answer.error,
            milliseconds=round(answer.seconds * 1000),
            state=verdict.state if settled else "lease lost",
        )

    def _remember(self, endpoint: UUID, seconds: float) -> None:
        self._slow.pop(endpoint, None)
        if seconds > _SLOW_SECONDS:
            self._slow[endpoint] = None
            if len(self._slow) > _MOST_SLOW:
                del self._slow[next(iter(self._slow))]

    async def _send(self, owed: Owed, body: bytes) -> Answer:
        try:
            secrets = [self._keyring.unseal(sealed).decode() for sealed in owed.secrets]
        except Refused:
            return Answer(None, "secret cannot be read", b"", None, None, 0.0)
        headers = signing.webhook_headers(secrets, ids.text("event", owed.event.id), int(time.time()), body)
        return await self._egress.post(owed.url, body, {"content-type": event_body.content_type(body), **headers})

    async def _body(self, owed: Owed) -> bytes | None:
        """Return what is sent; None where the lease is no longer ours: whoever holds it sends."""
        url = self._settings.public_url
        # What was kept tells answers; an endpoint that has become thin since hears of none.
        if owed.detail == "full" and owed.event.kind in event_body.ANSWERED:
            if owed.kept is not None:
                return owed.kept
            return await self._in_database(lambda session: full_bodies.build(session, owed, url))
        return event_body.render(owed.event, url, owed.previous_id, owed.form)

    async def _settle(self, owed: Owed, tried: Tried, verdict: Verdict, deadline: float) -> bool:
        """Write the outcome; keep trying while the lease lasts, for afterwards another may hold it."""
        for wait in _AWAY_SECONDS + _AWAY_SECONDS[-1:] * 100:
            try:
                return await self._in_database(
                    lambda session: deliveries.settle(session, owed, tried, verdict, self._patience)
                )
            except DatabaseAway:
                if self._stopping or time.monotonic() + wait > deadline:
                    break
                await asyncio.sleep(wait)
        return False

    async def _in_database(self, work: Callable[[Session], Returned]) -> Returned:
        def transact() -> Returned:
            with self._database.transaction() as session:
                return work(session)

        return await asyncio.get_running_loop().run_in_executor(self._threads, transact)


async def deliver(settings: Settings) -> None:
    """Run a deliverer until SIGTERM or SIGINT."""
    database = Database.open(settings, "poxvisio_worker")
    async with Egress(seconds=settings.webhook_timeout, loopback=settings.webhook_loopback) as egress:
        deliverer = Deliverer(settings, database, egress, Patience())
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, deliverer.stop)
        log.info("deliverer_ready")
        await deliverer.run()
    database.close()


def main() -> None:
    """Run a deliverer with the environment's settings until it is told to stop."""
    try:
        settings = Settings.load()
    except InvalidSetting as error:
        print(f"poxvisio deliverer: {error}", file=sys.stderr)
        sys.exit(2)
    logs.configure(settings.log_level)
    crash_points.arm(settings.crash_point)
    heap.settle()
    asyncio.run(deliver(settings))
    sys.stderr.flush()
    # Everything is settled; a look-up of a name with dead DNS may still hold its thread, and must not hold the exit.
    os._exit(0)


if __name__ == "__main__":
    main()
