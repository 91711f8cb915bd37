"""Known answers through storage, ledger, decoder and network, and what is told when they come back otherwise."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.exc import ProgrammingError

from shared import accounts, events
from shared.bundle import CALIBRATION, CARD
from shared.database import Database
from shared.errors import StorageAway
from shared.ledger.submit import NewImage, NewJob, submit
from shared.registry import heartbeats
from shared.registry.heartbeats import DRIFT, SYSTEM
from shared.settings import Settings
from shared.storage import Storage
from tests.conftest import make_tenant
from tests.integration.worker.conftest import Worker
from training.publish import write_card
from worker.heartbeat import Heartbeat
from worker.inference.answers import Calibration
from worker.inference.classifier import Classifier
from worker.inference.engine import Engine, Outputs

Beat = Callable[..., Heartbeat]


class Drifted:
    """An engine whose first logit went off by a little after it was checked."""

    def __init__(self, engine: Engine, by: float) -> None:
        self._engine, self._by = engine, by
        self.name, self.precision, self.measured = engine.name, engine.precision, engine.measured
        self.first_met = engine.first_met

    def infer(self, batch: NDArray[np.uint8]) -> Outputs:
        found = self._engine.infer(batch)
        return dataclasses.replace(found, logits=found.logits + np.array([self._by, 0.0], dtype=np.float32))


def drifted(sound: Classifier, by: float) -> Classifier:
    return Classifier(sound.bundle, Drifted(sound.engine, by), Calibration.of(sound.bundle))


@pytest.fixture
def make_heartbeat(settings: Settings, worker_db: Database, storage: Storage) -> Beat:
    def run(seconds: float = 300.0, default: Path = settings.model) -> Heartbeat:
        return Heartbeat(worker_db, storage, lambda _: None, default=default, cache=settings.cache_dir, seconds=seconds)

    return run


def another_bundle(like: Path, folder: Path) -> Path:
    """Write a bundle of another digest."""
    shutil.copytree(like, folder, ignore=shutil.ignore_patterns("photos"))
    sealed = json.loads((folder / CALIBRATION).read_text()) | {"id": "another"}
    (folder / CALIBRATION).write_text(json.dumps(sealed))
    write_card(folder, json.loads((folder / CARD).read_text()) | {"id": "another"})
    return folder


@pytest.fixture
def operator(owner_db: Database, tenant: UUID) -> UUID:
    """Return a tenant with a say in what serves."""
    with owner_db.transaction(tenant) as session:
        accounts.create_key(session, tenant, "operator", ["models"])
    return tenant


def states(database: Database) -> list[str]:
    with database.transaction() as session:
        return list(session.execute(sa.text("SELECT state FROM heartbeat ORDER BY id")).scalars())


def told(app_db: Database, tenant: UUID) -> list[str]:
    with app_db.transaction(tenant) as session:
        return [event.body["why"] for event in events.since(session, 0) if event.kind == DRIFT]


def again(owner_db: Database) -> None:
    """Let the last round be long ago."""
    with owner_db.transaction() as session:
        session.execute(sa.text("UPDATE heartbeat SET sent_at = sent_at - interval '10 minutes'"))


def test_known_answers_come_back_and_nothing_of_them_stays(
    make_heartbeat: Beat, make_worker: Worker, owner_db: Database, app_db: Database, operator: UUID, storage: Storage
) -> None:
    heartbeat = make_heartbeat()
    assert heartbeat.send() == 1
    assert (heartbeat.send(), make_heartbeat().send()) == (0, 0), "one round at a time, whoever sends"
    heartbeat.settle()
    assert states(owner_db) == ["waiting"]
    assert make_worker().drain() == 4
    heartbeat.settle()
    assert states(owner_db) == ["good"]
    with owner_db.transaction() as session:
        for table in ("job", "image", "unit", "result", "event"):
            assert session.scalar(sa.text(f"SELECT count(*) FROM {table}")) == 0, table
        difference = session.scalar(sa.text("SELECT difference FROM heartbeat"))
    assert 0 <= difference < 1e-4
    assert [item.key for item in storage.list("")] == []
    assert told(app_db, operator) == []
    assert heartbeat.send() == 0, "the next one is not due yet"
    again(owner_db)
    assert heartbeat.send() == 1


def test_an_answer_that_moved_is_told_once_to_those_who_say_what_serves(
    make_heartbeat: Beat, make_worker: Worker, network: Classifier, owner_db: Database, app_db: Database,
    operator: UUID,
) -> None:  # fmt: skip
    clinic = make_tenant(owner_db, "a clinic without a say")
    with owner_db.transaction(clinic) as session:
        accounts.create_key(session, clinic, "laptop", ["jobs:read", "admin"])
    worker, heartbeat = make_worker(network=drifted(network, 0.3)), make_heartbeat()
    for _ in range(2):
        assert heartbeat.send() == 1
        worker.drain()
        heartbeat.settle()
        again(owner_db)
    assert states(owner_db) == ["moved", "moved"]
    assert told(app_db, operator) == ["moved"]
    assert told(app_db, clinic) == []


def test_a_move_within_the_tolerance_of_the_precision_is_none(
    make_heartbeat: Beat, make_worker: Worker, network: Classifier, owner_db: Database
) -> None:
    heartbeat = make_heartbeat()
    heartbeat.send()
    make_worker(network=drifted(network, 0.01)).drain()
    heartbeat.settle()
    assert states(owner_db) == ["good"], "the bundle was proved in bf16, whose tolerance is a hundredth"


def test_answers_that_do_not_come_are_told_and_forgotten_when_they_do(
    make_heartbeat: Beat, make_worker: Worker, owner_db: Database, app_db: Database, operator: UUID
) -> None:
    heartbeat = make_heartbeat(30.0)
    heartbeat.send()
    heartbeat.settle()
    assert states(owner_db) == ["waiting"]
    again(owner_db)
    heartbeat.settle()
    heartbeat.settle()
    assert heartbeat.send() == 0, "no second one is put on the heap"
    assert (states(owner_db), told(app_db, operator)) == (["late"], ["late"])
    make_worker().drain()
    heartbeat.settle()
    with owner_db.transaction() as session:
        assert session.scalar(sa.text("SELECT count(*) FROM job")) == 0
    assert heartbeat.send() == 1


def test_another_process_settles_what_one_that_died_had_sent(
    make_heartbeat: Beat, make_worker: Worker, owner_db: Database
) -> None:
    make_heartbeat().send()
    make_worker().drain()
    make_heartbeat().settle()
    assert states(owner_db) == ["good"]


def test_a_round_whose_bundle_is_gone_is_told_and_holds_up_no_further_one(
    make_heartbeat: Beat, make_worker: Worker, owner_db: Database, app_db: Database, operator: UUID, settings: Settings,
    tmp_path: Path,
) -> None:  # fmt: skip
    make_heartbeat().send()
    make_worker().drain()
    heartbeat = make_heartbeat(default=another_bundle(settings.model, tmp_path / "another"))
    heartbeat.settle()
    assert (states(owner_db), told(app_db, operator)) == (["failed"], ["failed"])
    again(owner_db)
    assert heartbeat.send() == 1


def test_what_is_told_names_no_folder_of_the_machine(
    make_heartbeat: Beat, make_worker: Worker, app_db: Database, operator: UUID, tmp_path: Path
) -> None:
    make_heartbeat().send()
    make_worker().drain()
    make_heartbeat(default=tmp_path / "nowhere").settle()
    with app_db.transaction(operator) as session:
        [drift] = [event.body for event in events.since(session, 0) if event.kind == DRIFT]
    assert drift["problem"]
    assert "nowhere" not in str(drift)


def test_a_canary_whose_bundle_is_gone_does_not_silence_the_live_model(
    make_heartbeat: Beat, owner_db: Database
) -> None:
    with owner_db.transaction() as session:
        given = {"digest": "ab" * 32}
        session.execute(
            sa.text("""
                INSERT INTO model (digest, id, card, labels, clinical, synthetic, bytes, state)
                VALUES (:digest, 'gone', '{}', '{a,b}', false, true, 1, 'ready')
            """), given
        )  # fmt: skip
        session.execute(
            sa.text("INSERT INTO model_serving (version, canary, canary_share) VALUES (1, :digest, 0.5)"), given
        )
    assert make_heartbeat().send() == 1
    assert states(owner_db) == ["waiting"]


class Clock:
    """A thread's waiting and its clock in one: it writes the pauses down, and ends the thread after so many."""

    def __init__(self, pauses: int) -> None:
        self.now, self.left = 0.0, pauses
        self.pauses: list[float] = []
        self.at: dict[int, Callable[[], object]] = {}

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        self.now += seconds
        self.at.get(len(self.pauses), lambda: None)()
        return len(self.pauses) == self.left


