"""``poxvisio up`` as a whole: one life after the other on the same data directory, whatever ended the one before."""

import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from cli.embedded.processes import wait_until

ROOT = Path(__file__).parents[2]
START_SECONDS = 120.0


class Life:
    """One run of ``poxvisio up``."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.ready_file = folder / "ready.json"
        self.said = folder / "said"
        with self.said.open("w") as said:
            self.process = subprocess.Popen(command(folder, port), cwd=ROOT, stdout=said)

    def facts(self) -> dict[str, Any]:
        def there() -> bool:
            assert self.process.poll() is None, self.said.read_text()
            return self.ready_file.exists()

        assert wait_until(there, START_SECONDS), self.said.read_text()
        found: dict[str, Any] = json.loads(self.ready_file.read_text())
        return found

    def pids(self, kind: str) -> list[int]:
        found: list[int] = self.facts()["pids"][kind]
        return found

    def everybody(self) -> list[psutil.Process]:
        leaders = [psutil.Process(pid) for pids in self.facts()["pids"].values() for pid in pids]
        return [*leaders, *(child for leader in leaders for child in leader.children(recursive=True))]

    def is_ready(self) -> bool:
        return status(self.facts()["url"], "/readyz") == 200


def command(folder: Path, port: int) -> list[str]:
    options = ["--data-dir", str(folder / "data"), "--port", str(port), "--ready-file", str(folder / "ready.json")]
    return [sys.executable, "-m", "cli.main", "up", *options]


def status(url: str, path: str) -> int:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that only this user may enter, as pytest makes them."""
    return tmp_path_factory.mktemp("up")


@pytest.fixture(scope="module")
def taken() -> Iterator[int]:
    """A port where somebody else listens."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


@pytest.fixture(scope="module")
def life(folder: Path, taken: int) -> Iterator[Life]:
    """A run that was told to take that port."""
    life = Life(folder, taken)
    yield life
    life.process.terminate()
    life.process.wait(120)


def port_of(life: Life) -> int:
    port = urlsplit(str(life.facts()["url"])).port
    assert port is not None
    return port


def metrics(url: str) -> str:
    """Return what is served there, nothing while nobody listens: the service does not wait for its metrics."""
    try:
        with urllib.request.urlopen(url, timeout=30) as told:
            text: str = told.read().decode()
            return text
    except urllib.error.URLError:
        return ""


def test_a_port_that_is_taken_gives_way_to_another(life: Life, taken: int) -> None:
    assert port_of(life) != taken
    assert f"port {taken} is taken; using {port_of(life)}" in life.said.read_text()


def test_the_ready_file_says_where_everything_is_and_who_runs_it(life: Life) -> None:
    facts = life.facts()
    assert urlsplit(facts["url"]).hostname == "127.0.0.1"
    assert facts["data_dir"] == str(life.folder / "data")
    assert {kind: len(pids) for kind, pids in facts["pids"].items()} == dict.fromkeys(
        ("postgres", "valkey", "web", "worker", "deliverer", "sweep", "metrics"), 1
    )
    assert wait_until(lambda: "poxvisio_database_up 1.0" in metrics(facts["metrics_url"]), 30)
    assert not any(map(gone, life.everybody()))
    assert (life.folder / "data/admin.key").read_text().strip() == facts["api_key"]
    for secret in (life.ready_file, life.folder / "data/admin.key", life.folder / "data/secrets.json"):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert life.is_ready()


def test_no_secret_is_on_a_command_line(life: Life) -> None:
    secrets = [*json.loads((life.folder / "data/secrets.json").read_text()).values(), life.facts()["api_key"]]
    secrets += [urlsplit(life.facts()[url]).password for url in ("database_url", "broker_url")]
    shown = " ".join(" ".join(process.cmdline()) for process in life.everybody())
    assert not [secret for secret in secrets if secret in shown]


def test_a_second_one_on_the_same_data_is_refused(life: Life) -> None:
    other = command(life.folder, port_of(life))
    other[other.index("--ready-file") + 1] = str(life.folder / "other.json")
    second = subprocess.run(other, cwd=ROOT, capture_output=True, text=True, check=False)
    assert second.returncode == 3
    assert f"runs in {life.folder / 'data'} already, as process {life.process.pid}" in second.stderr
    assert life.is_ready()


@pytest.mark.parametrize("kind", ["web", "worker", "valkey", "postgres"])
def test_what_is_killed_is_replaced_and_the_ready_file_says_by_whom(life: Life, kind: str) -> None:
    [before] = life.pids(kind)
    others = {other: pids for other, pids in life.facts()["pids"].items() if other != kind}
    os.kill(before, signal.SIGKILL)
    assert wait_until(lambda: life.pids(kind) not in ([], [before]), 60)
    assert wait_until(life.is_ready, 60)
    assert {other: pids for other, pids in life.facts()["pids"].items() if other != kind} == others


def test_after_a_kill_of_the_whole_the_next_one_goes_on_with_the_same_data(life: Life, folder: Path) -> None:
    before, port = life.facts(), port_of(life)
    left = life.everybody()
    life.process.kill()
    life.process.wait()
    assert wait_until(lambda: not life.ready_file.exists(), 20)  # what it says is no longer so
    following = Life(folder, port)
    try:
        facts = following.facts()
        assert all(map(gone, left))
        # Nobody named a port for the metrics here, so each life takes a free one.
        changing = {"pids", "metrics_url"}
        assert {name: facts[name] for name in facts.keys() - changing} == {
            name: before[name] for name in before.keys() - changing
        }
        assert following.is_ready()
        family = following.everybody()
    finally:
        following.process.terminate()
        code = following.process.wait(120)
    assert code == 0
    assert wait_until(lambda: all(map(gone, family)), 5)
    assert not following.ready_file.exists()
