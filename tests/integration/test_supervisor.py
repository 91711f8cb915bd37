"""The supervisor with small stand-in children and the real Valkey."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cli.embedded.processes import wait_until
from cli.embedded.valkey import EmbeddedValkey
from cli.programs import KINDS, Program
from cli.stopping import Stopping, StopRequests
from cli.supervisor import Pids, Supervisor
from shared.errors import DatabaseAway

ROOT = Path(__file__).parents[2]

# Says in its own file that it runs, and in the common one that it was asked to finish.
OBEDIENT = """
import os, pathlib, signal, sys, time
name, folder = sys.argv[1], pathlib.Path(sys.argv[2])
def finish(*_):
    with open(folder / "finished", "a") as finished: finished.write(name + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, finish)
with open(folder / name, "a") as started: started.write(f"{os.getpid()}\\n")
while True: time.sleep(0.05)
"""
STUBBORN = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[2], sys.argv[1]).write_text(str(os.getpid()))
while True: time.sleep(60)
"""
# Has a child of its own, as a Celery parent has.
PARENT = """
import os, pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path(sys.argv[2], sys.argv[1]).write_text(str(child.pid))
time.sleep(600)
"""

Build = Callable[..., Supervisor]


def program(folder: Path, kind: str, code: str = OBEDIENT, name: str = "", patience: float = 20.0) -> Program:
    name = name or kind
    return Program(name, kind, (sys.executable, "-c", code, name, str(folder)), os.environ, patience)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    with contextlib.ExitStack() as stack:

        def make(*programs: Program, deaths: Callable[[str], None] = lambda _: None, **more: Any) -> Supervisor:
            requests = stack.enter_context(StopRequests())
            made = Supervisor(tmp_path / "logs", requests, on_worker_death=deaths, **more)
            stack.callback(made.drain)
            made.start(programs)
            assert made.run_until(lambda: all((tmp_path / one.name).exists() for one in programs), 30)
            return made

        yield make


def test_a_dead_child_comes_back_after_a_pause_that_doubles(build: Build, tmp_path: Path) -> None:
    said: list[str] = []
    supervisor = build(program(tmp_path, "web"), say=said.append)
    for starts in (2, 3):
        os.kill(supervisor.pids()["web"][0], signal.SIGKILL)
        assert supervisor.run_until(lambda starts=starts: len(lines(tmp_path / "web")) == starts, 30)  # type: ignore[misc]  # mypy cannot type a default
    assert [line.split(" (")[0] for line in said] == [
        "web was killed by signal 9; again in 0.5 s",
        "web was killed by signal 9; again in 1.0 s",
    ]


def test_a_dead_workers_group_is_killed_before_its_leases_are_released(build: Build, tmp_path: Path) -> None:
    orphans: list[bool] = []
    released: list[str] = []

    def release(name: str) -> None:
        released.append(name)
        orphans.append(wait_until(lambda: not alive(int((tmp_path / "worker1").read_text())), 5))

    supervisor = build(program(tmp_path, "worker", PARENT, "worker1"), deaths=release)
    os.kill(supervisor.pids()["worker"][0], signal.SIGKILL)
    assert supervisor.run_until(lambda: bool(released), 10)
    assert (released, orphans) == (["worker1"], [True])


def test_a_worker_starts_again_only_when_its_leases_are_released(build: Build, tmp_path: Path) -> None:
    asked: list[int] = []

    def release(_: str) -> None:
        asked.append(len(lines(tmp_path / "worker1")))
        if len(asked) == 1:
            raise DatabaseAway("the database is out of reach")

    supervisor = build(program(tmp_path, "worker", name="worker1"), deaths=release)
    os.kill(supervisor.pids()["worker"][0], signal.SIGKILL)
    assert supervisor.run_until(lambda: len(lines(tmp_path / "worker1")) == 2, 20)
    assert asked == [1, 1]


def test_every_replacement_is_told_with_the_new_pids(build: Build, tmp_path: Path) -> None:
    told: list[Pids] = []
    supervisor = build(program(tmp_path, "web"), program(tmp_path, "sweep"), on_change=told.append)
    before = supervisor.pids()
    os.kill(before["sweep"][0], signal.SIGKILL)
    assert supervisor.run_until(lambda: bool(told) and bool(told[-1]["sweep"]), 20)
    assert told[-1] == supervisor.pids()
    assert told[-1]["web"] == before["web"]
    assert told[-1]["sweep"] != before["sweep"]


def test_draining_goes_web_worker_deliverer_sweep(build: Build, tmp_path: Path) -> None:
    supervisor = build(*(program(tmp_path, kind) for kind in reversed(KINDS)))
    supervisor.drain()
    assert lines(tmp_path / "finished") == ["web", "worker", "deliverer", "sweep", "metrics"]
    assert supervisor.pids() == {kind: [] for kind in KINDS}


def test_whoever_does_not_finish_in_time_is_killed_and_its_leases_released(build: Build, tmp_path: Path) -> None:
    said: list[str] = []
    released: list[str] = []
    stubborn = program(tmp_path, "worker", STUBBORN, patience=0.5)
    supervisor = build(stubborn, say=said.append, deaths=released.append)
    supervisor.drain()
    assert said == ["worker did not finish in time and was killed by signal 9"]
    assert released == ["worker"]


