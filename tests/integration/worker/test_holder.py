"""Names of lease holders, and releasing the leases of the dead."""

import subprocess
import sys
from uuid import UUID

import psutil
import pytest
import sqlalchemy as sa

from shared.database import Database
from shared.ledger.claim import claim
from tests.integration.worker.conftest import Submit, photo
from worker import holder
from worker.holder import holder_name, host_name, is_alive, release_dead


def sleeper() -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


def name_of(process: "subprocess.Popen[bytes]") -> str:
    return f"{host_name()}/{process.pid}/{holder._started(process.pid)}"


def test_a_process_knows_itself_to_be_alive() -> None:
    assert is_alive(holder_name())


def test_a_pid_used_again_is_another_process() -> None:
    host, pid, started = holder_name().rsplit("/", 2)
    assert not is_alive(f"{host}/{pid}/{started}0")


def test_setting_the_clock_kills_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    name = holder_name()
    real = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: real(process) + 30)
    assert is_alive(name)


def test_a_killed_process_that_nobody_has_waited_for_is_dead() -> None:
    process = sleeper()
    name = name_of(process)
    assert is_alive(name)
    process.kill()
    psutil.wait_procs([psutil.Process(process.pid)], timeout=0.1)
    while psutil.pid_exists(process.pid) and psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        pass
    assert not is_alive(name)
    process.wait()


def test_only_the_leases_of_dead_processes_of_this_host_are_released(
    submit_photos: Submit, worker_db: Database, owner_db: Database, tenant: UUID
) -> None:
    submit_photos([photo(1)] * 4)
    for _ in range(2):
        submit_photos([photo(1)])
    dead = sleeper()
    dead_name = name_of(dead)
    dead.kill()
    dead.wait()
    holders = [dead_name, holder_name(), "another-host/1/1"]
    for name in holders:
        with worker_db.transaction() as session:
            assert len(claim(session, name, units=1, lease_seconds=600)) == 1

    assert release_dead(worker_db) == 1

    with owner_db.transaction() as session:
        leased = session.execute(sa.text("SELECT leased_by FROM unit WHERE state = 'leased'")).scalars().all()
        split = session.execute(sa.text("SELECT n, crashes FROM unit WHERE state IN ('ready', 'split')")).all()
    assert sorted(leased) == sorted(holders[1:])
    assert all(row.crashes == 1 for row in split)
