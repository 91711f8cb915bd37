"""A pool child: it serves what the bundle says, or says why it cannot; nothing is ever made up."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
import sqlalchemy as sa
from safetensors.numpy import load_file, save_file

from shared import history
from shared.broker import Broker
from shared.bundle import CARD, PARITY
from shared.database import Database
from shared.settings import Settings
from shared.views import JobView
from tests.integration.worker.conftest import BUNDLE, Submit, photo
from training.publish import write_card
from worker import process
from worker.process import WorkerProcess
from worker.tokens import Tokens


@pytest.fixture
def own_bundle(tmp_path: Path) -> Path:
    """Return a copy of the demo bundle without its weights; they can be put in place later."""
    folder = tmp_path / "bundle"
    shutil.copytree(BUNDLE, folder, ignore=shutil.ignore_patterns("photos", "weights.safetensors"))
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for compiled networks: each bundle has its own in it."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def child(
    settings: Settings, worker_url: str, own_bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[WorkerProcess]:
    monkeypatch.setattr(process, "_RELOAD_SECONDS", 0.0)
    monkeypatch.setattr(process, "Tokens", partial(Tokens, seconds=0.0))
    own = settings.model_copy(
        update={
            "model": own_bundle,
            "database_url": type(settings.database_url)(worker_url),
            "cache_dir": cache,
            "precision": "f32",
            "decoders": 1,
        }
    )
    child = WorkerProcess(own)
    yield child
    child.close()


def put_weights(bundle: Path) -> None:
    os.link(BUNDLE / "weights.safetensors", bundle / "weights.safetensors")


def node(owner_db: Database) -> tuple[str, str | None]:
    with owner_db.transaction() as session:
        row = session.execute(sa.text("SELECT state, problem FROM worker_node")).one()
    return row.state, row.problem


def becomes_ready(owner_db: Database) -> None:
    """Wait for the report, which a thread makes that no drain waits for."""
    end = time.monotonic() + 20
    while node(owner_db) != ("ready", None):
        assert time.monotonic() < end
        time.sleep(0.02)


def engine_of(owner_db: Database) -> str | None:
    with owner_db.transaction() as session:
        engine: str | None = session.execute(sa.text("SELECT engine FROM worker_node")).scalar_one()
    return engine


def job_of(app_db: Database, tenant: UUID, job: UUID) -> JobView:
    with app_db.transaction(tenant) as session:
        return history.job(session, job)


def test_without_its_bundle_jobs_wait_and_are_answered_when_it_is_there_and_its_end_takes_its_row_along(
    child: WorkerProcess, own_bundle: Path, submit_photos: Submit, app_db: Database, owner_db: Database, tenant: UUID
) -> None:
    job = submit_photos([photo(1), b"no photo"])
    child.start()
    child.drain()
    waiting = job_of(app_db, tenant, job)
    assert (waiting.state, waiting.counts["waiting"]) == ("queued", 2)
    state, problem = node(owner_db)
    assert state == "setup failed"
    assert problem is not None
    assert "weights.safetensors" in problem

    put_weights(own_bundle)
    child.drain()
    assert job_of(app_db, tenant, job).state == "completed"
    becomes_ready(owner_db)
    child.close()
    with owner_db.transaction() as session:
        assert session.execute(sa.text("SELECT count(*) FROM worker_node")).scalar_one() == 0


def test_a_child_that_has_worked_takes_the_next_token_itself(
    child: WorkerProcess,
    own_bundle: Path,
    submit_photos: Submit,
    app_db: Database,
    tenant: UUID,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put_weights(own_bundle)
    monkeypatch.setattr(child, "_tokens", Tokens(settings, seconds=600.0))
    child.start()
    with ThreadPoolExecutor(1) as pool, closing(Broker(settings)) as broker:
        draining = pool.submit(child.drain)
        for seed in (1, 2):
            job, end = submit_photos([photo(seed)]), time.monotonic() + 60
            assert broker.wake(["interactive"])
            while job_of(app_db, tenant, job).state != "completed":
                assert time.monotonic() < end
                time.sleep(0.02)
        assert not draining.done()
        child.stop()
        draining.result(20)


def test_a_child_whose_parent_is_gone_takes_no_token(
    child: WorkerProcess, own_bundle: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_weights(own_bundle)
    monkeypatch.setattr(child, "_tokens", Tokens(settings, seconds=600.0))
    child.start()
    monkeypatch.setattr("worker.process.os.getppid", lambda: 1)
    with ThreadPoolExecutor(1) as pool:
        draining = pool.submit(child.drain)
        try:
            draining.result(20)
        finally:
            child.stop()


def test_an_altered_bundle_answers_nothing(
    child: WorkerProcess, own_bundle: Path, submit_photos: Submit, app_db: Database, owner_db: Database, tenant: UUID
) -> None:
    altered = bytearray((BUNDLE / "weights.safetensors").read_bytes())
    altered[-1] ^= 1
    (own_bundle / "weights.safetensors").write_bytes(altered)
    job = submit_photos([photo(1)])
    child.start()
    child.drain()
    assert job_of(app_db, tenant, job).counts["waiting"] == 1
    assert node(owner_db)[0] == "setup failed"


def test_an_engine_that_fails_its_parity_check_answers_nothing_and_says_so(
    child: WorkerProcess, own_bundle: Path, submit_photos: Submit, app_db: Database, owner_db: Database, tenant: UUID
) -> None:
    """A bundle whole in itself, whose reference this engine does not meet; then the one it meets."""
    put_weights(own_bundle)
    reference = load_file(own_bundle / PARITY)
    away = np.array([0.5, 0.0], dtype=np.float32)
    save_file({**reference, "logits": reference["logits"] + away}, own_bundle / PARITY)
    card = json.loads((BUNDLE / CARD).read_text(encoding="utf-8"))
    write_card(own_bundle, card)
    job = submit_photos([photo(1)])
    child.start()
    child.drain()
    assert job_of(app_db, tenant, job).counts["waiting"] == 1
    state, problem = node(owner_db)
    assert state == "setup failed"
    assert problem is not None
    assert "openvino in f32 differs from the reference" in problem
    assert engine_of(owner_db) is None

    shutil.copyfile(BUNDLE / PARITY, own_bundle / PARITY)
    write_card(own_bundle, card)
    child.drain()
    assert job_of(app_db, tenant, job).state == "completed"
    becomes_ready(owner_db)
    assert engine_of(owner_db) == "openvino f32"
