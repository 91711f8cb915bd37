"""The embedded Valkey through everything that may happen to it and to its owner."""

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import redis

from cli.embedded.valkey import EmbeddedValkey
from shared.errors import Refused

START = "import sys; from pathlib import Path; from cli.embedded.valkey import EmbeddedValkey as Server\n"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def base(services_dir: Path) -> Iterator[Path]:
    yield services_dir / "valkey"
    EmbeddedValkey(services_dir / "valkey").stop()


def put(url: str, value: str) -> None:
    with closing(redis.Redis.from_url(url)) as client:
        client.set("kept", value)
        client.waitaof(1, 0, 5000)


def get(url: str) -> object:
    with closing(redis.Redis.from_url(url)) as client:
        return client.get("kept")


def test_a_fresh_start_keeps_an_append_only_file_and_asks_for_its_password(base: Path) -> None:
    server = EmbeddedValkey(base)
    url = server.start()
    with closing(redis.Redis.from_url(url)) as client:
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("bind") == {"bind": "127.0.0.1"}
    with pytest.raises(redis.AuthenticationError), closing(redis.Redis(port=server.port or 0)) as stranger:
        stranger.ping()
    for secret in ("password", "valkey.conf"):
        assert stat.S_IMODE((base / secret).stat().st_mode) == 0o600


def test_a_second_start_keeps_data_port_and_password(base: Path) -> None:
    url = EmbeddedValkey(base).start()
    put(url, "seven")
    EmbeddedValkey(base).stop()
    assert EmbeddedValkey(base).pids() == []
    assert EmbeddedValkey(base).start() == url
    assert get(url) == b"seven"


def test_a_killed_server_comes_back_on_its_port_with_its_data(base: Path) -> None:
    server = EmbeddedValkey(base)
    url = server.start()
    put(url, "seven")
    before = server.pids()
    os.kill(before[0], signal.SIGKILL)
    assert server.start() == url
    assert server.pids() != before
    assert get(url) == b"seven"


def test_a_server_whose_owner_was_killed_is_adopted_and_can_be_stopped(base: Path) -> None:
    program = START + "print(Server(Path(sys.argv[1])).start(), flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program, str(base)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout
        url = owner.stdout.readline().strip()
        owned = EmbeddedValkey(base).pids()
        owner.kill()
    adopter = EmbeddedValkey(base)
    assert adopter.start() == url
    assert adopter.pids() == owned
    adopter.stop()
    assert adopter.pids() == []


def test_of_four_starters_at_once_one_starts_and_the_others_adopt(base: Path) -> None:
    program = START + "print(Server(Path(sys.argv[1])).start())"

    def starter(_: int) -> str:
        command = [sys.executable, "-c", program, str(base)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    with ThreadPoolExecutor(4) as pool:
        urls = set(pool.map(starter, range(4)))
    assert len(urls) == 1
    assert (base / "log").read_text().count("Ready to accept connections") == 1


def test_a_wanted_port_that_is_taken_is_refused_by_name(base: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(Refused, match=f"port {port} of 127.0.0.1 is taken"):
            EmbeddedValkey(base, port=port).start()
    assert f":{port}/" in EmbeddedValkey(base, port=port).start()


def test_a_folder_with_odd_characters_in_its_name_will_do(services_dir: Path) -> None:
    server = EmbeddedValkey(services_dir / 'a "b" c\\d é')
    try:
        put(server.start(), "seven")
    finally:
        server.stop()