def test_a_second_interrupt_hurries(build: Build, tmp_path: Path) -> None:
    supervisor = build(program(tmp_path, "web", STUBBORN, patience=600.0), program(tmp_path, "sweep"))
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Stopping):
        supervisor.run_until(lambda: False, 10)
    os.kill(os.getpid(), signal.SIGTERM)  # a second SIGTERM is no hurry, an interrupt is
    os.kill(os.getpid(), signal.SIGINT)
    supervisor.drain()
    assert not alive(int((tmp_path / "web").read_text()))


def test_a_dead_service_is_started_again_at_its_address_and_stopped_last(
    build: Build, tmp_path: Path, services_dir: Path
) -> None:
    valkey = EmbeddedValkey(services_dir / "valkey")
    supervisor = build(program(tmp_path, "web"))
    url = supervisor.serve("valkey", valkey)
    before = valkey.pids()
    os.kill(before[0], signal.SIGKILL)
    assert supervisor.run_until(lambda: valkey.pids() not in ([], before), 20)
    assert valkey.start() == url
    supervisor.drain()
    assert valkey.pids() == []


@pytest.fixture
def lonely(tmp_path: Path, services_dir: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A supervisor in a process of its own, which keeps its pids in a file."""
    code = f"""
        import fcntl, json, os, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_supervisor import OBEDIENT, PARENT, STUBBORN, program
        from cli.embedded.valkey import EmbeddedValkey
        from cli.guard import Guard
        from cli.stopping import StopRequests
        from cli.supervisor import Supervisor
        folder = Path({str(tmp_path)!r})
        held = os.open(folder / "held", os.O_CREAT | os.O_RDWR)
        fcntl.flock(held, fcntl.LOCK_EX)
        def tell(pids):
            (folder / "pids.new").write_text(json.dumps(pids))
            (folder / "pids.new").rename(folder / "pids")
        with StopRequests() as requests:
            calls = {{"on_worker_death": print, "on_change": tell, "guard": Guard([held], [folder / "web"])}}
            made = Supervisor(folder / "logs", requests, **calls)
            made.serve("valkey", EmbeddedValkey(Path({str(services_dir)!r})))
            made.start([program(folder, "web"), program(folder, "worker", PARENT), program(folder, "sweep", STUBBORN)])
            tell(made.pids())
            made.run()
            made.drain()
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT)
    names = ("pids", "web", "worker", "sweep")
    assert wait_until(lambda: all((tmp_path / name).exists() for name in names), 30)
    yield process
    process.kill()
    process.wait()


def family(tmp_path: Path) -> list[int]:
    leaders = json.loads((tmp_path / "pids").read_text()).values()
    return [pid for pids in leaders for pid in pids] + [int((tmp_path / "worker").read_text())]


def test_nothing_is_left_behind_when_the_supervisor_itself_is_killed(
    lonely: subprocess.Popen[bytes], tmp_path: Path, services_dir: Path
) -> None:
    left = family(tmp_path)
    assert len(left) == 5
    assert all(map(alive, left))
    with (tmp_path / "held").open() as held:
        lonely.kill()
        with pytest.raises(BlockingIOError):
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the guard holds it on
        fcntl.flock(held, fcntl.LOCK_EX)
    assert wait_until(lambda: not any(map(alive, left)), 5)
    assert not (tmp_path / "web").exists()
    assert lines(tmp_path / "finished") == ["web"]  # it was asked before it was killed


def test_a_killed_guard_is_replaced(lonely: subprocess.Popen[bytes], tmp_path: Path) -> None:
    def guards() -> list[psutil.Process]:
        found = []
        for child in psutil.Process(lonely.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):  # a zombie among them, too
                if "guard.py" in str(child.cmdline()):
                    found.append(child)
        return found

    [first] = guards()
    first.kill()
    assert wait_until(lambda: guards() not in ([], [first]), 20)
    left = family(tmp_path)
    lonely.kill()
    assert wait_until(lambda: not any(map(alive, left)), 60)


def test_a_supervisor_killed_as_it_starts_its_guard_leaves_nothing() -> None:
    code = """
        import os, signal, subprocess, sys
        from cli import guard
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
        print(child.pid, flush=True)
        start = subprocess.Popen
        def start_and_die(*words, **more):
            start(*words, **more)
            os.kill(os.getpid(), signal.SIGKILL)
        subprocess.Popen = start_and_die
        guard.Guard().tell([child.pid], [])
    """
    done = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert done.stdout is not None
    pid = int(done.stdout.readline())
    assert done.wait(30) == -signal.SIGKILL
    done.stdout.close()
    assert wait_until(lambda: not alive(pid), 20)


def test_sigterm_ends_everything_and_the_supervisor_itself(lonely: subprocess.Popen[bytes], tmp_path: Path) -> None:
    left = family(tmp_path)
    os.kill(int((tmp_path / "sweep").read_text()), signal.SIGKILL)  # the stubborn one would take its whole patience
    lonely.terminate()
    assert lonely.wait(60) == 0
    assert not any(map(alive, left))