def test_rounds_that_cannot_be_sent_are_tried_ever_more_seldom_until_one_can(
    make_heartbeat: Beat, owner_db: Database, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, seconds = Clock(pauses=30), 20.0
    heartbeat = make_heartbeat(seconds, default=tmp_path / "bundle")
    monkeypatch.setattr("worker.heartbeat.time", clock)
    monkeypatch.setattr(heartbeat, "_stopping", clock)
    clock.at[27] = lambda: shutil.copytree(settings.model, tmp_path / "bundle")
    heartbeat.run()
    assert clock.pauses[:20] == [1.0] * 20, "no round is due"
    for pause, middle in zip(clock.pauses[20:27], [2, 4, 8, 16, 20, 20, 20], strict=True):
        assert 0.8 * middle <= pause <= min(1.2 * middle, seconds)
    assert clock.pauses[27:] == [1.0] * 3
    assert states(owner_db) == ["waiting"]


def test_a_storage_that_is_away_holds_up_the_end_of_a_round_and_no_verdict(
    make_heartbeat: Beat, make_worker: Worker, owner_db: Database, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(prefix: str) -> None:
        raise StorageAway(f"{prefix} cannot be reached")

    heartbeat = make_heartbeat()
    heartbeat.send()
    make_worker().drain()
    with monkeypatch.context() as patched, pytest.raises(StorageAway):
        patched.setattr(storage, "delete_prefix", away)
        heartbeat.settle()
    assert states(owner_db) == ["good"]
    assert [item.key for item in storage.list("")] != []
    heartbeat.settle()
    assert [item.key for item in storage.list("")] == []


def test_a_worker_submits_for_the_system_and_for_no_clinic(worker_db: Database, tenant: UUID) -> None:
    job = NewJob(tenant, tenant, None, "normal", [NewImage(tenant, 0, None, None, "k", bytes(32), 1)])
    with pytest.raises(ProgrammingError, match="row-level security"), worker_db.transaction() as session:
        submit(session, job)
    with worker_db.transaction() as session:
        heartbeats.make_tenant(session)
        submit(session, dataclasses.replace(job, tenant_id=SYSTEM))
