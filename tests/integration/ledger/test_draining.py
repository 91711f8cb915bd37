"""Workers that die, sleep and wake up at random drain a queue: every photo gets exactly one outcome."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from shared.database import Database
from shared.ledger.claim import Claimed, claim, heartbeat
from shared.ledger.complete import Deferred, complete
from shared.ledger.reap import give_back
from shared.ledger.sweep import disagreements, sweep
from tests.conftest import make_tenant
from tests.integration.ledger.factories import answers, check_invariants, leases, rows, submit_job

WORKERS = 4
LEASE = 0.5
DEADLINE = 60.0


class Worker:
    """Claims until everything is answered; what it does with a claim is drawn by lot."""

    def __init__(self, database: Database, name: str, seed: int, stopping: threading.Event) -> None:
        self._database = database
        self._name = name
        self._chance = random.Random(f"{seed} {name}")
        self._stopping = stopping
        # Each worker dies over its first claim, so that no draw is without a death.
        self._lives = False
        self._asleep: list[list[Claimed]] = []
        self.zombies = 0

    def run(self) -> None:
        while not self._stopping.is_set():
            with self._database.transaction() as session:
                units = claim(session, self._name, units=self._chance.choice([1, 2, 4]), lease_seconds=LEASE)
            if units:
                self._act(units)
            else:
                sweep(self._database)
                self._wake_up()
                self._stopping.wait(0.02)
        self._wake_up()

    def _act(self, units: list[Claimed]) -> None:
        what = self._chance.random() if self._lives else 0.0
        self._lives = True
        if what < 0.06:
            return  # killed: nobody hears of the lease again
        if what < 0.12:
            self._asleep.append(units)  # stopped: it completes when it wakes up, perhaps too late
            return
        with self._database.transaction() as session:
            if what < 0.20:
                give_back(session, leases(units))
            elif what < 0.30:
                self._defer_one(session, units)
            else:
                assert heartbeat(session, leases(units), LEASE) <= {unit.id for unit in units}
                complete(session, leases(units), answers(units))

    def _defer_one(self, session, units: list[Claimed]) -> None:  # type: ignore[no-untyped-def]
        outcomes = answers(units)
        late = outcomes.pop(self._chance.randrange(len(outcomes)))
        complete(session, leases(units), outcomes, [Deferred(late.unit_id, late.ordinal, 0.05)])

    def _wake_up(self) -> None:
        for units in self._asleep:
            with self._database.transaction() as session:
                done = complete(session, leases(units), answers(units, "abstained"))
            self.zombies += len(done.units) < len(units)
        self._asleep.clear()


def test_every_photo_gets_one_outcome_whoever_dies(
    owner_db: Database, app_db: Database, worker_db: Database, tenant: UUID
) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    tenants = [tenant, make_tenant(owner_db, "second clinic"), make_tenant(owner_db, "third clinic")]
    sizes = [1] * 8 + [40] * 6 + [250, 350, 500, 652]
    chance.shuffle(sizes)
    for size in sizes:
        submit_job(app_db, chance.choice(tenants), size)
    stopping = threading.Event()
    workers = [Worker(worker_db, f"host/{number}", seed, stopping) for number in range(WORKERS)]
    end = time.monotonic() + DEADLINE
    with ThreadPoolExecutor(WORKERS) as pool:
        running = [pool.submit(worker.run) for worker in workers]
        try:
            while rows(owner_db, "SELECT 1 FROM job WHERE closed_at IS NULL LIMIT 1"):
                check_invariants(owner_db, f"seed {seed}")
                assert time.monotonic() < end, f"seed {seed}: not drained in time"
                for worker in running:
                    if worker.done():
                        worker.result()
                stopping.wait(0.2)
        finally:
            stopping.set()
        for worker in running:
            worker.result(30)

    check_invariants(owner_db, f"seed {seed}")
    [(images, results)] = rows(owner_db, "SELECT (SELECT count(*) FROM image), (SELECT count(*) FROM result)")
    assert images == results == sum(sizes) == 2000, f"seed {seed}"
    with worker_db.transaction() as session:
        assert disagreements(session) == [], f"seed {seed}"
    told = "SELECT job_id, kind, count(*) FROM event WHERE kind <> 'job.progress' GROUP BY job_id, kind"
    once = rows(owner_db, f"{told} HAVING count(*) <> 1")
    assert once == [], f"seed {seed}"
    gaps = rows(owner_db, "SELECT tenant_id FROM event GROUP BY tenant_id HAVING max(seq) <> count(*)")
    assert gaps == [], f"seed {seed}"
    crashed = rows(owner_db, "SELECT 1 FROM unit WHERE crashes > 0")
    assert crashed, f"seed {seed}: nobody died"
