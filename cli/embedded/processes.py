"""Who is alive: the embedded servers are known by their pid, their name and the directory they work in."""

import contextlib
import fcntl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

TRIES = 3  # of starting a server, since a port that was free may be gone a moment later

# A server outlives the object that started it; its parent must still reap it one day.
_started: list[subprocess.Popen[bytes]] = []


def keep(server: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
    """Remember a server for as long as this process lives, and forget those that ended."""
    _started[:] = [known for known in _started if known.poll() is None] + [server]
    return server


def lives_in(pid: int, name: str, directory: Path) -> bool:
    """Whether this pid is a live process of that name working in that directory.

    Zombies and reused pids are not; neither is a shell that somebody opened there.
    """
    try:
        process = psutil.Process(pid)
        gone = process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        return not gone and process.name() == name and process.cwd() == str(directory)
    except psutil.Error:
        return False


def inhabitants(name: str, directory: Path) -> list[int]:
    """Every live process of that name working in that directory."""
    return [pid for pid in psutil.pids() if lives_in(pid, name, directory)]


def wait_until(condition: Callable[[], bool], timeout: float, pause: float = 0.05) -> bool:
    """Poll a condition; says whether it came true within ``timeout`` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
    return True


@contextlib.contextmanager
def exclusively(path: Path) -> Iterator[None]:
    """Hold a lock file; of several starters one starts, the others wait and adopt."""
    with path.open("w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def tail(path: Path, lines: int = 12) -> str:
    """Return the end of a log, for an error message."""
    try:
        return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
